"""Successive halving: how many arms stay after each rung, on how many seeds, and how often the best one is lost."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Arms beside the baseline that are judged at the end. Two, so that the hardest choice, of the best of the last two, is
#: never made by a rung.
FINALISTS = 2
#: Seeds of the first rung; each rung adds twice as many as the one before.
FIRST = 1
#: Simulated studies on which the chance to keep the best arm is made out.
PATHS = 20_000


@dataclass(frozen=True)
class Halving:
    """Successive halving of the arms of a study, in seeds: every run has its whole budget.

    Of n arms beside the baseline, all have one seed in the first rung, the better half of them two more in the second,
    the better half of those four more, and so on, until two are left: each rung costs about as many runs. Arms are
    ranked by the mean of all their seeds so far, those with fewer diverged runs first. The two that are left, and the
    baseline, are then trained on seeds that chose nothing, and only there is anything judged: on the seeds of the rungs
    the arms that are left look better than they are, because they were chosen by them.

    Parameters
    ----------
    arms : int
        n, at least one more than `FINALISTS`.

    Raises
    ------
    ValueError
        Fewer arms.

    Notes
    -----
    Rungs of shortened runs, as in Hyperband, would cost less where a run is a prefix of a longer one. A regime whose
    schedule is read over its budget has no such prefixes, and what leads early need not lead at the end; seeds ask the
    question that the study asks.

    References
    ----------
    Karnin, Koren and Somekh, "Almost optimal exploration in multi-armed bandits", 2013. Jamieson and Talwalkar,
    "Non-stochastic best arm identification and hyperparameter optimization", 2016.

    Examples
    --------
    >>> halving = Halving(16)
    >>> halving.sizes, halving.seeds, halving.runs(8)
    ((16, 8, 4, 2), (1, 3, 7), 72)
    >>> round(halving.keeps_best(2.0), 2)
    0.97
    """

    arms: int

    def __post_init__(self) -> None:
        if self.arms <= FINALISTS:
            raise ValueError(
                f"got {self.arms} beside the baseline; allowed: at least {FINALISTS + 1}, fewer are judged at once"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Arms beside the baseline in each rung, and those that are judged; of an odd number the larger half stays."""
        found = [self.arms]
        while found[-1] > FINALISTS:
            found.append(max(math.ceil(found[-1] / 2), FINALISTS))
        return tuple(found)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that an arm of each rung has had by its end."""
        return tuple(FIRST * (2 ** (rung + 1) - 1) for rung in range(len(self.sizes) - 1))

    def runs(self, final: int) -> int:
        """Return the runs of a study that judges its last arms, and the baseline, on so many seeds."""
        added = np.diff([0, *self.seeds])
        return int(np.dot(self.sizes[:-1], added)) + (FINALISTS + 1) * final

    def keeps_best(self, effect: float) -> float:
        """Return how often the best arm is among those that are judged, by simulated studies from a fixed stream.

        Parameters
        ----------
        effect : float
            By how much it is better than all others, which are equal, in sds of a run (of what is left of them where a
            seed that does the same to every arm is taken out).
        """
        return _keeps_best(self.sizes, self.seeds, float(effect))

    @property
    def words(self) -> str:
        """In words."""
        at = [f"{seeds} seed{'s' * (seeds > 1)}" for seeds in self.seeds]
        return f"{self.arms} arms leave by half after {', '.join(at)} until {FINALISTS} are left"


def ranked(values: Mapping[str, Sequence[float]], better: str) -> list[str]:
    """Return the names of arms, best first: fewer diverged runs first, then the better mean of the others.

    Ties are in the order given.

    Examples
    --------
    >>> nan = float("nan")
    >>> ranked({"a": [2.0, 1.0], "b": [1.0, 1.0], "c": [0.1, nan], "d": [1.0, 1.0]}, "lower")
    ['b', 'd', 'a', 'c']
    """
    sign = 1.0 if better == "lower" else -1.0

    def key(name: str) -> tuple[int, float]:
        finite = [value for value in values[name] if math.isfinite(value)]
        return len(values[name]) - len(finite), sign * math.fsum(finite) / len(finite) if finite else 0.0

    return sorted(values, key=key)


@functools.lru_cache(maxsize=64)
def _keeps_best(sizes: tuple[int, ...], seeds: tuple[int, ...], effect: float) -> float:
    digest = hashlib.blake2b(f"regimes.study.halving:{sizes}".encode(), digest_size=16).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    shift = np.zeros(sizes[0])
    shift[0] = effect
    total = np.zeros((PATHS, sizes[0]))
    there, rows = np.ones_like(total, dtype=bool), np.arange(PATHS)[:, None]
    before = 0
    for keep, count in zip(sizes[1:], seeds):
        added = count - before
        total += added * shift + math.sqrt(added) * stream.standard_normal(total.shape)
        before = count
        best = np.argsort(np.where(there, total, -math.inf), axis=1)[:, -keep:]
        there = np.zeros_like(there)
        there[rows, best] = True
    return float(there[:, 0].mean())
