"""Simultaneous intervals of paired improvements, and what tuning noise adds to them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regimes.study.verdicts import Ranked, sign

#: Degrees of freedom with which an estimated tuning sd enters an interval: four to six trials leave one to three
#: beside a parabola or a V. With 2, two arms that only tuning luck tells apart were called better or worse at level
#: 0.95 in 0.2% to 6% of 500 simulated studies where the metric is a parabola in the log-rate, in 0% to 8.4%
#: [6.1, 11.2] where it is a V (4, 6 and 8 trials over a factor of 64, its edges 1 to 100 sds of a run worse than the
#: middle, 8 seeds paired with correlation 0 or 0.8, no margin). By
#: the seeds alone it was 5% to 29%, and 9% to 83%. Shapes in between or beside (power 1.5; a V three times as steep
#: on one side; a parabola with a cliff) stayed below 7.1%. Trials of one arm that share a seed share its luck: that is
#: not seen.
TUNING_DF = 2


@dataclass(frozen=True)
class Interval:
    """A mean improvement with the interval it lies in.

    Parameters
    ----------
    mean : float
        Mean of the n paired improvements, in the metric's unit; positive is better.
    low, high : float
        Ends of the interval; infinite where nothing bounds it (a single observation).
    sd : float
        Standard deviation of the paired improvements (divisor n - 1); NaN where the seeds are one observation: a
        single seed, or seeds that changed nothing.
    n : int
        Paired seeds.
    level : float
        Simultaneous confidence of the whole family of intervals.
    comparisons : int
        k, the size of that family.
    tuning_sd : tuple of float
        What tuning adds: sd of the arm's and of the baseline's metric at the rates that tuning chose.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int
    level: float
    comparisons: int = 1
    tuning_sd: tuple[float, float] = (0.0, 0.0)


def simultaneous_paired_intervals(
    differences: Mapping[str, ArrayLike], level: float = 0.95, repeated: Collection[str] = ()
) -> dict[str, Interval]:
    """Return each arm's mean improvement with its paired t interval, simultaneous over the arms.

    ``mean +- t(n - 1, 1 - (1 - level) / (2 k)) sd / sqrt(n)`` for each of the k arms (Bonferroni): all k intervals
    hold together with probability `level` at least, whatever the dependence between arms that share a baseline.

    **Seeds that changed nothing are one observation**, and bound nothing: n runs of the same computation would give
    an interval of no width. That is so for the `repeated`, and wherever the differences agree (to twelve digits) on
    something other than 0. Differences that are all exactly 0 are what a computation compared with itself gives:
    [0, 0], unless it is `repeated`.

    Parameters
    ----------
    differences : mapping of str to array of shape (n,)
        Improvements of each arm over the baseline, seed by seed. Diverged runs are ranked beforehand
        (`rank_diverged`), never dropped.
    level : float
        Default 0.95.
    repeated : collection of str
        Arms with n runs alike, of their own or of the baseline's.

    Returns
    -------
    dict of str to Interval
        A single observation, or a pair of which no run ended in a number, gives the whole line.

    Raises
    ------
    ValueError
        No seeds, a level outside (0, 1), numbers beside NaN or infinities.

    References
    ----------
    Dunn, "Multiple comparisons among means", 1961.

    Examples
    --------
    >>> found = simultaneous_paired_intervals({"muon": [0.08, 0.07, 0.09], "wsd": [0.01, -0.02, 0.0]})
    >>> round(found["muon"].low, 4), round(found["muon"].high, 4)
    (0.0442, 0.1158)
    >>> alone = simultaneous_paired_intervals({"muon": [0.08, 0.07, 0.09]})["muon"]
    >>> round(alone.low, 4), round(alone.high, 4)
    (0.0552, 0.1048)
    """
    family = len(differences)
    return {
        arm: paired_interval(d, level, family, arm in repeated, name=f"differences.{arm}")
        for arm, d in differences.items()
    }


def paired_interval(
    differences: ArrayLike,
    level: float = 0.95,
    comparisons: int = 1,
    repeated: bool = False,
    name: str = "differences",
) -> Interval:
    """Return the paired t interval of one arm among `comparisons`; see `simultaneous_paired_intervals`.

    Examples
    --------
    >>> found = paired_interval([0.08, 0.07, 0.09], comparisons=2)
    >>> round(found.low, 4), round(found.high, 4)
    (0.0442, 0.1158)
    """
    check_level(level)
    d = finite_or_none(differences, name)
    if d is None:
        return Interval(math.nan, -math.inf, math.inf, math.nan, np.size(differences), level, comparisons)
    mean, n = float(d.mean()), len(d)
    sd = math.nan if repeated or _agree(d) else float(d.std(ddof=1))
    half = float(half_widths(sd, np.array([n]), level, comparisons)[0])
    return Interval(mean, mean - half, mean + half, sd, n, level, comparisons)


def unpaired_interval(arm: ArrayLike, baseline: ArrayLike, better: str, level: float, comparisons: int = 1) -> Interval:
    """Return Welch's interval of the improvement of an arm over a baseline with which it shares no seeds.

    ``mean +- t(df, 1 - (1 - level) / (2 k)) sqrt(V)`` with ``V = s_a^2 / n_a + s_b^2 / n_b`` and Welch-Satterthwaite's
    ``df = V^2 / ((s_a^2 / n_a)^2 / (n_a - 1) + (s_b^2 / n_b)^2 / (n_b - 1))``. The `sd` of the result is that of a
    paired difference that would be as uncertain, ``sqrt(V n)`` with n the smaller of the two numbers of runs.

    Parameters
    ----------
    arm, baseline : array of shape (n_a,), (n_b,)
        The metric. Where a run diverged nothing bounds the difference, and the interval is the whole line: without
        pairs a rank says nothing about its size.
    better : "lower" or "higher"
    level : float
        Simultaneous confidence.
    comparisons : int
        k, the size of the family.

    Raises
    ------
    ValueError
        No runs, a level outside (0, 1), another word for `better`.

    References
    ----------
    Welch, "The generalization of Student's problem", 1947.

    Examples
    --------
    >>> found = unpaired_interval([2.0, 2.1, 1.9], [2.5, 2.4, 2.6, 2.5], "lower", 0.95)
    >>> round(found.mean, 4), round(found.low, 4), round(found.high, 4)
    (0.5, 0.3008, 0.6992)
    """
    from scipy import special

    check_level(level)
    sides = [np.asarray(values, dtype=float) for values in (arm, baseline)]
    if not all(side.ndim == 1 and len(side) for side in sides):
        raise ValueError("arm: got no runs; allowed: one value per run, at least one")
    n = min(len(side) for side in sides)
    direction = -sign(better)
    if not all(np.isfinite(side).all() for side in sides):
        return Interval(math.nan, -math.inf, math.inf, math.nan, n, level, comparisons)
    mean = direction * float(sides[0].mean() - sides[1].mean())
    parts = np.array([side.var(ddof=1) / len(side) if n > 1 else 0.0 for side in sides])
    total, freedom = float(parts.sum()), np.array([len(side) - 1 for side in sides])
    if not total:  # single runs, or runs of one computation, which are one observation
        return Interval(mean, -math.inf, math.inf, math.nan, n, level, comparisons)
    df = float(total**2 / (parts**2 / freedom).sum())
    half = -float(special.stdtrit(df, (1 - level) / (2 * comparisons))) * math.sqrt(total)
    return Interval(mean, mean - half, mean + half, math.sqrt(total * n), n, level, comparisons)


def _agree(d: NDArray[np.float64]) -> bool:
    """Whether differences are one observation: a single one, or all the same and not 0."""
    size = float(np.abs(d).max())
    return len(d) == 1 or (size > 0 and float(np.ptp(d)) <= 1e-12 * size)


def widen(interval: Interval, tuning_sd_arm: float, tuning_sd_baseline: float) -> Interval:
    """Return the interval with the variance that tuning adds to the mean improvement.

    Every seed of an arm runs at the one rate that tuning chose, so more seeds do not average tuning luck away. With
    tuning sds a and b the half-width is ``t(df) sqrt(V)``, ``V = sd^2 / n + a^2 + b^2``, and Welch-Satterthwaite's
    ``df = V^2 / ((sd^2 / n)^2 / (n - 1) + (a^4 + b^4) / 2)``. Widening again starts from the seeds, not on top.

    Parameters
    ----------
    interval : Interval
    tuning_sd_arm, tuning_sd_baseline : float
        As `fit_and_refine` gives them, in the metric's unit; 0 for what was not tuned; infinite is allowed.

    Raises
    ------
    ValueError
        A negative sd, or NaN.

    References
    ----------
    Welch, "The generalization of Student's problem", 1947.

    Examples
    --------
    >>> plain = Interval(0.03, 0.01, 0.05, sd=0.0239, n=8, level=0.95)
    >>> wide = widen(plain, 0.01, 0.005)
    >>> round(wide.low, 4), round(wide.high, 4)
    (-0.0038, 0.0638)
    """
    for name, sd in (("tuning_sd_arm", tuning_sd_arm), ("tuning_sd_baseline", tuning_sd_baseline)):
        if not sd >= 0:
            raise ValueError(f"{name}: got {sd}; allowed: a standard deviation, 0 or more")
    tuning = (float(tuning_sd_arm), float(tuning_sd_baseline))
    sizes = np.array([interval.n])
    half = float(half_widths(interval.sd, sizes, interval.level, interval.comparisons, tuning)[0])
    if math.isinf(half):
        return replace(interval, low=-math.inf, high=math.inf, tuning_sd=tuning)
    return replace(interval, low=interval.mean - half, high=interval.mean + half, tuning_sd=tuning)


def open_to_diverged(interval: Interval, ranked: Ranked, p_value: float) -> Interval:
    """Return the interval with what diverged runs leave open; as it is where none of the pair diverged.

    - Two runs that both diverged may differ by the penalty P either way: with c such seeds of n, both ends move
      outward by ``c P / n``, a margin per such seed at least. So such a pair is never the same either.
    - Penalties have a rank, not a size: the interval holds 0 unless the sign-flip test rejects at its share of the
      error, ``p <= (1 - level) / k``. An arm of which every run diverged is worse than one of which none did from
      `least_seeds` on, and not before.

    Widen by tuning noise first.

    Parameters
    ----------
    interval : Interval
    ranked : Ranked
        As `rank_diverged` gives it.
    p_value : float
        Of the sign-flip test on the same improvements.

    References
    ----------
    Manski, "Partial Identification of Probability Distributions", 2003, for what ties may hide.

    Examples
    --------
    >>> from regimes.study.verdicts import rank_diverged
    >>> pair = rank_diverged([2.0, 2.1, float("nan")], [2.1, 2.2, float("nan")], "lower", margin=0.1)
    >>> found = open_to_diverged(Interval(0.07, 0.01, 0.13, sd=0.06, n=3, level=0.95), pair, p_value=0.5)
    >>> round(found.low, 4), round(found.high, 4)
    (-0.09, 0.23)
    """
    if not ranked.diverged:
        return interval
    hidden = ranked.both * ranked.penalty / interval.n
    low, high = interval.low - hidden, interval.high + hidden
    if p_value > (1 - interval.level) / interval.comparisons:
        low, high = min(low, 0.0), max(high, 0.0)
    return replace(interval, low=low, high=high)


def half_widths(
    sd: float,
    sizes: NDArray[np.integer],
    level: float,
    comparisons: int,
    tuning_sd: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float64]:
    """Return the interval's half-width at each number of seeds in `sizes`; infinite where n = 1.

    Examples
    --------
    >>> half_widths(1.0, np.array([1, 4, 9]), 0.95, 1).round(4)
    array([   inf, 1.5912, 0.7687])
    """
    from scipy import special

    a, b = tuning_sd
    if not math.isfinite(sd) or math.isinf(a) or math.isinf(b):
        return np.full(len(sizes), math.inf)
    n = np.maximum(sizes, 2).astype(float)
    seeds = sd**2 / n
    scale = float(max(sd, a, b)) or 1.0  # sd^4 must not underflow
    squares = (seeds / scale**2) ** 2 / (n - 1) + ((a / scale) ** 4 + (b / scale) ** 4) / TUNING_DF
    total = seeds + a**2 + b**2
    df = np.divide((total / scale**2) ** 2, squares, out=n - 1, where=squares > 0)
    quantile = -special.stdtrit(df, (1 - level) / (2 * comparisons))
    return np.where(sizes > 1, quantile * np.sqrt(total), math.inf)


def finite_or_none(values: ArrayLike, name: str) -> NDArray[np.float64] | None:
    """Return `values` as an array of numbers; None where not one of them is a number.

    Raises
    ------
    ValueError
        No values, not one-dimensional, numbers beside NaN or infinities.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: got shape {array.shape}; allowed: one value per seed, at least one")
    finite = np.isfinite(array)
    if finite.all():
        return array
    if not finite.any():
        return None
    place = int(np.argmin(finite))
    raise ValueError(f"{name}: got {array[place]} in place {place}; rank diverged runs first, with rank_diverged")


def check_level(level: float) -> None:
    """Refuse a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}; allowed: a confidence between 0 and 1, such as 0.95")
