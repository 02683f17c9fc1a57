"""Where a command leaves its metric: a key of a JSON, JSONL or CSV file, or a pattern in text that it printed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, nearest, show
from regimes.study.command import numbers
from regimes.study.command.left import Left
from regimes.study.foreign.rows import cell, flat

#: Endings of files, and how they are read.
TABLES, TEXTS = (".json", ".jsonl", ".ndjson", ".csv"), (".txt", ".log")
Row = dict[str, Any]


class Unread(RegimesError):
    """A command ended well, but what it left does not hold its metric."""


@dataclass(frozen=True)
class Measured:
    """A number in a file that a command writes.

    Parameters
    ----------
    file : str
        Its path; it begins with ``{out}/``, the run's folder.
    key : str
        Of an object or column (inner keys joined by dots), or of text a pattern between slashes with one group: where
        the group stands, a number is read whole (``2e-05``, ``nan``), whatever the group itself would take.
    step : str
        Key of the step, in files of several rows. Default "step".

    Examples
    --------
    >>> Measured.parse("{out}/log.jsonl:val.loss@iteration", "metric")
    Measured(file='{out}/log.jsonl', key='val.loss', step='iteration')
    >>> Measured.parse("{out}/stdout.txt:/val loss ([0-9.]+)/", "metric").key
    '/val loss ([0-9.]+)/'
    """

    file: str
    key: str
    step: str = "step"

    @classmethod
    def parse(cls, text: Any, key: str) -> Measured:
        """Read ``file:key``, ``file:key@step`` or ``file:/pattern/``.

        Raises
        ------
        DeclarationError
            If it is none of these, or a place that runs would share.
        """
        file, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
        ending = Path(file).suffix
        if not colon or not name or ending not in (*TABLES, *TEXTS):
            raise DeclarationError(
                f"got {show(text)}; allowed: a file that ends in {', '.join((*TABLES, *TEXTS))} and a key in it, such as "
                "'{out}/metrics.json:val_loss' or '{out}/stdout.txt:/val loss ([0-9.]+)/'",
                key,
            )
        if not file.startswith("{out}/") or ".." in Path(file).parts:
            raise DeclarationError(f"got '{file}', where all runs would write; begin it with {{out}}/", key)
        if ending in TEXTS:
            return cls(file, _pattern(name, key))
        found, at, step = name.partition("@")
        return cls(file, found, step if at else "step")

    @property
    def name(self) -> str:
        """The metric's name: the last part of its key, or the words of its pattern before the number."""
        if not self.key.startswith("/"):
            return self.key
        words = re.findall(r"[A-Za-z]\w*", self.key.split("(")[0])
        return "_".join(words) or "metric"

    def last(self, out: Path, left: Left | None = None) -> float:
        """Return the metric: that of the last row, or what the pattern finds last; NaN where the run diverged.

        Of a file whose rows tell steps, any row of the last step may hold it: loggers write train and validation apart.

        Parameters
        ----------
        out : Path
            The run's folder.
        left : Left, optional
            What an earlier attempt left there, which does not count.

        Raises
        ------
        Unread
            If the file is not there or not whole, or its end holds no number.
        """
        path = self._path(out)
        rows = self._read(path, Left() if left is None else left)
        told = [row[self.key] for row in self._end(rows) if self.key in row]
        if not told:
            some = any(self.key in row for row in rows)
            where = ", although rows before have it: an earlier value is not the run's" if some else self._hint(rows)
            raise Unread(f"{path} holds no '{self.key}'{' in its last row' if rows else ''}{where}")
        value = numbers.number(told[-1])
        if value is None:
            raise Unread(f"{path} holds {show(told[-1])} under '{self.key}' at its end, which is no number")
        return value

    def rows(self, out: Path) -> list[tuple[float, float]]:
        """Return (step, value) of every row that has a number; a step that is not told is the row's number, from 1.

        Raises
        ------
        Unread
            If the file is not there or not whole, holds no number, or a step that is none.
        """
        path = self._path(out)
        rows = self._read(path, Left())
        found = [(self._step(row), value) for row in rows if (value := numbers.number(row.get(self.key))) is not None]
        if not found:
            raise Unread(f"{path} holds no number under '{self.key}'{self._hint(rows)}")
        return [(place if step is None else step, value) for place, (step, value) in enumerate(found, 1)]

    def _end(self, rows: list[Row]) -> list[Row]:
        """The last row; where it tells a step, and another value than the metric, the last rows of that step together."""
        if not rows or self.key in rows[-1] or self._step(rows[-1]) is None:
            return rows[-1:]
        last = rows[-1][self.step]  # an epoch before may have counted to it, too
        return list(itertools.takewhile(lambda row: row.get(self.step) == last, reversed(rows)))[::-1]

    def _path(self, out: Path) -> Path:
        return out / self.file.removeprefix("{out}/")

    def _step(self, row: Row) -> float | None:
        told = row.get(self.step)
        step = numbers.number(told)
        if told is not None and (step is None or not math.isfinite(step)):
            raise Unread(f"{self.file} holds {show(told)} under '{self.step}', which is no step")
        return None if step is None else int(step) if step.is_integer() else step

    def _hint(self, rows: list[Row]) -> str:
        """What the file holds instead, where it has keys."""
        keys = {key for row in rows for key in row}
        return f"; {nearest(self.key, keys)}" if keys and not self.key.startswith("/") else ""

    def _read(self, path: Path, left: Left) -> list[Row]:
        """All rows; of a text one for each place that fits, under the pattern itself."""
        try:
            if left.unchanged(path):
                raise Unread(f"{path} was left by an earlier attempt, and this one did not write it")
            if path.suffix in TEXTS:
                text = left.beyond(path).decode("utf-8", errors="replace")
                return [{self.key: found} for found in numbers.tokens(self.key[1:-1], text)]
            text = left.beyond(path).decode("utf-8-sig")
            if path.suffix == ".csv" and len(text) < path.stat().st_size:  # appended to: the names stand at the top
                with open(path, encoding="utf-8-sig", newline="") as file:
                    text = text if text.startswith(first := file.readline()) else first + text
            return [flat(row) for row in _table(path.suffix, text)]
        except FileNotFoundError:
            raise Unread(f"the command ended with exit status 0, but wrote no {path}") from None
        except (ValueError, RecursionError, csv.Error) as why:
            raise Unread(f"{path} cannot be read: {why}") from None


def _table(ending: str, text: str) -> Iterable[Row]:
    """Rows of a table.

    Raises
    ------
    ValueError, csv.Error
        If a line is not whole: what was cut off could be the end of a number.
    """
    if ending == ".csv":
        return _csv(text)
    if ending == ".json":
        read = json.loads(text)
        return [row for row in (read if isinstance(read, list) else [read]) if isinstance(row, dict)]
    return list(_json_lines(text))


def _csv(text: str) -> list[Row]:
    if text and not text.endswith(("\n", "\r")):
        raise ValueError("its last line has no end, so that it may have been cut off")
    rows, reader = [], csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = list(reader.fieldnames or ())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"its first line names column '{twice}' {names.count(twice)} times")
    for number, row in enumerate(reader, 1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many cells as the first line")
        rows.append({name: value for name, told in row.items() if (value := cell(told)) is not None})
    return rows


def _json_lines(text: str) -> Iterable[Row]:
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:  # an object that can be read has its last brace: it is whole, whatever ends the line
            what = "is cut off: it has no end" if number == len(lines) else "is no JSON"
            raise ValueError(f"line {number} {what}") from None
        if isinstance(row, dict):
            yield row


def _pattern(name: str, key: str) -> str:
    if len(name) < 3 or not name[0] == name[-1] == "/":
        raise DeclarationError(f"got {show(name)}; allowed of text: a pattern between slashes with one group", key)
    try:
        numbers.check(name[1:-1])
    except ValueError as why:
        raise DeclarationError(f"got {show(name)}, {why}", key) from None
    return name
