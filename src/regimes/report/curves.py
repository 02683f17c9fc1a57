"""Learning curves: over which units they are known, where runs can be compared, how much of them is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .facts import Study, baseline, lost, sign

UNITS = {"step": "steps", "samples": "samples", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
#: Stretches of a line that is drawn, two points each at most, and of each seed's own, which stands behind it.
STRETCHES, FAINT_STRETCHES = 80, 60
#: Rows of one chart: more arms get fewer stretches each, and more runs do, down to the last two numbers; where there are
#: more runs than that, each arm has the range of its seeds instead of their lines.
ROWS, LEAST, FAINT_LEAST = 40_000, 12, 16
Curve = Mapping[str, Any]


def units(study: Study) -> list[str]:
    """The x axes that all curves have; samples only where they are the budget or tokens are missing."""
    curves = [curve for arm in study["arms"] for curve in arm["curves"]]
    known = [unit for unit in UNITS if curves and all(unit in curve["x"] for curve in curves)]
    if "samples" in known and "tokens" in known and study["equal"] not in ("samples", "epochs"):
        known.remove("samples")
    return known


def default_unit(study: Study) -> str | None:
    """The unit that the budgets are equal in where there is a curve over it, else the first there is."""
    wanted = {"steps": "step", "epochs": "samples", "cost": "flops"}.get(study["equal"], study["equal"])
    known = units(study)
    return wanted if wanted in known else (known[0] if known else None)


def finite_part(curve: Curve, unit: str, part: str = "value") -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(curve["value"])
    return curve["x"][unit][known], curve[part][known]


def stretches(study: Study) -> int:
    """Of every line that stands for an arm."""
    return max(LEAST, min(STRETCHES, ROWS // (2 * len(study["arms"]))))


def faint_stretches(study: Study) -> int:
    """Of every seed's own line; 0 where there are so many that the range over all seeds of an arm is drawn instead."""
    found = min(FAINT_STRETCHES, ROWS // (2 * max(1, sum(len(arm["curves"]) for arm in study["arms"]))))
    return found if found >= FAINT_LEAST else 0


def thinned(study: Study) -> bool:
    """Whether what is drawn of some curve is not all that was measured."""
    curves = [curve for arm in study["arms"] for curve in arm["curves"]]
    least = min(stretches(study), faint_stretches(study))
    return any(curve["of"] > min(len(curve["value"]), 2 * least + 2) for curve in curves)


def note(study: Study) -> str:
    """What is drawn of curves that are too long, or too many, to be drawn whole; empty where all is."""
    if not thinned(study):
        return ""
    curves = [curve for arm in study["arms"] for curve in arm["curves"]]
    measured, kept = max(curve["of"] for curve in curves), max(len(curve["value"]) for curve in curves)
    said = []
    if kept < measured:
        said.append(
            f"Of the {measured} points of a run, the study keeps {kept}, with the lowest and the highest between; "
            f"differences are those of the points kept."
        )
    count = faint_stretches(study)
    own = f"of {count} of each seed" if count else "the range alone of the seeds"
    said.append(
        f"Lines go through the lowest and the highest value of each of {stretches(study)} equal stretches, {own}, and through "
        f"both ends; areas hold all that lies between. Of no seed is a spike left out."
    )
    return " ".join(said)


def grid(complete: Sequence[np.ndarray], cut: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, bool]:
    """Points at which runs can be compared, from the points at which each was measured; and whether they are their own.

    The runs' own points where all agree (one that was ``cut`` by divergence may stop early), else even ones, as many as
    the longest has (160 at least), over the stretch that all complete runs cover.

    Examples
    --------
    >>> grid([np.array([1.0, 2.0, 3.0])] * 2, cut=[np.array([1.0, 2.0])])
    (array([1., 2., 3.]), True)
    >>> points, own = grid([np.array([1.0, 9.0]), np.array([2.0, 8.0])])
    >>> points[[0, -1]].tolist(), own
    ([2.0, 8.0], False)
    """
    whole = [x for x in complete if len(x)]
    partly = [x for x in cut if len(x)]
    if not whole:
        return max(partly, key=len, default=np.empty(0)), False
    own = whole[0]
    if all(np.array_equal(x, own) for x in whole) and all(np.array_equal(x, own[: len(x)]) for x in partly):
        return own, True
    count = max(2 * STRETCHES, *map(len, whole))
    return np.linspace(max(x[0] for x in whole + partly), min(x[-1] for x in whole), count), False


def runs(arm: Mapping[str, Any], unit: str, part: str = "value") -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The finite part of every seed's curve that has one; of its low or high ends, where those are asked for."""
    found = {curve["seed"]: finite_part(curve, unit, part) for curve in arm["curves"]}
    return {seed: (x, y) for seed, (x, y) in found.items() if len(x)}


def limits(study: Study) -> tuple[float, float] | None:
    """The lowest and the highest of all seeds that finished; a run that blew up is left out."""
    found = [
        (np.nanmin(curve["low"]), np.nanmax(curve["high"]))
        for arm in study["arms"]
        for gone in [lost(study, arm)]
        for curve in arm["curves"]
        if curve["seed"] not in gone and np.isfinite(curve["value"]).any()
    ]
    return (float(min(low for low, _ in found)), float(max(high for _, high in found))) if found else None


def reach(study: Study, arm: Mapping[str, Any], unit: str) -> dict[str, Any] | None:
    """How early each seed of an arm is as good as the same seed of the baseline is at its end.

    Returns
    -------
    dict or None
        ``median``, ``first`` and ``last`` as fractions of the baseline's whole x (``median`` is ``None`` if
        fewer than half of the seeds got there), ``reached`` and ``of``; ``None`` where no seed has both.
    """
    final = {curve["seed"]: finite_part(curve, unit) for curve in baseline(study)["curves"]}
    fractions = []
    for curve in arm["curves"]:
        x, y = finite_part(curve, unit)
        end, target = final.get(curve["seed"], (np.empty(0), np.empty(0)))
        if len(x) and len(end) and end[-1] > 0:
            fractions.append(_crossing(x, sign(study) * y, sign(study) * target[-1]) / end[-1])
    if not fractions:
        return None
    there = [fraction for fraction in fractions if math.isfinite(fraction)]
    ordered = sorted(fractions)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return {
        "median": middle if math.isfinite(middle) else None,
        "first": min(there, default=None),
        "last": max(there, default=None),
        "reached": len(there),
        "of": len(fractions),
    }


def _crossing(x: np.ndarray, quality: np.ndarray, target: float) -> float:
    above = np.flatnonzero(quality >= target)
    if not len(above):
        return math.inf
    i = int(above[0])
    if i == 0:
        return float(x[0])
    share = (target - quality[i - 1]) / (quality[i] - quality[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))
