"""The dry run of a regime: phases, work, memory, time, groups, and every schedule, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.text import Text

from regimes.core import display
from regimes.core.errors import DeclarationError, show
from regimes.core.regime import Regime
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.study.rehearsal import Curve, Group, Memory, Rehearsed, rehearse
from regimes.study.table import duration


@dataclass(frozen=True)
class PhasePlan:
    """What one phase would do.

    Parameters
    ----------
    name, budget : str
    steps, samples, tokens : int
    exact : bool
        Whether `steps` follows from the declaration alone; else it is estimated from the schedules and one step.
    flops : float
        Work: of the training steps and their side passes, of trials, of needed validations, and of the runs whose weights
        are given.
    seconds : float or None
        From a few timed steps; None where nothing was timed.
    validations : int
        How often val is measured.
    curves : tuple of Curve
        Every knob that varies.
    groups : tuple of Group
        Who owns which parameters, where the optimizer is made of groups.
    parameters : int
        Trained in the phase.
    trial_steps, trial_samples : int
        Of trials, beside `steps` and `samples`.
    trial_flops : float
        The part of `flops` that trials take.
    """

    name: str
    budget: str
    steps: int
    samples: int
    tokens: int
    exact: bool
    flops: float
    seconds: float | None
    validations: int
    curves: tuple[Curve, ...] = ()
    groups: tuple[Group, ...] = ()
    parameters: int = 0
    trial_steps: int = 0
    trial_samples: int = 0
    trial_flops: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The dry run of a regime; print it, or read `to_dict()`.

    Parameters
    ----------
    workload : str
    regime : Regime
    seed : int
    parameters : int
        Trained in the first phase.
    phases : tuple of PhasePlan
    memory : Memory
        Bytes, activations not counted.
    step_seconds, validation_seconds : float or None
        Measured; None where nothing was timed.
    notes : tuple of str
    """

    workload: str
    regime: Regime
    seed: int
    parameters: int
    phases: tuple[PhasePlan, ...]
    memory: Memory
    step_seconds: float | None
    validation_seconds: float | None
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """Estimated time of the whole run, validations included."""
        found = [phase.seconds for phase in self.phases]
        if None in found or self.validation_seconds is None:
            return None
        validations = sum(phase.validations for phase in self.phases)
        return math.fsum(s for s in found if s is not None) + validations * self.validation_seconds

    @property
    def flops(self) -> float:
        """Work of the whole run."""
        return math.fsum(phase.flops for phase in self.phases)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        own = asdict(self) | {"regime": repr(self.regime), "seconds": self.seconds, "flops": self.flops}
        return own | {"steps": self.steps}

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from regimes.study.plan_text import renderables

        yield from renderables(self)

    def __str__(self) -> str:
        return _as_text(self)

    _repr_html_ = display.html


def _as_text(printable: Any, width: int = 110) -> str:
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(printable)
    return console.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]


def plan(workload: Workload, regime: Regime, seed: int = 0, *, time: bool = True, validate: str | None = None) -> Plan:
    """Return what `regimes.run` would do, found out on a throwaway run.

    Every phase is entered, and some steps are taken in each, spread over its budget, to see its work and the optimizer's
    state; of a trial that is proposed two steps are made, and the rest of it is taken for as much. Nothing is written,
    and the caller's model is not touched.

    Parameters
    ----------
    workload : Workload
    regime : Regime
    seed : int
    time : bool
        Time these steps, and one validation.
    validate : Duration, optional
        Cadence of validation for curves, as for `regimes.run`.

    Raises
    ------
    DeclarationError
        For everything that would be refused later, in any phase.

    Examples
    --------
    >>> import regimes as rg
    >>> work = rg.workloads.load("digits_mlp")
    >>> base = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1, warmup="5%")), batch_size=32, budget="300 steps")
    >>> found = plan(work, base, time=False)
    >>> found.steps, found.phases[0].samples, [(c.path, c.start, round(c.peak, 4), c.end) for c in found.phases[0].curves]
    (300, 9600, [('optimizer.lr', 0.0, 0.1, 0.0)])
    """
    run = Run(workload, regime, seed, validate=validate)
    rehearsed = rehearse(run, time=time)
    made = tuple(_phase_plan(run, index, found) for index, found in enumerate(rehearsed.phases))
    seconds = [found.step_seconds for found in rehearsed.phases]
    return Plan(
        workload.name,
        regime,
        seed,
        rehearsed.phases[0].parameters,
        made,
        rehearsed.memory,
        max((s for s in seconds if s is not None), default=None),
        rehearsed.validation_seconds,
        tuple(rehearsed.notes),
    )


def _phase_plan(run: Run, index: int, found: Rehearsed) -> PhasePlan:
    phase = run.phases[index]
    length = phase.length
    every, validations = phase.declaration.evaluate, 1
    needed = 0 if every is None else int(length.total / length.amount(every) + 1e-9)
    steps, samples, exact = _amounts(length, found, needed)
    for cadence in {phase.declaration.evaluate, run.validation.cadence}:
        if cadence is None:
            continue
        validations += math.ceil(length.total / length.amount(cadence) - 1e-9) - 1
    return PhasePlan(
        phase.name,
        str(length.budget),
        steps,
        samples,
        round(samples * found.tokens_per_sample),
        exact,
        samples * found.flops_per_sample + found.trials.flops + found.given + needed * found.validation,
        None if found.step_seconds is None else (steps + found.trials.steps) * found.step_seconds,
        validations if run.validation.present else 0,
        found.curves,
        found.groups,
        found.parameters,
        round(found.trials.steps),
        round(found.trials.samples),
        found.trials.flops,
    )


def _amounts(length: Any, found: Rehearsed, needed: int) -> tuple[int, int, bool]:
    """Return (steps, samples, whether they are exact) of a phase.

    Where the batch size varies, n samples take n times the mean of 1/batch over the phase's fraction, and n steps
    draw n times the mean batch.
    """
    if length.steps is not None and length.batch is not None:
        return length.steps, length.steps * length.batch, True
    if length.unit == "steps":
        return length.steps, round(length.steps * found.mean_batch), False
    per_sample = {"samples": 1.0, "tokens": found.tokens_per_sample, "flops": found.flops_per_sample}[length.unit]
    total = length.total
    if length.unit == "flops":
        total = max(total - found.trials.flops - needed * found.validation, 0.0)
    samples = total / per_sample if per_sample else 0.0
    if length.batch is not None:
        steps = math.ceil(samples / length.batch - 1e-9)
        return steps, steps * length.batch, False
    return math.ceil(samples * found.mean_inverse_batch - 1e-9), round(samples), False


# -- comparisons -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparisonPlan:
    """What a comparison would do.

    Parameters
    ----------
    arms : dict of str to Plan
    seeds, trials : int
        Per arm; of a study that is halved, of each arm that is judged.
    runs : int
        In all, tuning included.
    detectable : float
        True improvement, in standard deviations of the paired differences, found with 80% power.
    side_by_side : tuple of str
        Sentences: which runs are trained together, and in how many processes.
    """

    arms: dict[str, Plan]
    seeds: int
    trials: int
    detectable: float
    margin: float
    metric: str
    runs: int
    halving: str | None = None
    side_by_side: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Estimated time of everything, one run after another."""
        found = [arm.seconds for arm in self.arms.values()]
        if None in found:
            return None
        return self.runs * math.fsum(s for s in found if s is not None) / len(found)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        own = {
            name: getattr(self, name)
            for name in ("seeds", "trials", "detectable", "margin", "metric", "runs", "halving", "side_by_side")
        }
        return own | {"seconds": self.seconds, "arms": {name: arm.to_dict() for name, arm in self.arms.items()}}

    def __rich_console__(self, console: Any, options: Any) -> Any:
        for name, arm in self.arms.items():
            yield Text(name, style="bold")
            yield arm
            yield ""
        took = "" if self.seconds is None else f", about {duration(self.seconds)} one after another"
        each = f"{len(self.arms)} arms, {self.trials} trials and {self.seeds} seeds each"
        if self.halving:
            each = f"{self.halving}, which are judged, and the baseline, on {self.seeds} seeds of their own"
        yield f"{self.runs} runs: {each}{took}"
        yield from self.side_by_side
        yield (
            f"an improvement of {self.detectable:.2f} standard deviations of the paired differences in {self.metric} "
            f"would be found with 80% power; verdicts are at the margin {self.margin:g}"
        )

    def __str__(self) -> str:
        return _as_text(self)


def plan_comparison(
    workload: Workload, arms: Mapping[str, Regime], settings: Mapping[str, Any], *, time: bool = True
) -> ComparisonPlan:
    """Return what `regimes.compare` would do with these arms and settings.

    Raises
    ------
    DeclarationError
        For everything that the comparison would refuse.
    """
    from regimes.study.check import design_of
    from regimes.study.power import detectable_difference

    design = design_of(workload, arms, settings)
    made = {}
    for name, regime in arms.items():
        if not isinstance(regime, Regime):
            raise DeclarationError(
                f"got {show(workload)}: what a command would do is not known before it is run; regimes check says what is "
                "declared",
                "workload",
            )
        try:
            made[name] = plan(workload, regime, time=time, validate=settings.get("validate"))
        except DeclarationError as why:
            raise why.within(f"arms.{name}") from None
    tiny = 1e-9  # the margin is in the metric's unit, the effect in standard deviations, which nobody knows yet
    found = detectable_difference(1.0, len(design.seeds), design.comparisons, design.level, tiny, 0.8)
    halving = None if design.halving is None else design.halving.words
    planned = ComparisonPlan(
        made, len(design.seeds), design.trials, found, design.margin, design.metric, design.runs, halving
    )
    return replace(planned, side_by_side=tuple(_side_by_side(workload, arms, planned)))


def _side_by_side(workload: Workload, arms: Mapping[str, Regime], planned: ComparisonPlan) -> list[str]:
    """Which runs are trained together, and in how many processes; what was timed says how fast."""
    from regimes.study.own import Own
    from regimes.study.side_by_side import side_by_side
    from regimes.study.workers import processes

    own = Own(workload, {})
    said = [str(found) for found in side_by_side(own, arms, timed=planned.seconds is not None)]
    if planned.seconds is not None:
        dealt = processes(own, arms, planned.runs, planned.seconds)
        said.append(f"processes: {dealt.number} ({dealt.why})")
    return said
