"""Learning curves as rows to draw, thinned without hiding a spike.

A curve may stand for more points than it has (`low` and `high`, as a study of many runs keeps it). What is drawn is thinned once
more, here and nowhere else: lines go through the extremes of equal stretches, areas hold whatever lies between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regimes.core import thinning

from . import curves
from .facts import Study, baseline, lost, sign

Rows = list[dict[str, Any]]
Values = NDArray[np.float64]
Arm = Mapping[str, Any]


def short(values: ArrayLike, toward: Callable[[np.ndarray], np.ndarray] = np.rint) -> list[float | None]:
    """Numbers of five digits for the page's data; ``None`` in place of those that are not finite.

    Parameters
    ----------
    values : array
    toward : numpy function
        `numpy.floor` gives the nearest ones that are not above, `numpy.ceil` those that are not below: ends of a range that
        must hold its values.

    Examples
    --------
    >>> short([0.1234567, -123456.7, 0.5, np.inf]), short([0.1234567, -0.1234567], np.floor)
    ([0.12346, -123460.0, 0.5, None], [0.12345, -0.12346])
    """
    given = np.asarray(values, dtype=float)
    found = np.where(np.isfinite(given), given, 0.0)
    size = np.floor(np.log10(np.abs(found), out=np.zeros_like(found), where=found != 0)) - 4
    # Powers of ten up to 22 are exact, so that a whole number times or over one is the nearest to what it is written as.
    up, down = 10.0 ** np.clip(-size, 0, 22), 10.0 ** np.clip(size, 0, 22)
    whole = toward(found * up / down)
    if toward is np.floor:
        whole -= whole / up * down > found
    if toward is np.ceil:
        whole += whole / up * down < found
    written = np.where(np.abs(size) > 22, found, whole / up * down + 0.0)
    return [value if ok else None for value, ok in zip(written.tolist(), np.isfinite(given).tolist())]


class Lines:
    """The learning curves of a study as rows, each made once, however many charts read them.

    Parameters
    ----------
    study : Normal
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._rows: dict[tuple[str, str], Rows] = {}
        self._own: dict[tuple[str, str], tuple[Values, ...]] = {}

    @cached_property
    def limits(self) -> tuple[float, float] | None:
        """The lowest and the highest of all seeds that finished."""
        return curves.limits(self.study)

    @cached_property
    def seeds(self) -> Rows:
        """Every seed's own line, over all units at once, through all it stands for; empty where there are too many."""
        rows: Rows = []
        known, count = curves.units(self.study), curves.faint_stretches(self.study)
        for arm in self.study["arms"] if known and count else []:
            for curve in arm["curves"]:
                place, height = _visited(curve)
                kept = thinning.extremes(height, count)
                columns = {"value": short(height[kept])}
                columns |= {unit: short(curve["x"][unit][place[kept]]) for unit in known}
                first = {"arm": arm["name"], "seed": curve["seed"]}
                rows += [first | dict(zip(columns, row)) for row in zip(*columns.values())]
        return rows

    def bands(self, unit: str) -> Rows:
        """Of every arm the median over seeds and the range of the middle half, point by point.

        A diverged seed counts as worst from where it ended, so it can only raise the band, never flatter it. Where curves
        stand for more points than they have, the range is from the low quarter of what is lowest to the high one of what is
        highest: it holds the middle half at every point.
        """
        return self._made(self._band, unit, "median")

    def spreads(self, unit: str) -> Rows:
        """Of every arm the lowest and the highest of all seeds in each of equal stretches of the run."""
        return self._made(self._spread, unit)

    def gains(self, unit: str) -> Rows:
        """Of every arm but the baseline the mean improvement over its same seeds, point by point, with a pointwise t interval.

        As in the verdict, a pair of which one run diverged is left out, from its start on. A single pair has no interval.
        Where curves stand for more points than they have, the points they have are compared.
        """
        return self._made(self._gain, unit, "gain", "pairs")

    def _made(
        self, make: Callable[[Arm, str], tuple[Values, ...]], unit: str, middle: str = "", count: str = ""
    ) -> Rows:
        """Rows of all arms: x, low and high, and what else `make` gives; all numbers are written at once."""
        key = make.__name__, unit
        if key not in self._rows:
            found = {arm["name"]: made for arm in self.study["arms"] if len((made := make(arm, unit))[0])}
            x, low, high, *more = (
                (np.concatenate(column) for column in zip(*found.values())) if found else [np.empty(0)] * 3
            )
            columns = {"x": short(x), "low": short(low, np.floor), "high": short(high, np.ceil)}
            columns |= {name: short(column) for name, column in zip(filter(None, (middle, count)), more)}
            names = [name for name, made in found.items() for _ in made[0]]
            self._rows[key] = [
                {"arm": name} | dict(zip(columns, row)) for name, row in zip(names, zip(*columns.values()))
            ]
        return self._rows[key]

    def _band(self, arm: Arm, unit: str) -> tuple[Values, ...]:
        runs, gone = curves.runs(arm, unit), lost(self.study, arm)
        if not runs:
            return (np.empty(0),)
        complete, cut = ([x for s, (x, _) in runs.items() if (s in gone) == is_cut] for is_cut in (False, True))
        points, own = curves.grid(complete, cut)
        worst = -sign(self.study) * math.inf

        def ordered(part: str) -> Values:
            found = curves.runs(arm, unit, part).items()
            sampled = [np.interp(points, x, y, right=worst if seed in gone else y[-1]) for seed, (x, y) in found]
            return np.sort(np.stack(sampled), axis=0)

        def made() -> tuple[Values, ...]:
            values, n = ordered("value"), len(runs)
            low, high = ordered("low")[math.floor((n - 1) / 4)], ordered("high")[math.ceil(3 * (n - 1) / 4)]
            one, other = values[(n - 1) // 2], values[n // 2]
            with np.errstate(invalid="ignore"):  # of two that are infinite there is no mean
                return self._drawn(np.where(one == other, one, (one + other) / 2), low, high)

        kept, *columns = self._once(("band", arm["name"]), own, made)
        return points[kept.astype(int)], *columns

    def _gain(self, arm: Arm, unit: str) -> tuple[Values, ...]:
        base, study = baseline(self.study), self.study
        gone = lost(study, arm) | lost(study, base)
        mine, theirs = curves.runs(arm, unit), curves.runs(base, unit)
        pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs and seed not in gone]
        if arm is base or not pairs:
            return (np.empty(0),)
        points, own = curves.grid([x for pair in pairs for x, _ in pair])

        def made() -> tuple[Values, ...]:
            from scipy import special

            gains = sign(study) * np.stack([np.interp(points, *a) - np.interp(points, *b) for a, b in pairs])
            mean, n = gains.mean(axis=0), len(pairs)
            half = np.full_like(mean, math.nan)
            if n > 1:
                half = special.stdtrit(n - 1, (1 + study["level"]) / 2) * gains.std(axis=0, ddof=1) / math.sqrt(n)
            return self._drawn(mean, mean - half, mean + half)

        kept, *columns = self._once(("gain", arm["name"]), own, made)
        return points[kept.astype(int)], *columns, np.full(len(kept), float(len(pairs)))

    def _spread(self, arm: Arm, unit: str) -> tuple[Values, ...]:
        known = [curve for curve in arm["curves"] if np.isfinite(curve["value"]).any()]
        if not known:
            return (np.empty(0),)
        x, low, high = (
            np.concatenate([curve[part][np.isfinite(curve["value"])] for curve in placed])
            for placed in [[curve | {"at": curve["x"][unit]} for curve in known]]
            for part in ("at", "low", "high")
        )
        order = np.argsort(x, kind="stable")
        edges = np.linspace(x.min(), x.max(), 2 * curves.stretches(self.study) + 1)[1:]
        ends = np.unique(np.searchsorted(x[order], edges, side="right")) - 1
        kept = ends[ends >= 0]
        return x[order][kept], *thinning.span(kept, low[order], high[order])

    def _once(self, key: tuple[str, str], own: bool, made: Callable[[], tuple[Values, ...]]) -> tuple[Values, ...]:
        """What is made over the runs' own points is the same over every unit in which they are their own."""
        if not own:
            return made()
        if key not in self._own:
            self._own[key] = made()
        return self._own[key]

    def _drawn(self, value: Values, low: Values, high: Values) -> tuple[Values, ...]:
        """The places of a line that are drawn; what lies lowest and highest since the place before; and the line there."""
        kept = thinning.extremes(np.nan_to_num(value), curves.stretches(self.study))
        return kept.astype(float), *thinning.span(kept, low, high), value[kept]


def _visited(curve: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Places and heights of a line through a curve: where a point stands for more, through its lowest and highest, too."""
    finite = np.flatnonzero(np.isfinite(curve["value"]))
    low, high, value = (curve[part][finite] for part in ("low", "high", "value"))
    heights = np.stack([low, high, value], axis=1)
    news = np.stack([low != value, high != value, np.full(len(value), True)], axis=1)
    return np.repeat(finite, news.sum(axis=1)), heights[news]
