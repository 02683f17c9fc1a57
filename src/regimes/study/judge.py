"""From the runs of a study to its verdicts: every arm against the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regimes.core.errors import RegimesError
from regimes.study import statistics
from regimes.study.arms import Arm
from regimes.study.choice import choose

Values = NDArray[np.float64]


def judge(design: Any, arms: list[Arm]) -> None:
    """Give every arm but the baseline its comparison; none where a run of the two failed, which is never a value.

    Runs are paired by seed, over the seeds that both arms have; where the design is not paired, all runs of both
    count.
    """
    full = {arm.name: arm for arm in arms if arm.outcomes and not arm.failed}
    if design.baseline not in full:
        return
    base = full[design.baseline]
    for arm in (arm for arm in full.values() if arm is not base):
        arm.comparison = compared(design, arm, base, _family(design, full))


def compared(design: Any, arm: Arm, base: Arm, comparisons: int) -> dict[str, Any] | None:
    """Return the comparison of one arm with one baseline, None where there is nothing to compare (yet).

    Parameters
    ----------
    design : Design
    arm, base : Arm
        Without failed runs.
    comparisons : int
        Size of the family over which the intervals are simultaneous.
    """
    theirs = set(base.seeds)
    seeds = [seed for seed in arm.seeds if seed in theirs]
    if design.paired and (not seeds or (design.looks is not None and len(seeds) not in design.looks.sizes)):
        return None
    luck = _tuning_luck(design, arm), _tuning_luck(design, base)
    repeated = repeats(arm, design.metric) or repeats(base, design.metric)
    pair = _Pair(design, comparisons, luck, repeated)
    return pair.paired(arm, base, seeds) if design.paired else pair.unpaired(arm, base)


def _family(design: Any, full: Mapping[str, Arm]) -> int:
    """Size of the family over which intervals are simultaneous; where a study looks early, it was fixed beforehand."""
    return len(full) - 1 if design.looks is None else design.looks.comparisons


@dataclass(frozen=True)
class _Judged:
    """An arm against the baseline: the interval that decides, and the one of its seeds alone."""

    gains: Values
    diverged: int
    seeds_alone: statistics.Interval
    interval: statistics.Interval


@dataclass(frozen=True)
class _Pair:
    """How an arm is compared with the baseline.

    Parameters
    ----------
    design : Design
    comparisons : int
        Size of the family over which the intervals are simultaneous.
    luck : tuple of float
        What tuning adds to the arm's metric and to the baseline's.
    repeated : bool
        Whether the seed changed nothing in one of the two.
    """

    design: Any
    comparisons: int
    luck: tuple[float, float]
    repeated: bool

    def paired(self, arm: Arm, base: Arm, seeds: list[Any]) -> dict[str, Any]:
        """The comparison over seeds that both have."""
        values, others = (one.values(self.design.metric, seeds) for one in (arm, base))
        level = self.design.level if self.design.looks is None else self.design.looks.level_at(len(seeds))
        found = self._judged(values, others, level)
        return self._facts(found.interval, found.seeds_alone, found.diverged, arm, base) | {
            "pairs": len(seeds),
            "p_sign_flip": statistics.sign_flip_p(found.gains),
            "correlation": _correlation(values, others),
            "leave_one_out": self._leave_one_out(values, others, level),
            "level": level,
            "one_seed_wins": statistics.one_seed_wins(found.gains),
        }

    def unpaired(self, arm: Arm, base: Arm) -> dict[str, Any]:
        """The comparison of runs that share no seeds: they were made elsewhere, and nothing here tuned them."""
        metric, better = self.design.metric, self.design.better
        values, others = arm.values(metric), base.values(metric)
        plain = statistics.unpaired_interval(values, others, better, self.design.level, self.comparisons)
        diverged = int((~np.isfinite(values)).sum() + (~np.isfinite(others)).sum())
        without: dict[str, Any] = {"p_sign_flip": None, "correlation": None, "leave_one_out": [], "one_seed_wins": None}
        return self._facts(plain, plain, diverged, arm, base) | without | {"pairs": 0}

    def _facts(
        self, interval: statistics.Interval, alone: statistics.Interval, diverged: int, arm: Arm, base: Arm
    ) -> dict[str, Any]:
        verdict = statistics.verdict(interval.low, interval.high, self.design.margin)
        verdict = "none" if interval.n < 2 else verdict  # one run each says nothing of another
        undecided = verdict == "undecided" and not diverged  # against divergence seeds are no remedy
        more = None
        if undecided and self.design.looks is None:
            more = statistics.seeds_to_decide(interval, self.design.margin)
        seconds = None if arm.seconds is None or base.seconds is None else arm.seconds + base.seconds
        return {
            "difference": number(interval.mean),
            "low": number(interval.low),
            "high": number(interval.high),
            "seeds_alone": [number(alone.low), number(alone.high)],
            "verdict": verdict,
            "more_seeds": more,
            "more_seconds": None if more is None or seconds is None else more * seconds,
            "n": interval.n,
            "one_observation": math.isnan(interval.sd),
        }

    def _judged(self, values: Values, others: Values, level: float) -> _Judged:
        design = self.design
        ranked = statistics.rank_diverged(values, others, design.better, design.margin)
        gains = statistics.improvement(ranked.arm, ranked.baseline, design.better)
        plain = statistics.paired_interval(gains, level, self.comparisons, self.repeated)
        wide = statistics.widen(plain, *self.luck)
        if ranked.diverged:
            p_value = statistics.sign_flip_p(gains)
            plain, wide = (statistics.open_to_diverged(interval, ranked, p_value) for interval in (plain, wide))
        return _Judged(gains, ranked.diverged, plain, wide)

    def _leave_one_out(self, values: Values, others: Values, level: float) -> list[str]:
        found = []
        for place in range(len(values) if len(values) > 1 else 0):
            interval = self._judged(np.delete(values, place), np.delete(others, place), level).interval
            found.append(statistics.verdict(interval.low, interval.high, self.design.margin))
        return found


def repeats(arm: Arm, metric: str) -> bool:
    """Whether the seed changed nothing: two or more runs ended in a number, and every metric of all is the same.

    All metrics, because one alone may be saturated: an accuracy of 1 on every seed is no sign of equal runs.
    """
    ended = [o.metrics for o in arm.outcomes if math.isfinite(o.metrics.get(metric, math.nan))]
    return len(ended) > 1 and all(repr(found) == repr(ended[0]) for found in ended)


def number(value: float) -> float | None:
    """Return a number as JSON can hold it: an end that nothing bounds is None."""
    return value if math.isfinite(value) else None


def _correlation(values: Values, base: Values) -> float | None:
    both = np.isfinite(values) & np.isfinite(base)
    values, base = values[both], base[both]
    if len(values) < 3 or values.std() == 0 or base.std() == 0:
        return None
    return float(np.corrcoef(values, base)[0, 1])


def _tuning_luck(design: Any, arm: Arm) -> float:
    """What tuning luck adds to an arm's metric: 0 where nothing was tuned, infinite where all trials failed."""
    if not design.trials:
        return 0.0
    try:
        return choose(arm.trials, design, list(arm.values(design.metric))).sd
    except RegimesError:
        return math.inf
