"""From values per seed to a word: improvements, diverged runs, the four verdicts, the outcome of a claim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def improvement(arm_values: ArrayLike, baseline_values: ArrayLike, better: str = "lower") -> NDArray[np.float64]:
    """Return the arm's improvement over the baseline, seed by seed; positive is better.

    Parameters
    ----------
    arm_values, baseline_values : array of shape (n,)
        The metric, the same seeds in the same order.
    better : "lower" or "higher"

    Raises
    ------
    ValueError
        Different numbers of seeds, another word for `better`.

    Examples
    --------
    >>> improvement([2.0, 1.0], [2.5, 0.5])
    array([ 0.5, -0.5])
    >>> improvement([0.75], [0.5], better="higher")
    array([0.25])
    """
    arm, baseline = _paired(arm_values, baseline_values)
    return (baseline - arm) * sign(better)


def _paired(arm_values: ArrayLike, baseline_values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    arm, baseline = np.asarray(arm_values, dtype=float), np.asarray(baseline_values, dtype=float)
    if arm.shape != baseline.shape:
        raise ValueError(
            f"arm_values: got shape {arm.shape}, the baseline has {baseline.shape}; allowed: the same seeds"
        )
    return arm, baseline


@dataclass(frozen=True)
class Ranked:
    """An arm and its baseline, with a number for every run (`rank_diverged`).

    Parameters
    ----------
    arm, baseline : array of shape (n,)
        The metric; diverged runs stand at the worst of the pair, and `penalty` beyond.
    penalty : float
        P, in the metric's unit.
    diverged : int
        Runs of the two that diverged.
    both : int
        Seeds on which both did.
    """

    arm: NDArray[np.float64]
    baseline: NDArray[np.float64]
    penalty: float
    diverged: int
    both: int


def rank_diverged(arm_values: ArrayLike, baseline_values: ArrayLike, better: str, margin: float) -> Ranked:
    """Replace what is no number by something worse than every number of the two arms compared.

    A diverged run is a result, the worst there is: dropping it would reward an arm for failing. It gets the worst
    finite value of the pair, and a penalty on top,

        ``P = max(range of the pair, n m)``

    with n seeds and margin m. So its rank is beyond doubt, and one such run among n moves the mean improvement by a
    margin at least: **an arm that diverged where the baseline did not, or the other way round, is never the same**
    (one difference lies P from where the others would have to be, so the half-width is above t m, and t is above 1 at
    any level from 0.69). Only the pair is read: no third arm can change its verdict. Where both diverged on a seed,
    they tie; what that hides is added to the interval (`intervals.open_to_diverged`).

    How much worse a diverged run is, nobody can say: signs and verdicts of a pair that diverged mean something, the
    size of its difference does not. An infinite value of either sign counts as diverged. Where not one run of the
    pair ended in a number, nothing can be ranked and the values stay as they are: their interval is the whole line.

    Parameters
    ----------
    arm_values, baseline_values : array of shape (n,)
        The metric, the same seeds in the same order.
    better : "lower" or "higher"
    margin : float
        m, the smallest difference that matters, in the metric's unit; above 0.

    Raises
    ------
    ValueError
        Different numbers of seeds, another word for `better`, a margin that is not above 0.

    References
    ----------
    Lachin, "Worst-rank score analysis with informatively missing observations in clinical trials", 1999.

    Examples
    --------
    >>> found = rank_diverged([2.0, float("nan")], [2.5, 3.0], "lower", margin=0.1)
    >>> found.arm, found.penalty, found.diverged
    (array([2., 4.]), 1.0, 1)
    >>> rank_diverged([2.0, float("nan")], [2.5, 3.0], "lower", margin=5.0).arm
    array([ 2., 13.])
    """
    check_margin(margin)
    direction = sign(better)
    arm, baseline = _paired(arm_values, baseline_values)
    bad, bad_baseline = ~np.isfinite(arm), ~np.isfinite(baseline)
    finite = np.concatenate([arm[~bad], baseline[~bad_baseline]])
    penalty = len(arm) * margin
    if len(finite):
        penalty = max(float(np.ptp(finite)), penalty)
        last = float((finite * direction).max()) * direction + direction * penalty
        arm, baseline = np.where(bad, last, arm), np.where(bad_baseline, last, baseline)
    return Ranked(arm, baseline, penalty, int(bad.sum() + bad_baseline.sum()), int((bad & bad_baseline).sum()))


def verdict(low: float, high: float, margin: float) -> str:
    """Return better, worse, same or undecided, from the interval of the improvement.

    With margin m: **same** if -m < low and high < m; **better** if low > 0 and high >= m; **worse** if high < 0 and
    low <= -m; else **undecided**. An improvement surely above 0 and surely below m is the same: it does not matter.

    Parameters
    ----------
    low, high : float
        The interval of the improvement (positive is better).
    margin : float
        m, the smallest difference that matters, in the metric's unit; above 0.

    Raises
    ------
    ValueError
        A margin that is not above 0 (with 0 nothing could ever be the same), low above high, NaN.

    Examples
    --------
    >>> verdict(0.061, 0.089, 0.02), verdict(-0.011, 0.017, 0.02), verdict(-0.013, 0.027, 0.02)
    ('better', 'same', 'undecided')
    >>> verdict(0.001, 0.019, 0.02), verdict(-0.05, -0.01, 0.02)
    ('same', 'worse')
    """
    check_margin(margin)
    if not low <= high:
        raise ValueError(f"interval: got low {low} and high {high}; allowed: low at most high")
    if -margin < low and high < margin:
        return "same"
    if low > 0 and high >= margin:
        return "better"
    if high < 0 and low <= -margin:
        return "worse"
    return "undecided"


def claim_outcome(low: float, high: float, margin: float, says: str = "better") -> str:
    """Return what a study says about the claim that an arm is better, or not worse: shown, contradicted or inconclusive.

    Better is shown by that verdict, and contradicted if high < m: an improvement that matters is ruled out. Not worse
    is shown if low > -m: a loss that matters is ruled out; and contradicted if high <= -m: there surely is one. Else
    inconclusive. Always at the scale at which it was tested.

    Parameters
    ----------
    low, high, margin : float
        As in `verdict`.
    says : "better" or "not worse"

    Raises
    ------
    ValueError
        As `verdict`.

    Examples
    --------
    >>> claim_outcome(0.01, 0.05, 0.02), claim_outcome(-0.03, 0.01, 0.02), claim_outcome(-0.03, 0.03, 0.02)
    ('shown', 'contradicted', 'inconclusive')
    >>> [claim_outcome(*ends, 0.02, "not worse") for ends in ((-0.01, 0.05), (-0.05, -0.02), (-0.03, 0.03))]
    ['shown', 'contradicted', 'inconclusive']
    """
    if says == "not worse":
        verdict(low, high, margin)  # refuses what is no interval
        return "shown" if low > -margin else "contradicted" if high <= -margin else "inconclusive"
    if verdict(low, high, margin) == "better":
        return "shown"
    return "contradicted" if high < margin else "inconclusive"


def one_seed_wins(differences: ArrayLike) -> int:
    """Return how many seeds alone would have called the arm better; a tie is no win.

    Examples
    --------
    >>> one_seed_wins([0.3, -0.1, 0.2, 0.0])
    2
    """
    return int(np.count_nonzero(np.asarray(differences, dtype=float) > 0))


def sign(better: str) -> int:
    """Return 1 where lower is better, -1 where higher is.

    Raises
    ------
    ValueError
        Any other word.
    """
    if better not in ("lower", "higher"):
        raise ValueError(f"better: got {better!r}; allowed: 'lower' or 'higher'")
    return 1 if better == "lower" else -1


def check_margin(margin: float) -> None:
    """Refuse a margin that is not a number above 0."""
    if not 0 < margin < math.inf:
        raise ValueError(
            f"margin: got {margin}; allowed: the smallest difference that matters, above 0 (with 0 no two arms "
            "could ever be the same)"
        )
