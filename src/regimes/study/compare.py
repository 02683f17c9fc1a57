"""Compare regimes at equal budget over paired seeds, tuned with the same number of trials."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, nearest, show
from regimes.core.regime import Regime
from regimes.engine.compile import compile_regime, epochs
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.study import statistics
from regimes.study.choice import choose
from regimes.study.live import Live
from regimes.study.ranges import Range, points, tuned
from regimes.study.study import Arm, Study
from regimes.study.tasks import Outcome, Pool, Task

#: Seeds of tuning trials: a comparison counts its own seeds from 0 and never comes here.
TUNING_SEED = 1_000_000


def compare(
    workload: Workload,
    arms: Mapping[str, Regime],
    *,
    baseline: str | None = None,
    metric: str = "val/loss",
    better: str | None = None,
    margin: float,
    seeds: int | Sequence[int] = 8,
    tune: Mapping[str, Range] | None = None,
    trials: int = 0,
    equal: str | None = None,
    level: float = 0.95,
    name: str = "study",
    out: str | Path | None = None,
    workers: int = 1,
    validate: str | None = "10%",
    progress: bool | None = None,
    workload_spec: Any = None,
    command: str | None = None,
    make: Any = None,
) -> Study:
    """Train every arm on the same seeds, and say whether it is better, or whether it was the seed.

    Seeds are paired: the same seed means the same initial weights, data order and noise wherever the arms allow it.
    The improvement over the baseline has a paired-t interval, simultaneous over the arms; with margin m > 0 an arm is
    **same** if -m < low and high < m, **better** if low > 0 and high >= m, **worse** mirrored, else **undecided**.

    Parameters
    ----------
    workload : Workload
    arms : mapping of str to Regime
    baseline : str, optional
        The arm that others are compared with; default the first.
    metric : str
        ``val/loss``, or a metric's name ("acc": on test where there is one, else val).
    better : "lower" or "higher"
        Default: lower for losses; must be said for anything else.
    margin : float
        The smallest difference that matters, in the metric's unit. There is no default.
    seeds : int or sequence of int
        How many, or which. Default 8.
    tune : mapping of path pattern to range, optional
        What is tuned, for every arm with the same number of `trials`, on seeds that the comparison does not use.
    trials : int
        Tuning trials per arm.
    equal : str, optional
        At what the budgets are equal: steps, samples, tokens or flops. Default: the baseline budget's own unit.
    level : float
        Simultaneous confidence. Default 0.95.
    out : path, optional
        The study's folder; default runs/<name>. What is there is not computed again.
    workers : int
        Runs side by side.
    validate : Duration or None
        Cadence of the curves.

    Returns
    -------
    Study

    Raises
    ------
    DeclarationError
        Before anything is spent: unknown metric, unequal budgets, too few seeds for the level, a tuned pattern that
        fits nothing.
    """
    arms = dict(arms)
    design = design_of(workload, arms, baseline, metric, better, margin, seeds, tune or {}, trials, equal, level)
    folder = Path(out) if out is not None else Path("runs") / name
    live = Live(design, name, progress)
    pool = Pool(workload, folder / "runs", workers, validate, make)
    queue = _Queue(design, arms)
    began, outcomes = time.perf_counter(), []
    try:
        with live:
            for outcome in pool.outcomes(queue.next):
                outcomes.append(outcome)
                live.show(outcomes, queue.total, time.perf_counter() - began)
    finally:
        pool.close()
    study = Study.of(design, name, workload, queue.arms(outcomes), command, folder, [pool.note] if pool.note else [])
    study.save()
    return study


class Design:
    """What a comparison asks, checked."""

    def __init__(self, **facts: Any) -> None:
        self.baseline: str = facts["baseline"]
        self.metric: str = facts["metric"]
        self.better: str = facts["better"]
        self.margin: float = facts["margin"]
        self.seeds: tuple[int, ...] = facts["seeds"]
        self.ranges: dict[str, Range] = facts["ranges"]
        self.points: list[dict[str, float]] = facts["points"]
        self.equal: str = facts["equal"]
        self.level: float = facts["level"]
        self.names: tuple[str, ...] = facts["names"]
        self.budget: str = facts["budget"]

    @property
    def tuning_metric(self) -> str:
        """What tuning reads: always val, never test."""
        return "val/" + self.metric.split("/", 1)[1]


def design_of(
    workload: Workload,
    arms: dict[str, Regime],
    baseline: str | None,
    metric: str,
    better: str | None,
    margin: float,
    seeds: int | Sequence[int],
    tune: Mapping[str, Range],
    trials: int,
    equal: str | None,
    level: float,
) -> Design:
    """Check what a comparison asks, and return it; the parameters are those of `compare`.

    Raises
    ------
    DeclarationError
        Naming the key, before anything is spent.
    """
    if len(arms) < 2:
        raise DeclarationError(f"got {len(arms)}; allowed: at least two arms to compare", "arms")
    first = baseline if baseline is not None else next(iter(arms))
    if first not in arms:
        raise DeclarationError(f"there is no arm '{first}'; {nearest(first, arms)}", "baseline")
    if not isinstance(margin, int | float) or isinstance(margin, bool) or not margin > 0:
        raise DeclarationError(f"got {show(margin)}; allowed: the smallest difference that matters, > 0", "margin")
    listed = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if len(set(listed)) != len(listed) or any(s >= TUNING_SEED for s in listed):
        raise DeclarationError(f"got {show(listed)}; allowed: different seeds below {TUNING_SEED}", "seeds")
    try:
        statistics.refuse_too_few(len(listed), len(arms) - 1, level)
    except ValueError as why:
        raise DeclarationError(str(why), "seeds") from None
    full = _metric(workload, metric)
    if better is None and full.endswith("loss"):
        better = "lower"
    if better not in ("lower", "higher"):
        raise DeclarationError(f"got {show(better)}; allowed: 'lower' or 'higher'", "better")
    ranges = dict(tune)
    if bool(ranges) != bool(trials):
        raise DeclarationError(f"got {trials}; tune and trials stand together or not at all", "trials")
    for pattern, range_ in ranges.items():
        if not isinstance(range_, Range):
            raise DeclarationError(
                f"got {show(range_)}; allowed: times(1/8, 8) or between(1e-4, 1e-2)", f"tune.{pattern}"
            )
    drawn = points(ranges, trials, seed=0)
    for arm, regime in arms.items():
        _check_arm(workload, arm, regime, ranges, drawn)
    unit, text = _equal_budgets(workload, arms, first, equal)
    return Design(
        baseline=first, metric=full, better=better, margin=float(margin), seeds=listed, ranges=ranges, points=drawn,
        equal=unit, level=level, names=tuple(arms), budget=text,
    )  # fmt: skip


def _metric(workload: Workload, metric: str) -> str:
    names = ["loss", *workload.metrics]
    split, _, rest = metric.partition("/")
    if rest and split in ("val", "test"):
        if split not in workload.sources:
            raise DeclarationError(f"got '{metric}', but the workload has no {split} data", "metric")
        if rest.split("/")[-1] in names:
            return metric
    elif metric in names:
        judged = workload.judged_split()
        if judged not in workload.sources:
            raise DeclarationError("the workload has neither val nor test data", "metric")
        return f"{judged}/{metric}"
    raise DeclarationError(f"there is no metric '{metric}'; {nearest(metric.split('/')[-1], names)}", "metric")


def _check_arm(
    workload: Workload, arm: str, regime: Regime, ranges: dict[str, Range], drawn: list[dict[str, float]]
) -> None:
    if not isinstance(regime, Regime):
        raise DeclarationError(f"got {show(regime)}; allowed: a Regime", f"arms.{arm}")
    try:
        Run(workload, regime, TUNING_SEED, count_flops=False)
        for shares in drawn:
            tuned(regime, ranges, shares)
    except DeclarationError as why:
        raise why.within(f"arms.{arm}") from None


def _equal_budgets(workload: Workload, arms: dict[str, Regime], baseline: str, equal: str | None) -> tuple[str, str]:
    """Return the unit in which budgets are equal, and the amount; refuse what is known to differ."""
    totals: dict[str, dict[str, float | None]] = {}
    for arm, regime in arms.items():
        lengths = [
            phase.length
            for phase in compile_regime(regime, epochs(regime, workload.view("train")), workload.example_tokens())
        ]
        totals[arm] = {}
        for unit in ("steps", "samples", "tokens", "flops"):
            amounts = [_in_unit(length, unit) for length in lengths]
            totals[arm][unit] = None if None in amounts else sum(a for a in amounts if a is not None)
        totals[arm]["own"] = None
        if equal is None and arm == baseline:
            equal = lengths[0].unit
    if equal not in ("steps", "samples", "tokens", "flops"):
        raise DeclarationError(
            f"got {show(equal)}; {nearest(str(equal), ('steps', 'samples', 'tokens', 'flops'))}", "equal"
        )
    want = totals[baseline][equal]
    for arm, known in totals.items():
        have = known[equal]
        if have is not None and want is not None and not math.isclose(have, want, rel_tol=1e-6):
            raise DeclarationError(
                f"got {have:g} {equal}, the baseline has {want:g}; arms are compared at equal {equal}",
                f"arms.{arm}.budget",
            )
        if have is None or want is None:
            raise DeclarationError(
                f"how many {equal} it trains on is not known beforehand; give its budget in {equal}, or say equal=",
                f"arms.{arm}.budget",
            )
    assert want is not None
    return equal, f"{want:g} {equal}" if want < 1000 else f"{want:,.0f} {equal}"


def _in_unit(length: Any, unit: str) -> float | None:
    if length.unit == unit:
        return length.total
    if length.unit == "flops" or unit == "flops":
        return None
    from regimes.core.duration import Duration

    samples = length.in_samples(Duration(length.total, length.unit))
    if samples is None:
        return None
    scale = {"samples": 1.0, "steps": length.batch and 1.0 / length.batch, "tokens": length.example_tokens}[unit]
    return None if not scale else samples * scale


class _Queue:
    """Decides what runs next: each arm's trials first, then seeds, all arms of a seed before the next."""

    def __init__(self, design: Design, arms: dict[str, Regime]) -> None:
        self.design, self.declared = design, arms
        self.chosen: dict[str, Regime] = {} if design.points else dict(arms)
        self._trials = [(arm, number) for arm in arms for number in range(len(design.points))]
        self._seeds = [(arm, seed) for seed in design.seeds for arm in arms]
        self.total = len(self._trials) + len(self._seeds)

    def next(self, done: Sequence[Outcome]) -> Task | None:
        """Return the next task that can start now."""
        if self._trials:
            arm, number = self._trials.pop(0)
            regime = tuned(self.declared[arm], self.design.ranges, self.design.points[number])
            return Task(arm, regime, TUNING_SEED, number)
        for place, (arm, seed) in enumerate(self._seeds):
            if arm not in self.chosen:
                self._choose(arm, done)
            if arm in self.chosen:
                del self._seeds[place]
                return Task(arm, self.chosen[arm], seed)
        return None

    def _choose(self, arm: str, done: Sequence[Outcome]) -> None:
        mine = [o for o in done if o.task.arm == arm and o.task.trial is not None]
        if len(mine) < len(self.design.points):
            return
        try:
            shares = choose(mine, self.design).shares
        except RegimesError:
            shares = None
        self.chosen[arm] = (
            self.declared[arm] if shares is None else tuned(self.declared[arm], self.design.ranges, shares)
        )

    def arms(self, done: Sequence[Outcome]) -> list[Arm]:
        """Collect what each arm gave."""
        collected = []
        for arm in self.declared:
            mine = [o for o in done if o.task.arm == arm]
            by_seed = {o.task.seed: o for o in mine if o.task.trial is None}
            ordered = [by_seed[seed] for seed in self.design.seeds if seed in by_seed]
            trials = sorted((o for o in mine if o.task.trial is not None), key=lambda o: o.task.trial or 0)
            collected.append(Arm(arm, self.declared[arm], self.chosen.get(arm, self.declared[arm]), ordered, trials))
        return collected
