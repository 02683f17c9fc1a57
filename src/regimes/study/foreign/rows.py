"""Runs as rows: from a DataFrame, from plain data, from a file, or from what a tracker keeps."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, show

#: How a cell of a text file says that there is no value.
EMPTY = ("", "NA", "N/A", "null", "None")


@dataclass(frozen=True)
class Rows:
    """Runs as rows of named cells; a cell that is missing is None.

    Parameters
    ----------
    rows : list of dict
    name : str
        Where they come from, for titles.
    step : str or None
        Column that tells the step, where rows are points of curves and the source says so itself.
    unfinished : dict
        What the source says of runs that did not end as they should, by their name in column ``run``.
    notes : tuple of str
        What should be known of how they were read.
    """

    rows: list[dict[str, Any]]
    name: str
    step: str | None = None
    unfinished: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order in which they first occur."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def digest(self) -> str:
        """Digest of the content."""
        text = json.dumps(self.rows, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows_of(frame: Any) -> Rows:
    """Return the rows of what people have.

    Parameters
    ----------
    frame : DataFrame, mapping of columns, sequence of mappings, path, or Rows
        A DataFrame or table of any library that narwhals knows (pandas, polars, pyarrow, modin ...); a path to a
        .csv, .tsv, .json or .jsonl file, or to what a tracker keeps (`regimes.study.foreign.trackers`).

    Raises
    ------
    DeclarationError
        If it is none of them, or holds no row.
    """
    found = _found(frame)
    if not found.rows:
        raise DeclarationError(f"got {found.name}, which holds no run", "frame")
    return found


def _found(frame: Any) -> Rows:
    if isinstance(frame, Rows):
        return frame
    if isinstance(frame, str | Path):
        return read(Path(frame))
    if isinstance(frame, Mapping):
        return _of_columns(frame)
    if isinstance(frame, Sequence):
        if not all(isinstance(row, Mapping) for row in frame):
            raise DeclarationError(
                "got a sequence that holds something else than mappings; allowed: one per run", "frame"
            )
        return Rows([dict(row) for row in frame], f"{len(frame)} rows")
    return _of_frame(frame)


def _of_columns(columns: Mapping[str, Any]) -> Rows:
    lists = {str(name): list(values) for name, values in columns.items()}
    if len(lists) < len(columns):
        raise DeclarationError(f"got columns {show(list(columns))}, of which two have one name", "frame")
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        raise DeclarationError(
            f"got columns of {min(lengths)} to {max(lengths)} cells; allowed: as many in each", "frame"
        )
    return Rows([dict(zip(lists, cells)) for cells in zip(*lists.values())], "a table")


def _of_frame(frame: Any) -> Rows:
    import narwhals

    try:
        table = narwhals.from_native(frame, eager_only=True)
        return Rows([dict(row) for row in table.rows(named=True)], "a DataFrame")
    except TypeError:
        raise DeclarationError(
            f"got {show(frame)}; allowed: a DataFrame, a mapping of columns, a list of rows, or a path", "frame"
        ) from None
    except ValueError as why:  # two columns of one name
        raise DeclarationError(
            f"got a DataFrame that cannot be read as rows: {' '.join(str(why).split())}", "frame"
        ) from None


def read(path: Path) -> Rows:
    """Read a file, the folder of a tracker, or all that a pattern finds of one.

    Raises
    ------
    DeclarationError
        If there is nothing that can be read.
    """
    if not path.exists() and not any(sign in str(path) for sign in "*?["):
        raise DeclarationError(f"there is no '{path}'", "frame")
    from regimes.study.foreign import trackers, wandb_export

    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json}
    if path.is_file() and path.suffix in readers and path.name != "trainer_state.json":
        try:
            return wandb_export.told(Rows(list(readers[path.suffix](path)), path.name))
        except (UnicodeDecodeError, csv.Error, ValueError) as why:
            raise DeclarationError(f"'{path}' cannot be read as {path.suffix[1:].upper()}: {why}", "frame") from None
    return trackers.read(path)


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=_delimiter(file, path.suffix), strict=True)
        names = Counter(name for name in reader.fieldnames or () if name)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"its first line names column '{twice[0]}' {names[twice[0]]} times")
        for row in reader:
            if None in row:
                raise ValueError(f"row {row} has more cells than the first line")
            yield {name: cell(text) for name, text in row.items()}


def _delimiter(file: Any, suffix: str) -> str:
    """What separates cells: what makes most columns of the first line, a comma where several do."""
    if suffix == ".tsv":
        return "\t"
    columns = dict.fromkeys((",", ";", "\t"), 0)
    for sign in columns:
        with contextlib.suppress(csv.Error):  # quotes that another sign would have to follow
            columns[sign] = len(next(csv.reader(file, delimiter=sign, strict=True), []))
        file.seek(0)
    return max(columns, key=lambda sign: columns[sign])


def cell(text: str | None) -> str | None:
    """Return the content of a text cell as it stands there, without the blanks around it; None where it is empty.

    Nothing is read as a number here: a label such as ``007`` or ``12e3456`` is no number, and only who asks for a
    column knows what it holds (`number_of`).

    Examples
    --------
    >>> cell(" 007"), cell("12e3456"), cell("NA")
    ('007', '12e3456', None)
    """
    return None if text is None or text.strip() in EMPTY else text.strip()


def number_of(content: Any) -> Any:
    """Return the number that a text reads as; all else as it is.

    Examples
    --------
    >>> number_of("3"), number_of("0.5"), number_of("nan"), number_of("adamw"), number_of(None)
    (3, 0.5, nan, 'adamw', None)
    """
    if isinstance(content, str):
        for convert in (int, float):
            try:
                return convert(content)
            except ValueError:
                continue
    return content


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            row = json.loads(line, object_pairs_hook=_object)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds {show(row)}, which is no object")
            yield flat(row)


def _json(path: Path) -> Iterator[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    if isinstance(found, dict) and all(isinstance(column, list) for column in found.values()):
        yield from _of_columns(found).rows
        return
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError("it holds neither a list of objects nor an object of columns")
    yield from map(flat, found)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"an object names '{twice}' twice")
    return found


def flat(row: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    """Return nested objects as one, their keys joined by dots.

    Examples
    --------
    >>> flat({"config": {"lr": 0.1, "opt": {"name": "sgd"}}, "loss": 2.0})
    {'config.lr': 0.1, 'config.opt.name': 'sgd', 'loss': 2.0}
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= flat(value, f"{lead}{name}.") if isinstance(value, Mapping) else {f"{lead}{name}": value}
    return found
