"""What a study keeps of the courses of its runs: learning curves, and what was measured inside the first seed's run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from regimes.core import thinning
from regimes.study.arms import Arm
from regimes.study.tasks import Outcome

#: Points of all learning curves of a study together; beyond, every curve is thinned, but never below the second number.
POINTS, LEAST = 200_000, 30
#: Stretches of a run of whose extremes its inside is kept.
STRETCHES = 50
#: What a record holds beside training loss and probes.
_POSITION = {"step", "phase", "samples", "tokens", "knobs", "skipped", "examples", "layer"}


def most_points(arms: Sequence[Arm]) -> int:
    """How many points each learning curve of a study may have."""
    return max(LEAST, POINTS // max(1, sum(bool(o.curve) for arm in arms for o in arm.outcomes)))


def curve(outcome: Outcome, metric: str, most: int) -> dict[str, Any]:
    """Return a run's learning curve, as `regimes.report` has it.

    Parameters
    ----------
    outcome : Outcome
    metric : str
        Where it is not measured along the run, its counterpart on val.
    most : int
        Points; of a longer curve even ones, each with the lowest and the highest value since the one before: no more than half
        of them, as what carries three values is no shorter otherwise.
    """
    name = metric if any(metric in row for row in outcome.curve) else "val/" + metric.split("/", 1)[-1]
    rows = [row for row in outcome.curve if name in row]
    found: dict[str, Any] = {"seed": outcome.task.seed}
    thinned: dict[str, Any] = {}
    if len(rows) > most:
        values = np.array([_number(row[name]) for row in rows])
        ends = thinning.even(len(rows), min(most, len(rows) // 2 + 1))
        low, high = thinning.span(ends, values, values)
        thinned = {"low": _plain(low), "high": _plain(high), "of": len(rows)}
        rows = [rows[place] for place in thinning.measured(ends, values)]
    return found | {"x": _amounts(outcome, rows), "value": _plain([_number(row[name]) for row in rows])} | thinned


def _amounts(outcome: Outcome, rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Where each row was measured, in every unit that is known."""
    steps = [row["step"] + 1 for row in rows]
    x: dict[str, list[float]] = {"step": steps}
    for unit in ("samples", "tokens"):
        if all(unit in row for row in rows):
            x[unit] = [row[unit] for row in rows]
    if outcome.steps and "flops" in outcome.work:
        x["flops"] = _shares(outcome.work["flops"], steps, outcome.steps)
    if outcome.steps and outcome.seconds is not None:
        x["seconds"] = _shares(outcome.seconds, steps, outcome.steps)
    return x


def _shares(total: float, steps: Sequence[int], of: int) -> list[float]:
    """What was spent after so many of all steps, to nine digits: nobody has counted or measured more."""
    return [float(f"{total * step / of:.9g}") for step in steps]


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else math.nan


def _plain(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in map(float, values)]


def inside_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records at the extremes of everything that was measured in them: a spike of a single step is among them."""
    kept = set[int]()
    for name in _inside_names(rows):
        places = [place for place, row in enumerate(rows) if math.isfinite(_number(row.get(name)))]
        kept |= {places[at] for at in thinning.extremes([rows[place][name] for place in places], STRETCHES)}
    return [rows[place] for place in sorted(kept)]


def inside(arm: Arm) -> dict[str, Any]:
    """Courses of the first seed's run: training loss (``of`` so many steps, where thinned), and what probes measured."""
    if not arm.outcomes or not arm.outcomes[0].inside:
        return {}
    first, out = arm.outcomes[0], dict[str, Any]()
    for name in _inside_names(first.inside):
        kept = [row for row in first.inside if math.isfinite(_number(row.get(name)))]
        if kept:
            out["training loss" if name == "loss" else name] = {
                "x": [row["tokens"] for row in kept],
                "value": [row[name] for row in kept],
            }
    if "training loss" in out and (first.steps or 0) > len(first.inside):
        out["training loss"]["of"] = first.steps
    return out


def _inside_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = (n for row in rows for n in row if n not in _POSITION and not n.startswith(("val/", "test/")))
    return list(dict.fromkeys(names))
