"""Where a command leaves its metric: a key of a JSON, JSONL or CSV file, or a pattern in text that it printed."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, nearest, show
from regimes.study.foreign.rows import cell, flat, number_of

#: Endings of files, and how they are read.
TABLES, TEXTS = (".json", ".jsonl", ".ndjson", ".csv"), (".txt", ".log")


@dataclass(frozen=True)
class Measured:
    """A number in a file that a command writes.

    Parameters
    ----------
    file : str
        Its path; ``{out}`` stands for the run's folder.
    key : str
        Of an object or column (inner keys joined by dots), or of text a pattern between slashes with one group.
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
            If it is none of these.
        """
        file, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
        ending = Path(file).suffix
        if not colon or not name or ending not in (*TABLES, *TEXTS):
            raise DeclarationError(
                f"got {show(text)}; allowed: a file that ends in {', '.join((*TABLES, *TEXTS))} and a key in it, such as "
                "'{out}/metrics.json:val_loss' or '{out}/stdout.txt:/val loss ([0-9.]+)/'",
                key,
            )
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

    def rows(self, out: Path) -> list[tuple[Any, Any]]:
        """Return (step, value) of every row that has the key; a step that is not told is None.

        Raises
        ------
        RegimesError
            If the file is not there, or cannot be read.
        """
        path = Path(self.file.replace("{out}", str(out)))
        try:
            text = path.read_text(encoding="utf-8", errors="strict" if path.suffix in TABLES else "replace")
            found = self._read(path, text)
        except FileNotFoundError:
            raise RegimesError(f"the command ended, but wrote no {path}") from None
        except (ValueError, csv.Error) as why:
            raise RegimesError(f"{path} cannot be read: {why}") from None
        if not found:
            raise RegimesError(f"{path} holds no '{self.key}'{self._hint(path, text)}")
        return found

    def _hint(self, path: Path, text: str) -> str:
        """What the file holds instead, where it has keys."""
        if path.suffix in TEXTS:
            return ""
        if path.suffix == ".csv":
            keys = next(csv.reader(text.splitlines()), [])
        else:
            rows = (
                [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()[:1]]
            )
            keys = [key for row in rows if isinstance(row, dict) for key in row]
        return f"; {nearest(self.key, keys)}" if keys else ""

    def _read(self, path: Path, text: str) -> list[tuple[Any, Any]]:
        if path.suffix in TEXTS:
            return [(None, number_of(cell(found))) for found in re.findall(self.key[1:-1], text)]
        if path.suffix == ".csv":
            rows = [
                {name: number_of(cell(part)) for name, part in row.items()} for row in csv.DictReader(text.splitlines())
            ]
        elif path.suffix == ".json":
            read = json.loads(text)
            rows = read if isinstance(read, list) else [read]
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = [flat(row) for row in rows if isinstance(row, dict)]
        return [(row.get(self.step), row[self.key]) for row in rows if row.get(self.key) is not None]


def _pattern(name: str, key: str) -> str:
    if len(name) > 2 and name[0] == name[-1] == "/":
        try:
            if re.compile(name[1:-1]).groups == 1:
                return name
        except re.error as why:
            raise DeclarationError(f"got {show(name)}, which is no pattern: {why}", key) from None
    raise DeclarationError(f"got {show(name)}; allowed of text: a pattern between slashes with one group", key)
