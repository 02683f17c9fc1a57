"""What a comparison asks, checked before anything is spent."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.regime import Regime
from regimes.engine import api
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.study import statistics
from regimes.study.budgets import equal_budgets
from regimes.study.ranges import Range, points, tuned

#: Seeds of tuning trials: a comparison counts its own seeds from 0 and never comes here.
TUNING_SEED = 1_000_000


@dataclass(frozen=True)
class Design:
    """What a comparison asks, checked.

    Parameters
    ----------
    baseline, metric, better, margin, seeds, equal, level
        As `regimes.compare` has them, defaults filled in.
    ranges : dict of str to Range
        What is tuned.
    points : list of dict
        Shares of each trial.
    names : tuple of str
        The arms.
    budget : str
        In words.
    notes : tuple of str
        What is allowed, but should be known.
    """

    baseline: str
    metric: str
    better: str
    margin: float
    seeds: tuple[int, ...]
    ranges: dict[str, Range]
    points: list[dict[str, float]]
    equal: str
    level: float
    names: tuple[str, ...]
    budget: str
    notes: tuple[str, ...] = field(default=())

    @property
    def tuning_metric(self) -> str:
        """What tuning reads: always val, never test."""
        return "val/" + self.metric.split("/", 1)[1]

    def record(self, workload: Workload, arms: Mapping[str, Regime]) -> dict[str, Any]:
        """Return the question as plain data: studies with equal ones are the same study."""
        own = ("baseline", "metric", "better", "margin", "equal", "level", "budget")
        return {name: getattr(self, name) for name in own} | {
            "workload": workload.name,
            "data": workload.fingerprint(),
            "arms": {name: repr(regime) for name, regime in arms.items()},
            "tune": {pattern: repr(range_) for pattern, range_ in self.ranges.items()},
            "trials": len(self.points),
            "seeds": list(self.seeds),
        }


def design_of(
    workload: Workload,
    arms: Mapping[str, Regime],
    baseline: str | None,
    metric: str,
    better: str | None,
    margin: float,
    seeds: Any,
    tune: Mapping[str, Range],
    trials: int,
    equal: str | None,
    level: float,
    validate: Any = None,
) -> Design:
    """Check what a comparison asks, and return it; the parameters are those of `regimes.compare`.

    Raises
    ------
    DeclarationError
        Naming the key, before anything is spent.
    """
    if not isinstance(workload, Workload):
        raise DeclarationError(f"got {show(workload)}; allowed: a Workload", "workload")
    if not isinstance(arms, Mapping) or not all(isinstance(name, str) for name in arms):
        raise DeclarationError(f"got {show(arms)}; allowed: a dict of names to regimes", "arms")
    if len(arms) < 2:
        raise DeclarationError(f"got {len(arms)}; allowed: at least two arms to compare", "arms")
    first = baseline if baseline is not None else next(iter(arms))
    if first not in arms:
        raise DeclarationError(f"there is no arm '{first}'; {nearest(str(first), arms)}", "baseline")
    if not _number(margin) or not 0 < margin < math.inf:
        raise DeclarationError(f"got {show(margin)}; allowed: the smallest difference that matters, > 0", "margin")
    if not _number(level) or not 0 < level < 1:
        raise DeclarationError(f"got {show(level)}; allowed: a confidence between 0 and 1, such as 0.95", "level")
    listed = _seeds(seeds)
    try:
        statistics.refuse_too_few(len(listed), len(arms) - 1, level)
    except ValueError as why:
        raise DeclarationError(str(why), "seeds") from None
    full = _metric(workload, metric)
    if better is None and full.endswith("loss"):
        better = "lower"
    if better not in ("lower", "higher"):
        raise DeclarationError(f"got {show(better)}; allowed: 'lower' or 'higher'", "better")
    ranges = _ranges(tune, trials)
    drawn = points(ranges, trials, seed=0)
    if validate is not None:
        api.cadence("validate", validate)
    for arm, regime in arms.items():
        _check_arm(workload, arm, regime, ranges, drawn, validate)
    unit, text, notes = equal_budgets(workload, arms, first, equal)
    return Design(
        baseline=first, metric=full, better=better, margin=float(margin), seeds=listed, ranges=ranges, points=drawn,
        equal=unit, level=float(level), names=tuple(arms), budget=text, notes=(*notes, *_twins(arms)),
    )  # fmt: skip


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _seeds(seeds: Any) -> tuple[int, ...]:
    listed = range(seeds) if _whole(seeds) else seeds
    if isinstance(listed, Iterable) and not isinstance(listed, str | bytes | Mapping):
        found = tuple(listed)
        if all(_whole(seed) and 0 <= seed < TUNING_SEED for seed in found) and len(set(found)) == len(found):
            return tuple(map(int, found))
    raise DeclarationError(
        f"got {show(seeds)}; allowed: how many, or which: different whole numbers from 0, below {TUNING_SEED}", "seeds"
    )


def _ranges(tune: Any, trials: Any) -> dict[str, Range]:
    if not isinstance(tune, Mapping):
        raise DeclarationError(f"got {show(tune)}; allowed: a dict of path patterns to ranges", "tune")
    if not _whole(trials) or trials < 0:
        raise DeclarationError(f"got {show(trials)}; allowed: how many tuning trials per arm, 0 or more", "trials")
    if bool(tune) != bool(trials):
        raise DeclarationError(f"got {trials}; tune and trials stand together or not at all", "trials")
    for pattern, range_ in tune.items():
        if not isinstance(range_, Range):
            raise DeclarationError(
                f"got {show(range_)}; allowed: times(1/8, 8) or between(1e-4, 1e-2)", f"tune.{pattern}"
            )
    return dict(tune)


def _metric(workload: Workload, metric: Any) -> str:
    """The metric with its split in front: ``val/loss``, ``test/acc``, ``val/code/loss`` of one of several sources."""
    if not isinstance(metric, str):
        raise DeclarationError(f"got {show(metric)}; allowed: the name of one metric, such as 'val/loss'", "metric")
    split, _, rest = metric.partition("/")
    if not rest or split not in ("train", "val", "test"):
        split, rest = workload.judged_split(), metric
    if split == "train" or split not in workload.sources:
        raise DeclarationError(f"got '{metric}', but the workload has no {split} data to judge on", "metric")
    sources, names = workload.sources[split], ["loss", *workload.metrics]
    source, _, inner = rest.partition("/")
    if inner and len(sources) > 1 and source in sources:
        rest = inner
    name, _, part = rest.partition("/")
    # An object may give several values by name; which ones is known only when it is asked.
    if name in names and (not part or hasattr(workload.metrics.get(name), "update")):
        return metric if metric.startswith(f"{split}/") else f"{split}/{metric}"
    options = [*names, *(f"{source}/{name}" for source in sources if len(sources) > 1 for name in names)]
    raise DeclarationError(f"there is no metric '{metric}'; {nearest(rest, options)}", "metric")


def _check_arm(
    workload: Workload,
    arm: str,
    regime: Any,
    ranges: Mapping[str, Range],
    drawn: list[dict[str, float]],
    validate: Any,
) -> None:
    if not isinstance(regime, Regime):
        raise DeclarationError(f"got {show(regime)}; allowed: a Regime", f"arms.{arm}")
    try:
        run = Run(workload, regime, TUNING_SEED, count_flops=False)
        api.check_cadences(run, validate=validate)
        for shares in drawn:
            tuned(regime, ranges, shares)
    except DeclarationError as why:
        raise why.within(f"arms.{arm}") from None


def _twins(arms: Mapping[str, Regime]) -> list[str]:
    names = list(arms)
    return [
        f"arms '{first}' and '{second}' are declared the same: one run serves both"
        for place, first in enumerate(names)
        for second in names[place + 1 :]
        if arms[first].hash == arms[second].hash
    ]
