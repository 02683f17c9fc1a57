"""Ranks early against ranks at the end: correlations, and what is lost by keeping the most promising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Point:
    """A run of a sweep; lower is better of both numbers, and infinite is the worst.

    Parameters
    ----------
    configuration : str
    seed : int
    early, final : float
        What it showed early, and at its end; of the latter the mean over the configuration's seeds, once it is known.
    group : str or None
        What it is compared within.
    """

    configuration: str
    seed: int
    early: float
    final: float
    group: str | None = None

    def with_truth(self, final: float) -> Point:
        """Return it with the configuration's mean."""
        return replace(self, final=final)


Sweep = Sequence[Point]


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation with its interval; not a number where all ranks are equal."""

    rho: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.rho:+.2f} [{self.low:+.2f}, {self.high:+.2f}] ({self.n} configurations)"


@dataclass(frozen=True)
class Keep:
    """What keeping a share of the runs would have done.

    Parameters
    ----------
    share : float
    dropped, sweeps : int
        In how many sweeps the best configuration would have been dropped.
    low, high : float
        Interval of how often.
    lost : float
        Final metric given up on average: of the best that is kept against the best.
    saved : float
        Share of all steps that would not have been made.
    """

    share: float
    dropped: int
    sweeps: int
    low: float
    high: float
    lost: float
    saved: float

    def __str__(self) -> str:
        seeds = f"{self.sweeps} seed{'s' * (self.sweeps > 1)}"
        return (
            f"keep {self.share:.0%}: the best is dropped on {self.dropped} of {seeds} [{self.low:.0%}, {self.high:.0%}], "
            f"{self.lost:.3g} lost on average, {self.saved:.0%} of the steps saved"
        )


def centered_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return middle ranks, less their mean.

    Examples
    --------
    >>> centered_ranks([0.5, 0.1, float("inf"), 0.5]).tolist()
    [0.0, -1.5, 1.5, 0.0]
    """
    from scipy import stats

    ranks = stats.rankdata(values)
    return np.asarray(ranks - ranks.mean(), dtype=float)


def spearman(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> float:
    """Return Spearman's correlation; of several groups, of ranks within each, pooled.

    Examples
    --------
    >>> spearman([([1, 2, 3], [2, 1, 3])]), spearman([([1, 2], [5, 6]), ([9, 8], [1, 0])])
    (0.5, 1.0)
    """
    x, y = (np.concatenate([centered_ranks(pair[side]) for pair in pairs]) for side in (0, 1))
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else math.nan


def interval(rho: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Bonett and Wright's interval of a Spearman correlation over n pairs.

    A correlation of 1 is taken for the largest below it that n ranks can have: else its interval would be a point.

    Examples
    --------
    >>> [round(end, 3) for end in interval(0.5, 28)], [round(end, 3) for end in interval(1.0, 5)]
    ([0.133, 0.747], [-0.169, 1.0])
    """
    from scipy import special

    if not math.isfinite(rho) or n < 4:
        return -1.0, 1.0
    most = 1.0 - 12.0 / (n**3 - n)
    at = min(max(rho, -most), most)
    half = float(special.ndtri((1 + level) / 2)) * math.sqrt((1 + at**2 / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(at) + side * half) for side in (-1, 1))
    return (-1.0 if rho <= -most else low), (1.0 if rho >= most else high)


def _mean(found: Sequence[float], n: int) -> Correlation:
    known = [rho for rho in found if math.isfinite(rho)]
    rho = math.fsum(known) / len(known) if known else math.nan
    return Correlation(rho, *interval(rho, n), n)


def overall(sweeps: Sequence[Sweep]) -> Correlation:
    """Return the correlation over all configurations, averaged over the sweeps."""
    n = len({point.configuration for sweep in sweeps for point in sweep})
    return _mean([spearman([([p.early for p in sweep], [p.final for p in sweep])]) for sweep in sweeps], n)


def within_groups(sweeps: Sequence[Sweep]) -> Correlation | None:
    """Return the correlation among configurations of one group; None where fewer than four are left of it.

    Each group beyond the first takes one from the number of configurations: its mean rank is fixed.
    """
    names: dict[str | None, set[str]] = {}
    for point in (point for sweep in sweeps for point in sweep):
        names.setdefault(point.group, set()).add(point.configuration)
    several = {group for group, found in names.items() if len(found) > 1}
    n = sum(len(names[group]) for group in several) - max(len(several) - 1, 0)
    if n < 4:
        return None
    found = []
    for sweep in sweeps:
        parts = [[point for point in sweep if point.group == group] for group in sorted(several, key=str)]
        found.append(spearman([([p.early for p in part], [p.final for p in part]) for part in parts if part]))
    return _mean(found, n)


def kept(sweeps: Sequence[Sweep], share: float, at: float) -> Keep:
    """Return what keeping the most promising share of every sweep would have done; ties with the last kept are kept."""
    from scipy import stats

    dropped, lost, stopped, runs = 0, [], 0, 0
    for sweep in sweeps:
        count = max(math.ceil(share * len(sweep) - 1e-9), 1)
        last = sorted(point.early for point in sweep)[count - 1]
        staying = [point.final for point in sweep if point.early <= last]
        best = min(point.final for point in sweep)
        dropped += min(staying) > best
        lost.append(min(staying) - best if min(staying) > best else 0.0)
        stopped, runs = stopped + len(sweep) - len(staying), runs + len(sweep)
    found = stats.binomtest(dropped, len(sweeps)).proportion_ci(LEVEL)
    return Keep(
        share,
        dropped,
        len(sweeps),
        float(found.low),
        float(found.high),
        float(np.mean(lost)),
        (1 - at) * stopped / runs,
    )
