"""The sign-flip test, and how many seeds it takes before it can say anything."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regimes.study.intervals import check_level, finite_or_none

#: Up to this many seeds all 2^n sign patterns are counted; beyond, `DRAWS` of them are drawn.
EXACT_SEEDS = 20
DRAWS = 99_999


def sign_flip_p(differences: ArrayLike) -> float:
    """Return the two-sided p value of the sign-flip test on paired differences.

    If an arm and the baseline are interchangeable, every sign of every difference is as likely as the other. p is
    the share of the 2^n sign patterns whose sum is at least as far from 0 as the one observed, itself among them.
    It assumes no distribution, and can never fall below 2^(1-n). All patterns are counted up to 20 seeds; beyond,
    99,999 are drawn from a fixed stream that n alone addresses, and p = (1 + hits) / 100,000.

    Parameters
    ----------
    differences : array of shape (n,)
        Where none of them is a number (a study in which every run diverged) there is no evidence, and p is 1.

    Raises
    ------
    ValueError
        No seeds, numbers beside NaN or infinities.

    References
    ----------
    Fisher, "The Design of Experiments", 1935, section 21.

    Examples
    --------
    >>> sign_flip_p([1.0, 2.0, 3.0, 4.0]), sign_flip_p([1.0, 2.0, 3.0, -4.0])
    (0.125, 0.875)
    """
    d = finite_or_none(differences, "differences")
    if d is None:
        return 1.0
    # Patterns that tie with the observed one differ from it by rounding; n eps sum|d| bounds that of either sum.
    far = abs(float(d.sum())) - 2 * len(d) * np.finfo(float).eps * float(np.abs(d).sum())
    if len(d) <= EXACT_SEEDS:
        return float(np.mean(np.abs(_all_sums(d)) >= far))
    return (1 + _drawn_hits(d, far)) / (1 + DRAWS)


def _all_sums(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over half of the patterns; the other half mirrors them."""
    sums = d[:1]
    for value in d[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _drawn_hits(d: NDArray[np.float64], far: float) -> int:
    digest = hashlib.blake2b(f"regimes.study.sign_flip:{len(d)}".encode(), digest_size=16).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    hits, left, rows = 0, DRAWS, max(1, 1_000_000 // len(d))
    while left:
        signs = 1 - 2 * stream.integers(0, 2, (min(rows, left), len(d)), dtype=np.int8)
        hits += int(np.count_nonzero(np.abs(signs @ d) >= far))
        left -= len(signs)
    return hits


def least_seeds(level: float, comparisons: int) -> int:
    """Return the least n with 2^(1-n) <= (1 - level) / k: the seeds without which the sign-flip test is mute.

    Parameters
    ----------
    level : float
        Simultaneous confidence.
    comparisons : int
        k, the arms beside the baseline; 1 or more.

    Raises
    ------
    ValueError
        A level outside (0, 1), no comparison.

    Examples
    --------
    >>> [least_seeds(0.95, k) for k in (1, 2, 3, 6)]
    [6, 7, 7, 8]
    """
    check_level(level)
    if comparisons < 1:
        raise ValueError(f"comparisons: got {comparisons}; allowed: 1 or more arms beside the baseline")
    n = 1
    while 2.0 ** (1 - n) > (1 - level) / comparisons:
        n += 1
    return n


def refuse_too_few(seeds: int, comparisons: int, level: float) -> None:
    """Refuse a study whose seeds could not show anything at this level, however good the arm.

    Raises
    ------
    ValueError
        Fewer seeds than `least_seeds`; the sentence says how many it takes.

    Examples
    --------
    >>> refuse_too_few(5, 1, 0.95)
    Traceback (most recent call last):
        ...
    ValueError: got 5; allowed: at least 6 seeds: 5 that all agree are p = 0.062 by chance, 1 comparison takes 0.05
    """
    least = least_seeds(level, comparisons)
    if seeds < least:
        several = f"{comparisons} comparisons" if comparisons > 1 else "1 comparison"
        chance = min(1.0, 2.0 ** (1 - seeds))
        raise ValueError(
            f"got {seeds}; allowed: at least {least} seeds: {seeds} that all agree are p = {chance:.2g} by chance, "
            f"{several} take{'' if comparisons > 1 else 's'} {(1 - level) / comparisons:.2g}"
        )


def least_rank_p(arm: int, baseline: int) -> float:
    """Return the least two-sided p value of a rank test on so many unpaired runs: every run of one above all others'.

    ``p = 2 / C(n + m, n)``, of Mann and Whitney's test without ties.

    Parameters
    ----------
    arm, baseline : int
        n and m, the runs of each; 1 or more.

    References
    ----------
    Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the other", 1947.

    Examples
    --------
    >>> round(least_rank_p(3, 3), 4), round(least_rank_p(4, 4), 4)
    (0.1, 0.0286)
    """
    return min(1.0, 2.0 / math.comb(arm + baseline, arm))
