"""The records of a run as they reach its folder, and what its end tells."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regimes.track.points import Point, values

#: Seconds between two looks at the file, and the most points that are handed on at once.
OFTEN, MOST = 0.2, 500


class Tail:
    """Reads a run's records while they are written.

    Parameters
    ----------
    folder : Path
        The run's.
    axis : str
        step, samples or tokens.
    rates : dict
        By phase, the rates that records do not hold.
    ended : callable
        Says whether anything more is to come.
    """

    def __init__(self, folder: Path, axis: str, rates: dict[str, dict[str, float]], ended: Any) -> None:
        self.folder, self.axis, self.rates, self._ended = folder, axis, rates, ended
        self._offset = 0
        self._last: dict[str, Any] | None = None

    def batches(self) -> Iterator[list[Point]]:
        """Yield points until the run has ended, each once its step's end is known from the next record."""
        while True:
            ended = self._ended()  # first: what is there now is all that there will be
            made = [point for row in self._rows() if (point := self._point(row)) is not None]
            for start in range(0, len(made), MOST):
                yield made[start : start + MOST]
            if ended:
                return
            time.sleep(OFTEN)

    def _rows(self) -> Iterator[dict[str, Any]]:
        file = self.folder / "records.jsonl"
        if not file.exists():
            return
        with file.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._offset += len(line)
                row = json.loads(line)
                if "trial" not in row:  # steps of trials go back
                    yield row

    def _point(self, row: dict[str, Any]) -> Point | None:
        last, self._last = self._last, row
        return None if last is None else Point(int(row[self.axis]), values(last, self.rates))

    def end(self) -> Point | None:
        """Return the last point of a finished run, with all that was measured at its end."""
        file = self.folder / "result.json"
        if self._last is None or not file.exists():
            return None
        result = json.loads(file.read_text())
        metrics = {name: float(value) for name, value in result["metrics"].items()}
        return Point(int(result[self.axis]), values(self._last, self.rates) | metrics)
