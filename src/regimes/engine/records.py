"""Records on disk: one JSON line a step, encoded in batches; wall-clock times in a file of their own."""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regimes.core.errors import ResumeError

if TYPE_CHECKING:  # what is recorded needs torch, what is read does not
    from regimes.engine.step import Record

BATCH = 64
_encode = json.JSONEncoder(separators=(", ", ": ")).encode


def line(record: Record) -> str:
    """Return the record as one JSON line; equal runs give equal bytes.

    Examples
    --------
    >>> from regimes.core.progress import Progress
    >>> from regimes.engine.step import Record
    >>> line(Record(Progress(step=3, samples=24, tokens=24), "main", {"optimizer.lr": 0.1}, {"loss": float("inf")}))
    '{"step": 3, "phase": "main", "samples": 24, "tokens": 24, "knobs": {"optimizer.lr": 0.1}, "loss": "inf"}'
    """
    at, knobs = record.at, _members(record.knobs)
    return (
        f'{{"step": {at.step}, "phase": {_name(record.phase)}, "samples": {at.samples}, "tokens": {at.tokens}, '
        f'"knobs": {{{", ".join(knobs)}}}{"".join([", " + member for member in _members(record.signals)])}}}'
    )


def _members(values: Mapping[str, Any]) -> list[str]:
    """Members of a JSON object; numbers, most of what is recorded, are written as json does at a third of its time."""
    return [
        f"{_name(name)}: {value!r}"
        if type(value) is int or (type(value) is float and math.isfinite(value))
        else f"{_name(name)}: {_encode(_plain(value))}"
        for name, value in values.items()
    ]


_name = functools.lru_cache(maxsize=4096)(_encode)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


class RecordWriter:
    """Appends records; `mark` and `cut` keep the file and the checkpoints in step."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.path, self._times = folder / "records.jsonl", folder / "times.jsonl"
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by `close`)
        self._waiting: list[Record] = []
        self._began = clock()

    def add(self, record: Record) -> None:
        """Take a record; it reaches the file with its batch."""
        self._waiting.append(record)
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            last = self._waiting[-1].at.step
            text = "".join([line(record) + "\n" for record in self._waiting])
            self._waiting.clear()
            try:
                self._file.write(text.encode())
                self._file.flush()
                with self._times.open("a") as times:
                    times.write(_encode({"step": last, "seconds": round(self._clock() - self._began, 4)}) + "\n")
            except OSError as why:
                raise ResumeError(
                    f"the records up to step {last} could not be written ({why.strerror or why}); mend it and run: "
                    f"regimes resume {self.path.parent}"
                ) from None

    def mark(self) -> int:
        """Write what waits and return the length of the file: what a checkpoint remembers."""
        self.flush()
        return self._file.tell()

    def sync(self) -> None:
        """Force what has been written to disk; any thread may, while records are added."""
        os.fsync(self._file.fileno())

    def cut(self, length: int) -> None:
        """Drop what was written after the checkpoint that is continued from."""
        self._file.truncate(length)
        self._file.seek(length)

    def close(self) -> None:
        """Write what waits and close."""
        self.flush()
        self._file.close()


def read(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return (records, sentences about lines that could not be read).

    A last line without its end is one that was being written, and is passed over in silence.
    """
    found, said = [], []
    path = folder / "records.jsonl"
    if not path.exists():
        return [], []
    for number, text in enumerate(_lines(path), start=1):
        try:
            content = json.loads(text)
            if not isinstance(content, dict) or "step" not in content:
                raise ValueError("no record")
            found.append(content)
        except ValueError:
            said.append(f"line {number} of {path} is corrupted and was left out")
    return found, said


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield raw.decode(errors="replace")


def seconds(folder: Path) -> float:
    """Return the measured seconds of a run over all its processes."""
    total, last, path = 0.0, 0.0, folder / "times.jsonl"
    if not path.exists():
        return 0.0
    for text in _lines(path):
        try:
            now = float(json.loads(text)["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
        total, last = total + (now - last if now >= last else now), now
    return total
