"""Learning curves as bands: over seeds, against the paired baseline, and thinned without hiding a spike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .facts import Study, baseline, lost, others, sign

UNITS = {"step": "steps", "samples": "samples", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
POINTS = 160
FAINT_POINTS = 60
Curve = Mapping[str, Any]
Rows = list[dict[str, Any]]


def units(study: Study) -> list[str]:
    """The x axes that all curves have; samples only where they are the budget or tokens are missing."""
    curves = [curve for arm in study["arms"] for curve in arm["curves"]]
    known = [u for u in UNITS if curves and all(_measured(curve, u) for curve in curves)]
    if "samples" in known and "tokens" in known and study["equal"] not in ("samples", "epochs"):
        known.remove("samples")
    return known


def default_unit(study: Study) -> str | None:
    """The unit that the budgets are equal in where there is a curve over it, else the first there is."""
    wanted = {"steps": "step", "epochs": "samples", "cost": "flops"}.get(study["equal"], study["equal"])
    known = units(study)
    return wanted if wanted in known else (known[0] if known else None)


def _measured(curve: Curve, unit: str) -> bool:
    x = curve["x"].get(unit) or []
    return len(x) == len(curve["value"]) > 0 and None not in x and bool((np.diff(x) >= 0).all())


def thin(x: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, points: int) -> list[np.ndarray]:
    """At most ``points`` points of a long curve: median of each bucket, lowest low and highest high.

    Every value of the long curve lies between ``low`` and ``high`` of its bucket, so no spike is lost.

    Examples
    --------
    >>> y = np.array([1.0, 9.0, 1.0, 2.0, 2.0, 2.0])
    >>> [part.tolist() for part in thin(np.arange(6.0), y, y, y, 2)]
    [[1.0, 4.0], [1.0, 2.0], [1.0, 2.0], [9.0, 2.0]]
    """
    if len(x) <= points:
        return [x, value, low, high]
    buckets = np.array_split(np.arange(len(x)), points)
    return [
        np.array([x[bucket].mean() for bucket in buckets]),
        np.array([np.median(value[bucket]) for bucket in buckets]),
        np.array([low[bucket].min() for bucket in buckets]),
        np.array([high[bucket].max() for bucket in buckets]),
    ]


def _finite_part(curve: Curve, unit: str) -> tuple[np.ndarray, np.ndarray]:
    y = np.array([math.nan if value is None else value for value in curve["value"]], dtype=float)
    x = np.asarray(curve["x"][unit], dtype=float)
    return x[np.isfinite(y)], y[np.isfinite(y)]


def grid(complete: Sequence[np.ndarray], cut: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Points at which runs can be compared, from the points at which each was measured.

    The runs' own points where all agree (one that was ``cut`` by divergence may stop early), else ``POINTS``
    even ones over the stretch that all complete runs cover.

    Examples
    --------
    >>> grid([np.array([1.0, 2.0, 3.0])] * 2, cut=[np.array([1.0, 2.0])]).tolist()
    [1.0, 2.0, 3.0]
    >>> grid([np.array([1.0, 9.0]), np.array([2.0, 8.0])])[[0, -1]].tolist()
    [2.0, 8.0]
    """
    whole = [x for x in complete if len(x)]
    partly = [x for x in cut if len(x)]
    if not whole:
        return max(partly, key=len, default=np.empty(0))
    own = whole[0]
    if all(np.array_equal(x, own) for x in whole) and all(np.array_equal(x, own[: len(x)]) for x in partly):
        return own
    return np.linspace(max(x[0] for x in whole + partly), min(x[-1] for x in whole), POINTS)


def _runs(arm: Mapping[str, Any], unit: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The finite part of every seed's curve that has one."""
    found = {curve["seed"]: _finite_part(curve, unit) for curve in arm["curves"]}
    return {seed: (x, y) for seed, (x, y) in found.items() if len(x)}


def short(value: float, digits: int = 5) -> float | None:
    """A number with few digits for the page's data; ``None`` if it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def band(study: Study, arm: Mapping[str, Any], unit: str) -> Rows:
    """Median over seeds and the range of the middle half, point by point.

    A diverged seed counts as worst from where it ended, so it can only raise the band, never flatter it.
    """
    runs, gone = _runs(arm, unit), lost(study, arm)
    if not runs:
        return []
    x_of = {seed: x for seed, (x, _) in runs.items()}
    points = grid([x for s, x in x_of.items() if s not in gone], [x for s, x in x_of.items() if s in gone])
    worst = -sign(study) * math.inf
    sampled = [np.interp(points, x, y, right=worst if s in gone else y[-1]) for s, (x, y) in runs.items()]
    ordered = np.sort(np.stack(sampled), axis=0)
    n = len(runs)
    low, high = ordered[math.floor((n - 1) / 4)], ordered[math.ceil(3 * (n - 1) / 4)]
    middle = np.where(
        ordered[n // 2] == ordered[(n - 1) // 2], ordered[n // 2], ordered[[(n - 1) // 2, n // 2]].mean(0)
    )
    columns = thin(points, middle, low, high, POINTS)
    return [
        {"arm": arm["name"], "x": short(x), "median": short(m), "low": short(lo), "high": short(hi)}
        for x, m, lo, hi in zip(*columns)
    ]


def faint(study: Study) -> Rows:
    """Every seed's own curve, over all units at once; where thinned, with the range of each bucket."""
    rows: Rows = []
    known = units(study)
    for arm in study["arms"]:
        for curve in arm["curves"]:
            drawn = {unit: _thinned(curve, unit) for unit in known}
            heights = next(iter(drawn.values()), [])[1:]
            for i in range(len(heights[0]) if heights else 0):
                value, low, high = (short(column[i]) for column in heights)
                row = {"arm": arm["name"], "seed": curve["seed"], "value": value}
                row |= {unit: short(columns[0][i]) for unit, columns in drawn.items()}
                rows.append(row if low == high else row | {"low": low, "high": high})
    return rows


def _thinned(curve: Curve, unit: str) -> list[np.ndarray]:
    x, y = _finite_part(curve, unit)
    return thin(x, y, y, y, FAINT_POINTS)


def paired(study: Study, arm: Mapping[str, Any], unit: str) -> Rows:
    """Mean improvement over the baseline's same seeds, point by point, with a pointwise t interval.

    As in the verdict, a pair of which one run diverged is left out, from its start on. A single pair has no
    interval.
    """
    from scipy import stats

    gone = lost(study, arm) | lost(study, baseline(study))
    mine, theirs = _runs(arm, unit), _runs(baseline(study), unit)
    pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs and seed not in gone]
    if not pairs:
        return []
    points = grid([x for pair in pairs for x, _ in pair])
    gains = sign(study) * np.stack([np.interp(points, *a) - np.interp(points, *b) for a, b in pairs])
    mean, n = gains.mean(axis=0), len(pairs)
    half = np.full_like(mean, math.nan)
    if n > 1:
        half = stats.t.ppf((1 + study["level"]) / 2, n - 1) * gains.std(axis=0, ddof=1) / math.sqrt(n)
    columns = thin(points, mean, mean - half, mean + half, POINTS)
    return [
        {"arm": arm["name"], "x": short(x), "gain": short(g), "low": short(a), "high": short(b), "pairs": n}
        for x, g, a, b in zip(*columns)
    ]


def reach(study: Study, arm: Mapping[str, Any], unit: str) -> dict[str, Any] | None:
    """How early each seed of an arm is as good as the same seed of the baseline is at its end.

    Returns
    -------
    dict or None
        ``median``, ``first`` and ``last`` as fractions of the baseline's whole x (``median`` is ``None`` if
        fewer than half of the seeds got there), ``reached`` and ``of``; ``None`` where no seed has both.
    """
    final = {curve["seed"]: _finite_part(curve, unit) for curve in baseline(study)["curves"]}
    fractions = []
    for curve in arm["curves"]:
        x, y = _finite_part(curve, unit)
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


def compared(study: Study, unit: str) -> Rows:
    """The paired differences of all arms but the baseline."""
    return [row for arm in others(study) for row in paired(study, arm, unit)]


def envelope(x: Sequence[float], y: Sequence[float | None], buckets: int = 100) -> list[tuple[float, float]]:
    """A long line with few points that looks the same: first, lowest, highest and last of each bucket.

    Examples
    --------
    >>> envelope(range(8), [0, 9, 1, 1, 1, -5, 1, 2], buckets=1)
    [(0, 0), (1, 9), (5, -5), (7, 2)]
    """
    points = [(a, b) for a, b in zip(x, y) if b is not None]
    if len(points) <= 4 * buckets:
        return points
    kept: list[tuple[float, float]] = []
    for part in np.array_split(np.arange(len(points)), buckets):
        height = [points[i][1] for i in part]
        chosen = {part[0], part[int(np.argmin(height))], part[int(np.argmax(height))], part[-1]}
        kept += [points[i] for i in sorted(chosen)]
    return kept
