"""A straight line in log size through the gaps of small sizes, and whether the largest agrees with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regimes.study.intervals import check_level


@dataclass(frozen=True)
class Rung:
    """The gap of one arm at one size.

    Parameters
    ----------
    size : float
    gap : float
        Mean improvement over the baseline.
    sd : float
        Of the paired differences; NaN for a single seed.
    n : int
        Paired seeds.
    diverged : int
        Runs of the two that ended in no number, and count as worst: then the gap has a sign, and no size. Default 0.
    """

    size: float
    gap: float
    sd: float
    n: int
    diverged: int = 0


@dataclass(frozen=True)
class Trend:
    """What the rungs below say of a size.

    Parameters
    ----------
    size, expected : float
        The size, and the gap that the trend expects there.
    low, high : float
        Interval of the expected gap.
    slope : float
        Change of the gap when the size doubles.
    level : float
    """

    size: float
    expected: float
    low: float
    high: float
    slope: float
    level: float


def extrapolated(rungs: Sequence[Rung], size: float, level: float = 0.95) -> Trend:
    r"""Return the gap that a straight line in log size through the rungs expects at another size, with its interval.

    Each rung counts by its seeds. The expected gap is a weighted sum of the rungs' mean gaps, ``sum w_i g_i``, so its
    variance is ``V = sum w_i^2 s_i^2 / n_i`` and its interval has Student's t with Welch-Satterthwaite's
    ``df = V^2 / sum (w_i^2 s_i^2 / n_i)^2 / (n_i - 1)``. It holds what the noise of runs leaves open, not that the line
    may bend: at most one decade beyond the largest rung is sensible.

    Parameters
    ----------
    rungs : sequence of Rung
        At least two sizes, two seeds each.
    size : float
    level : float

    Raises
    ------
    ValueError
        Fewer than two sizes, a rung of one seed, one whose runs diverged, a level outside (0, 1).

    References
    ----------
    Welch, "The generalization of Student's problem", 1947.

    Examples
    --------
    >>> rungs = [Rung(1e5, 0.08, 0.01, 8), Rung(1e6, 0.06, 0.01, 5)]
    >>> found = extrapolated(rungs, 1e7)
    >>> round(found.expected, 3), round(found.low, 3), round(found.high, 3), round(found.slope, 4)
    (0.04, 0.016, 0.064, -0.006)
    """
    line = _Line.through(rungs, size)
    half = line.half(level)
    return Trend(size, line.expected, line.expected - half, line.expected + half, line.slope, level)


@dataclass(frozen=True)
class _Line:
    """A straight line through rungs, read at a size: expected gap, slope, and the parts of the gap's variance."""

    expected: float
    slope: float
    parts: NDArray[np.float64]
    freedom: NDArray[np.float64]

    @classmethod
    def through(cls, rungs: Sequence[Rung], size: float) -> _Line:
        if len({rung.size for rung in rungs}) < 2 or any(rung.n < 2 for rung in rungs):
            raise ValueError("rungs: allowed: at least two sizes, with two seeds or more at each")
        _refuse_diverged(rungs)
        x = np.log2([rung.size for rung in rungs])
        n, sd, gaps = (np.array([getattr(rung, name) for rung in rungs], dtype=float) for name in ("n", "sd", "gap"))
        middle = float(n @ x / n.sum())
        slopes = n * (x - middle) / float(n @ (x - middle) ** 2)
        weights = n / n.sum() + slopes * (math.log2(size) - middle)
        return cls(float(weights @ gaps), float(slopes @ gaps), weights**2 * sd**2 / n, n - 1)

    def half(self, level: float, own: float = 0.0, df: float = 1.0) -> float:
        """Half-width of the interval; `own` is a variance on top, with `df` degrees of freedom."""
        from scipy import special

        check_level(level)
        parts, freedom = np.append(self.parts, own), np.append(self.freedom, df)
        total = float(parts.sum())
        if not total:
            return 0.0
        return -float(special.stdtrit(total**2 / float((parts**2 / freedom).sum()), (1 - level) / 2)) * math.sqrt(total)


def _refuse_diverged(rungs: Sequence[Rung]) -> None:
    if any(rung.diverged for rung in rungs):
        raise ValueError("rungs: got one whose runs diverged; allowed: gaps of runs that ended in a number")


@dataclass(frozen=True)
class Agreement:
    """Whether the run at the largest size agrees with the trend below it.

    Parameters
    ----------
    trend : Trend
        What the smaller sizes expect.
    rung : Rung
        What the largest gave.
    off : float
        The difference of the two.
    low, high : float
        Interval of that difference: of the trend's noise and of the rung's own, of which one of a single seed is lent
        the largest sd below it.
    agrees : bool
        Whether it holds 0.
    """

    trend: Trend
    rung: Rung
    off: float
    low: float
    high: float
    agrees: bool


def agreement(rungs: Sequence[Rung], level: float = 0.95) -> Agreement:
    """Hold the largest rung against the line through the others.

    Raises
    ------
    ValueError
        As `extrapolated`, of the others; a largest rung whose runs diverged.

    Examples
    --------
    >>> rungs = [Rung(1e5, 0.08, 0.01, 8), Rung(1e6, 0.06, 0.01, 5), Rung(1e7, 0.05, float("nan"), 1)]
    >>> found = agreement(rungs)
    >>> round(found.off, 3), round(found.low, 3), round(found.high, 3), found.agrees
    (0.01, -0.02, 0.04, True)
    """
    _refuse_diverged(rungs)
    *below, last = sorted(rungs, key=lambda rung: rung.size)
    trend, line = extrapolated(below, last.size, level), _Line.through(below, last.size)
    lent = max(below, key=lambda rung: rung.sd)
    sd, df = (last.sd, last.n - 1) if last.n > 1 else (lent.sd, lent.n - 1)
    half, off = line.half(level, sd**2 / last.n, df), last.gap - trend.expected
    return Agreement(trend, last, off, off - half, off + half, abs(off) <= half)
