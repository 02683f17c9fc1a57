"""Power: which improvement a study can see, and how many more seeds would decide it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from regimes.study.intervals import Interval, check_level, half_widths
from regimes.study.verdicts import check_margin, verdict

#: Where the search of `seeds_to_decide` ends.
MOST_SEEDS = 10_000


def power(effect: float, sd: float, n: int, comparisons: int, level: float, margin: float) -> float:
    r"""Return the probability that the verdict is better, if the true improvement is `effect`.

    Better takes ``low > 0`` and ``high >= m``: with S the sample sd and t the quantile of the simultaneous interval,
    a mean of at least ``max(t S / sqrt(n), m - t S / sqrt(n))``. Given S the mean is normal, and S sqrt(n - 1) / sd
    is chi with n - 1 degrees of freedom; the product is integrated over S by Gauss-Legendre, cut where the integrand
    bends. Without a margin this is the upper tail of the noncentral t.

    Parameters
    ----------
    effect : float
        True mean improvement, in the metric's unit.
    sd : float
        True sd of the paired improvements.
    n : int
        Paired seeds; a single one can never show anything.
    comparisons : int
        k, the arms beside the baseline.
    level : float
        Simultaneous confidence.
    margin : float
        m, the smallest difference that matters.

    Raises
    ------
    ValueError
        A margin not above 0, a negative sd, a level outside (0, 1).

    Examples
    --------
    >>> [round(power(effect, 0.02, 8, 3, 0.95, 0.02), 3) for effect in (0.0, 0.02, 0.04)]
    [0.007, 0.446, 0.977]
    """
    _check(sd, comparisons, level, margin)
    if n < 2:
        return 0.0
    if sd == 0:  # the limit of little noise
        return float(effect >= margin)
    return _chance_of_better(effect, sd, n, comparisons, level, margin)


def _chance_of_better(effect: float, sd: float, n: int, comparisons: int, level: float, margin: float) -> float:
    from scipy import special

    df = n - 1
    slope = float(-special.stdtrit(df, (1 - level) / (2 * comparisons))) / math.sqrt(df)
    center, floor = effect * math.sqrt(n) / sd, margin * math.sqrt(n) / sd
    start, end = (math.sqrt(2 * q(df / 2, 1e-18)) for q in (special.gammaincinv, special.gammainccinv))
    # The integrand bends at floor / 2 and rises or falls within 8 around the others.
    bends = [floor / 2, *(c + w for c in (center, floor - center) for w in (-8, -2, 0, 2, 8))]
    cuts = np.unique(np.clip([start * slope, math.sqrt(df) * slope, *bends, end * slope], start * slope, end * slope))
    chi, weights = _nodes(cuts / slope)
    density = np.exp((df - 1) * np.log(chi) - chi**2 / 2 - (df / 2 - 1) * math.log(2) - special.gammaln(df / 2))
    half = slope * chi
    return float(np.sum(weights * density * special.ndtr(center - np.maximum(half, floor - half))))


def _nodes(cuts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights on every stretch between two cuts."""
    x, w = np.polynomial.legendre.leggauss(64)
    half, middle = np.diff(cuts)[:, None] / 2, (cuts[1:] + cuts[:-1])[:, None] / 2
    return (middle + half * x).ravel(), (half * w).ravel()


def detectable_difference(
    sd: float, n: int, comparisons: int, level: float, margin: float, power: float = 0.8
) -> float:
    """Return the true improvement at which the verdict is better with probability `power`.

    Parameters
    ----------
    sd, n, comparisons, level, margin
        As in `power`.
    power : float
        Default 0.8, the custom of planning.

    Returns
    -------
    float
        Infinite for a single seed.

    Raises
    ------
    ValueError
        As `power`; a power outside (0, 1).

    References
    ----------
    Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, section 2.4.

    Examples
    --------
    >>> [round(detectable_difference(0.02, n, 3, 0.95, 0.02), 4) for n in (8, 16, 32)]
    [0.029, 0.018, 0.0144]
    """
    _check(sd, comparisons, level, margin)
    if not 0 < power < 1:
        raise ValueError(f"power: got {power}; allowed: a probability between 0 and 1, such as 0.8")
    if n < 2:
        return math.inf
    if sd == 0:
        return margin
    from scipy.optimize import brentq

    def short(effect: float) -> float:
        return _chance_of_better(effect, sd, n, comparisons, level, margin) - power

    low, high = -sd, sd
    while short(low) > 0:
        low *= 2
    while short(high) < 0:
        high *= 2
    return float(brentq(short, low, high, xtol=1e-12 * sd, rtol=1e-12))


def seeds_to_decide(interval: Interval, margin: float, comparisons: int | None = None) -> int | None:
    """Return how many more seeds would decide, if mean and sd stay as they are.

    That is an expectation, not a promise: mean and sd move, so about half of the time it takes more. And a second
    look is a second chance to be wrong. Between equal arms (8 seeds, margin of half an sd, level 0.95) it raises false
    verdicts of better or worse from 5% to 9%; with twice the comparisons at both looks they stay at 6%.

    Parameters
    ----------
    interval : Interval
        Tuning noise that it was widened with does not shrink with seeds.
    margin : float
        m, the smallest difference that matters.
    comparisons : int, optional
        k of the study that would follow; default the interval's own.

    Returns
    -------
    int or None
        0 where it is decided already. None where 10,000 seeds would not do (tuning noise too large for the margin,
        or a mean too close to a border), or where a single observation leaves the sd unknown.

    Raises
    ------
    ValueError
        A margin not above 0.

    Examples
    --------
    >>> seeds_to_decide(Interval(0.007, -0.013, 0.027, sd=0.0239, n=8, level=0.95), margin=0.02)
    8
    """
    if verdict(interval.low, interval.high, margin) != "undecided":
        return 0
    sizes = np.arange(interval.n + 1, MOST_SEEDS + 1)
    family = interval.comparisons if comparisons is None else comparisons
    half = half_widths(interval.sd, sizes, interval.level, family, interval.tuning_sd)
    size = abs(interval.mean)
    decided = half < max(margin - size, size)  # the same, or away from 0 with an end beyond the margin
    return int(np.argmax(decided)) + 1 if decided.any() else None


def _check(sd: float, comparisons: int, level: float, margin: float) -> None:
    check_level(level)
    check_margin(margin)
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd: got {sd}; allowed: a standard deviation, 0 or more")
    if comparisons < 1:
        raise ValueError(f"comparisons: got {comparisons}; allowed: 1 or more arms beside the baseline")
