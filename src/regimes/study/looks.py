"""Looking early without lying: at which numbers of seeds a study may look, and how sure it has to be at each look."""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regimes.study.intervals import check_level
from regimes.study.sign_flip import least_seeds

#: Exponent of the power family by which the error is spent: little early, most at the end.
SPENDING = 2.0
#: Seeds between two looks.
EVERY = 2
#: Simulated studies by which the levels for estimated sds are found, and on which a bill is made out.
PATHS = 60_000
_NODES = 201
_FAR = 8.0


@dataclass(frozen=True)
class Looks:
    """A group-sequential design: its looks, and the level of each.

    At look j of K, with n_j of at most n_K seeds, every comparison has the paired t interval at its own nominal level
    1 - p_j. All K intervals hold together with probability `level`, so a study may stop at the first that decides.
    The error is spent by the power family, ``a(t) = alpha t^2`` at the share t = n_j / n_K of the seeds: p_1 ... p_K
    are those at which Brownian motion has left its bounds by then with probability a(t), and are then scaled by one
    factor so that the same holds of t statistics, whose sds are estimated (by simulation from a fixed stream).

    Parameters
    ----------
    sizes : tuple of int
        Seeds at each look, in order.
    level : float
        Simultaneous confidence over arms and looks.
    comparisons : int
        k, the arms beside the baseline; each spends ``(1 - level) / k``.

    Raises
    ------
    ValueError
        Sizes that do not rise from 2, a level outside (0, 1), no comparison.

    References
    ----------
    Kim and DeMets, "Design and analysis of group sequential tests based on the type I error spending rate function",
    1987. Jennison and Turnbull, "Interim analyses: the repeated confidence interval approach", 1989.

    Examples
    --------
    >>> looks = Looks((6, 8, 10, 12), 0.95)
    >>> [round(1 - looks.level_at(n), 4) for n in looks.sizes]
    [0.0112, 0.0145, 0.0213, 0.03]
    """

    sizes: tuple[int, ...]
    level: float
    comparisons: int = 1

    def __post_init__(self) -> None:
        check_level(self.level)
        if not self.sizes or self.sizes[0] < 2 or any(a >= b for a, b in zip(self.sizes, self.sizes[1:])):
            raise ValueError(f"sizes: got {self.sizes}; allowed: rising numbers of seeds, at least 2")
        if self.comparisons < 1:
            raise ValueError(f"comparisons: got {self.comparisons}; allowed: 1 or more arms beside the baseline")

    @classmethod
    def up_to(cls, most: int, level: float, comparisons: int) -> Looks:
        """Return the looks of a study of at most `most` seeds: from the least that can show anything, every second.

        Raises
        ------
        ValueError
            If so few seeds can show nothing.

        Examples
        --------
        >>> Looks.up_to(13, 0.95, 1).sizes
        (6, 8, 10, 12, 13)
        """
        least = least_seeds(level, comparisons)
        if most < least:
            raise ValueError(f"got {most}; allowed: at least {least} seeds, fewer can show nothing")
        return cls((*range(least, most, EVERY), most), level, comparisons)

    def level_at(self, n: int) -> float:
        """Return the simultaneous level over arms of the look at `n` seeds.

        Raises
        ------
        ValueError
            If there is no look at so many.
        """
        if n not in self.sizes:
            raise ValueError(f"n: got {n}; allowed: {', '.join(map(str, self.sizes))}")
        return 1 - self.comparisons * self._nominal()[self.sizes.index(n)]

    def _nominal(self) -> tuple[float, ...]:
        return _nominal(self.sizes, (1 - self.level) / self.comparisons)


def spent(share: float, alpha: float) -> float:
    """Return the error that may be spent up to a share of the seeds.

    Examples
    --------
    >>> round(spent(0.5, 0.05), 4), spent(1.0, 0.05)
    (0.0125, 0.05)
    """
    return alpha * share**SPENDING


def bounds(shares: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    """Return c_1 ... c_K: Brownian motion at these shares has left ``+- c_j sqrt(t_j)`` by look j as often as is spent.

    The density of what has not left is integrated from look to look by Gauss-Legendre (Armitage, McPherson and Rowe).

    Parameters
    ----------
    shares : tuple of float
        Rising, the last is 1.
    alpha : float
        Two-sided error.

    Examples
    --------
    >>> [round(c, 4) for c in bounds((0.5, 1.0), 0.05)]
    [2.4977, 2.0183]
    """
    from scipy import special
    from scipy.optimize import brentq

    found = [float(-special.ndtri(spent(shares[0], alpha) / 2))]
    x, mass = _kept(found[0], shares[0], None)
    for before, share in zip(shares, shares[1:]):
        step, more = math.sqrt(share - before), spent(share, alpha) - spent(before, alpha)

        def short(end: float) -> float:
            leaves = special.ndtr((-end - x) / step) + special.ndtr((x - end) / step)  # noqa: B023 (used at once)
            return float(mass @ leaves) - more  # noqa: B023

        end = float(brentq(short, 1e-9, _FAR * 5, xtol=1e-14, rtol=1e-14))
        found.append(end / math.sqrt(share))
        x, mass = _kept(found[-1], share, (x, mass, before))
    return tuple(found)


def _kept(
    bound: float, share: float, last: tuple[NDArray[np.float64], NDArray[np.float64], float] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes within the bound at a share, and the probability at each of not having left before."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    end = min(bound, _FAR) * math.sqrt(share)
    y, width = end * nodes, end * weights
    if last is None:
        return y, width * np.exp(-(y**2) / (2 * share)) / math.sqrt(2 * math.pi * share)
    x, mass, before = last
    step = share - before
    moves = np.exp(-((y[:, None] - x) ** 2) / (2 * step)) / math.sqrt(2 * math.pi * step)
    return y, width * (moves @ mass)


@functools.lru_cache(maxsize=64)
def _nominal(sizes: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """Nominal two-sided p of each look, for t statistics."""
    from scipy import special

    normal = 2 * special.ndtr(-np.array(bounds(tuple(n / sizes[-1] for n in sizes), alpha)))
    # Of every simulated study the smallest factor by which one of its looks would reject: the alpha-quantile is exact.
    mean, sd = _looked_at(sizes)
    p = 2 * special.stdtr(np.array(sizes)[:, None] - 1.0, -np.abs(mean) * np.sqrt(np.array(sizes))[:, None] / sd)
    factor = float(np.quantile((p / normal[:, None]).min(0), alpha))
    return tuple(map(float, normal * min(factor, 1.0)))


@functools.lru_cache(maxsize=8)
def _looked_at(sizes: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and sds at each look, of shape (looks, paths), of standard normal differences."""
    digest = hashlib.blake2b(f"regimes.study.looks:{sizes}".encode(), digest_size=16).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    total, squares = np.zeros(PATHS), np.zeros(PATHS)
    means, sds, drawn = [], [], 0
    for n in sizes:
        for _ in range(n - drawn):
            value = stream.standard_normal(PATHS)
            total += value
            squares += value**2
        drawn = n
        mean = total / n
        means.append(mean)
        sds.append(np.sqrt(np.maximum(squares - n * mean**2, 0) / (n - 1)))
    return np.array(means), np.array(sds)


@dataclass(frozen=True)
class Bill:
    """What a study that may stop early is likely to need, per arm.

    Parameters
    ----------
    low, high : int
        Seeds between which four of five such studies stop.
    mean : float
        Seeds on average.
    decided : float
        Share of such studies that decide within the most seeds.
    """

    low: int
    high: int
    mean: float
    decided: float


def bill(looks: Looks, effect: float, sd: float, margin: float) -> Bill:
    """Return what a study needs if the true improvement is `effect`, by simulated studies from a fixed stream.

    Parameters
    ----------
    looks : Looks
    effect, sd : float
        True mean and sd of the paired differences.
    margin : float
        The smallest difference that matters.

    Examples
    --------
    >>> found = bill(Looks.up_to(24, 0.95, 1), effect=0.04, sd=0.025, margin=0.02)
    >>> found.low, found.high, round(found.decided, 2)
    (6, 12, 1.0)
    """
    from scipy import special

    mean, spread = _looked_at(looks.sizes)
    n = np.array(looks.sizes, dtype=float)[:, None]
    quantile = -special.stdtrit(n - 1, np.array(looks._nominal())[:, None] / 2)
    middle, half = effect + sd * mean, quantile * sd * spread / np.sqrt(n)
    low, high = middle - half, middle + half
    decided = ((low > -margin) & (high < margin)) | ((low > 0) & (high >= margin)) | ((high < 0) & (low <= -margin))
    ever = decided.any(0)
    stops = np.where(ever, np.array(looks.sizes)[decided.argmax(0)], looks.sizes[-1])
    ends = np.quantile(stops, [0.1, 0.9], method="nearest")
    return Bill(int(ends[0]), int(ends[1]), float(stops.mean()), float(ever.mean()))
