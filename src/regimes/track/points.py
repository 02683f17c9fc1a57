"""Records as points of curves under the names that trackers' users know: train/loss, val/loss, lr/<group>."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

#: Of a record, what is no measurement.
_POSITION = ("step", "phase", "samples", "tokens", "knobs", "examples", "layer", "skipped")


class Point(NamedTuple):
    """Values by name after `at` steps, samples or tokens."""

    at: int
    values: dict[str, float]


def rate(path: str) -> str | None:
    """Return the name of a learning rate's curve; None for other knobs.

    Examples
    --------
    >>> [rate(path) for path in ("optimizer.lr", "optimizer.groups.0.rule.lr", "optimizer.base.lr", "batch_size")]
    ['lr/all', 'lr/group0', 'lr/base', None]
    """
    inner, _, name = path.rpartition(".")
    if name != "lr":
        return None
    group = re.sub(r"groups\.(\d+)\.rule", r"group\1", inner.removeprefix("optimizer").removeprefix("."))
    return f"lr/{group or 'all'}"


def values(row: Mapping[str, Any], rates: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return what a record measured, by the names of curves.

    Parameters
    ----------
    row : mapping
        One line of ``records.jsonl``.
    rates : mapping
        By phase, the rates that do not vary.

    Examples
    --------
    >>> row = {"step": 3, "phase": "main", "samples": 24, "tokens": 24, "knobs": {"optimizer.lr": 0.1, "batch_size": 8}}
    >>> values(row | {"loss": "inf", "val/loss": 2.0}, {"main": {}})
    {'lr/all': 0.1, 'knob/batch_size': 8.0, 'train/loss': inf, 'val/loss': 2.0}
    """
    found = dict(rates.get(row["phase"], {}))
    for path, value in row["knobs"].items():
        found[rate(path) or f"knob/{path}"] = float(value)
    for name, value in row.items():
        number = None if name in _POSITION else _number(value)
        if number is not None:
            found[name if name.startswith(("val/", "test/")) else f"train/{name}"] = number
    return found | ({"train/skipped": 1.0} if "skipped" in row else {})


def _number(value: Any) -> float | None:
    """A number as JSON holds it: those that are not finite are text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return float(value) if value in ("inf", "-inf", "nan") else None
