"""From the runs of a study to its verdicts: every arm against the baseline."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regimes.core.errors import RegimesError
from regimes.study import statistics
from regimes.study.choice import choose

if TYPE_CHECKING:
    from regimes.study.study import Arm

Values = Mapping[str, NDArray[np.float64]]


def judge(design: Any, arms: list[Arm]) -> None:
    """Give every arm but the baseline its comparison; none where a run of the two failed, which is never a value."""
    full = {arm.name: arm for arm in arms if len(arm.outcomes) == len(design.seeds) and not arm.failed}
    if design.baseline not in full:
        return
    values = {name: arm.values(design.metric) for name, arm in full.items()}
    luck = {name: _tuning_luck(design, arm) for name, arm in full.items()}
    alike = {name for name, arm in full.items() if repeats(arm, design.metric)}
    base = full[design.baseline]
    for name in (name for name in full if name != design.baseline):
        found = _compared(design, name, values, luck, alike)
        interval = found.interval
        verdict = statistics.verdict(interval.low, interval.high, design.margin)
        undecided = verdict == "undecided" and not found.ranked.diverged  # against divergence seeds are no remedy
        more = statistics.seeds_to_decide(interval, design.margin) if undecided else None
        full[name].comparison = {
            "difference": number(interval.mean),
            "low": number(interval.low),
            "high": number(interval.high),
            "seeds_alone": [number(found.seeds_alone.low), number(found.seeds_alone.high)],
            "verdict": verdict,
            "p_sign_flip": statistics.sign_flip_p(found.gains),
            "more_seeds": more,
            "more_seconds": None if more is None else more * (full[name].seconds + base.seconds),
            "correlation": _correlation(values[name], values[design.baseline]),
            "leave_one_out": _leave_one_out(design, name, values, luck, alike),
            "one_seed_wins": statistics.one_seed_wins(found.gains),
            "one_observation": math.isnan(interval.sd),
        }


@dataclass(frozen=True)
class _Pair:
    """An arm against the baseline: the interval that decides, and the one of its seeds alone."""

    ranked: statistics.Ranked
    gains: NDArray[np.float64]
    seeds_alone: statistics.Interval
    interval: statistics.Interval


def _compared(design: Any, arm: str, values: Values, luck: Mapping[str, float], alike: Collection[str]) -> _Pair:
    base, others = design.baseline, [name for name in values if name != design.baseline]
    ranked = {n: statistics.rank_diverged(values[n], values[base], design.better, design.margin) for n in others}
    gains = {n: statistics.improvement(r.arm, r.baseline, design.better) for n, r in ranked.items()}
    repeated = others if base in alike else alike
    plain = statistics.simultaneous_paired_intervals(gains, design.level, repeated)[arm]
    wide, pair = statistics.widen(plain, luck[arm], luck[base]), ranked[arm]
    if pair.diverged:
        p_value = statistics.sign_flip_p(gains[arm])
        plain, wide = (statistics.open_to_diverged(interval, pair, p_value) for interval in (plain, wide))
    return _Pair(pair, gains[arm], plain, wide)


def repeats(arm: Arm, metric: str) -> bool:
    """Whether the seed changed nothing: two or more runs ended in a number, and every metric of all is the same.

    All metrics, because one alone may be saturated: an accuracy of 1 on every seed is no sign of equal runs.
    """
    ended = [o.metrics for o in arm.outcomes if math.isfinite(o.metrics.get(metric, math.nan))]
    return len(ended) > 1 and all(repr(found) == repr(ended[0]) for found in ended)


def number(value: float) -> float | None:
    """Return a number as JSON can hold it: an end that nothing bounds is None."""
    return value if math.isfinite(value) else None


def _correlation(values: NDArray[np.float64], base: NDArray[np.float64]) -> float | None:
    both = np.isfinite(values) & np.isfinite(base)
    values, base = values[both], base[both]
    if len(values) < 3 or values.std() == 0 or base.std() == 0:
        return None
    return float(np.corrcoef(values, base)[0, 1])


def _tuning_luck(design: Any, arm: Arm) -> float:
    """What tuning luck adds to an arm's metric: 0 where nothing was tuned, infinite where all trials failed."""
    if not design.points:
        return 0.0
    try:
        return choose(arm.trials, design, list(arm.values(design.metric))).sd
    except RegimesError:
        return math.inf


def _leave_one_out(
    design: Any, arm: str, values: Values, luck: Mapping[str, float], alike: Collection[str]
) -> list[str]:
    found = []
    for left_out in range(len(values[arm])):
        rest = {name: np.delete(value, left_out) for name, value in values.items()}
        interval = _compared(design, arm, rest, luck, alike).interval
        found.append(statistics.verdict(interval.low, interval.high, design.margin))
    return found
