"""Trackio's local files: an SQLite file per project."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regimes.study.foreign.rows import flat
from regimes.study.foreign.sqlite import rows, tables
from regimes.study.foreign.trackers import Kept


def places(path: Path) -> Iterator[Path]:
    """Yield the files of projects."""
    files = [path] if path.is_file() else sorted([*path.glob("*.db"), *path.glob("trackio/*.db")])
    yield from (file for file in files if {"configs", "metrics", "system_metrics"} <= tables(file))


def read(files: Sequence[Path], root: Path) -> list[Kept]:
    """Return the runs; Trackio does not say whether one has ended."""
    found: dict[tuple[Path, str], Kept] = {}
    for file in files:
        for run, name, config in rows(file, "SELECT run_id, run_name, config FROM configs ORDER BY id"):
            given = {key: value for key, value in json.loads(config).items() if not key.startswith("_")}
            found[file, run] = Kept(name, flat(given))
        for run, name, step, metrics in rows(file, "SELECT run_id, run_name, step, metrics FROM metrics ORDER BY id"):
            kept = found.setdefault((file, run), Kept(name))
            numbers = {key: _number(value) for key, value in json.loads(metrics).items()}
            values = {key: value for key, value in numbers.items() if value is not None}
            if values:
                kept.points.setdefault(step, {}).update(values)
    return list(found.values())


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(str(value))
