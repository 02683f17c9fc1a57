"""Bursts: the bookkeeping of many steps at once, where it depends on nothing that a step finds.

Between two steps of which somebody wants to know something, an open-loop regime reads schedules, draws plans and moves
its position by the declaration alone. Done for many steps in a row this costs a third of what it costs between
tensors, which empty the caches. The bits are those of single steps (`regimes.engine.step`); a step that is not as
foreseen is left to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regimes.core.errors import DeclarationError, UserCodeError
from regimes.core.progress import Progress
from regimes.engine import arithmetic
from regimes.engine.evaluator import Evaluation, Foreseen
from regimes.engine.forwards import Unaddressed
from regimes.engine.plan import Plan
from regimes.engine.step import Begun, Record, draw


class Ahead(NamedTuple):
    """One step ahead of a run, and where the run stands after it."""

    begun: Begun
    foreseen: Foreseen
    counters: Progress
    cursor: dict[str, Any]
    plans: tuple[Plan, ...]


def plain(run: Any) -> bool:
    """Whether nothing of the bookkeeping of a run's phase depends on what its steps find."""
    phase, declared = run.phase, run.phase.declaration
    return not (
        run.finished
        or run.frame.trial is not None
        or phase.proposing
        or phase.watching
        or phase.controllers
        or run.probes
        or run.keep_units
        or run.keep_weights
        or run.wants_norm
        or run.example_gradients
        or run.micro_norms
        or declared.average is not None
        or declared.grad_transforms
        or declared.augment
        or phase.length.unit == "flops"
    )


def ahead(run: Any, most: int, last: Callable[[Any], bool]) -> list[Ahead]:
    """Return the next steps of a run; the run itself stays where it is.

    They end before a step after which there is something to measure, or the phase is over.

    Parameters
    ----------
    run : Run
        Whose phase is `plain`.
    most : int
    last : callable
        ``last(run)``, asked where the run would stand after a step: whether the step has to be the last.
    """
    real, position, consumed = run.frame, run.position, run.consumed
    ghost = run.frame = dataclasses.replace(real, plans=list(real.plans))
    phase, found = run.phase, list[Ahead]()
    end, due = phase.length.total * (1.0 - 1e-12), run.validation.is_due
    try:
        while len(found) < most:
            at, plan = run.position, ghost.plans[0]
            samples = len(plan)
            foreseen = run.foreseen.get(samples)
            if foreseen is None or due(True, samples, foreseen.tokens) or due(False, samples, foreseen.tokens):
                break
            knobs = phase.step_knobs.values(run.states["knobs"], at) | plan.knobs
            begun = Begun(run, at, plan, knobs, phase.substitute(knobs), None)
            ghost.cursor = ghost.plans.pop(0).cursor
            ghost.advance(samples, foreseen.tokens)
            run.locate()
            if run.consumed >= end:
                break
            while len(ghost.plans) < phase.declaration.lag + 1:
                ghost.plans.append(draw(run))
            found.append(Ahead(begun, foreseen, ghost.counters(), ghost.cursor, tuple(ghost.plans)))
            if last(run):
                break
    finally:
        run.frame, run.position, run.consumed = real, position, consumed
    return found


#: Steps of a burst at most, and seconds that it may take: so long a stop, a signal or a progress bar waits.
MOST, SECONDS = 32, 0.1


class Pace:
    """How many steps a burst may have, by how long the last ones took."""

    def __init__(self) -> None:
        self.most = 1

    def note(self, seconds: float, steps: int) -> None:
        """Take in how long some steps took."""
        self.most = max(1, min(MOST, int(SECONDS * steps / max(seconds, 1e-9))))


class Answer:
    """The evaluator of a step that has been evaluated: it answers, draws and notes.

    Parameters
    ----------
    begun : Begun
    evaluation : Evaluation
        The one plain evaluation of the step.
    """

    def __init__(self, begun: Begun, evaluation: Evaluation) -> None:
        self._begun, self._evaluation = begun, evaluation
        self.logged: dict[str, float] = {}

    def __call__(self, **asked: Any) -> Evaluation:
        """Return the evaluation."""
        return self._evaluation

    @property
    def compiled(self) -> bool:
        """Whether the phase declares that a step is compiled."""
        return bool(self._begun.run.phase.declaration.compile)

    def rng(self, name: str) -> torch.Generator:
        """Return a torch generator at the start of this step's stream `name`."""
        return self._begun.run.rule_generator(name, self._begun.plan.step)

    def log(self, name: str, value: float) -> None:
        """Write a number of the rule's own into the step's record."""
        self.logged[name] = float(value)


def update(begun: Begun, loss: float, gradients: tuple[Tensor, ...]) -> dict[str, Any]:
    """Make the update of a step from its loss and gradients; return its signals."""
    run = begun.run
    answer = Answer(begun, Evaluation(loss, gradients))
    run.states["optimizer"] = begun.live.optimizer.step(run.states["optimizer"], run.parameters, answer)
    return answer.logged | {"loss": loss}


def burst(run: Any, most: int, last: Callable[[Any], bool]) -> list[Record]:
    """Make up to so many steps of a run; none where its next step is for `Run.step`.

    Parameters
    ----------
    run : Run
    most : int
    last : callable
        As of `ahead`.
    """
    if not plain(run) or not alone(run):
        return []
    made: list[dict[str, Any]] = []
    steps = ahead(run, most, last)
    before = run.forward.callers_state()
    try:
        for step in steps:
            found = _evaluated(step)
            if found is None:
                break
            made.append(update(step.begun, *found))
    finally:
        run.forward.give_back(before)
    return commit(run, steps[: len(made)], made) if made else []


def alone(run: Any) -> bool:
    """Whether a run's steps are evaluated in one piece, by one process, by one plain evaluation."""
    declared = run.phase.declaration
    return (
        run.world.size == 1
        and declared.selector is None
        and declared.optimizer.single_evaluation
        and declared.optimizer.uses_gradients
        and declared.micro_batch is None
        and not run.read.asks
        and run.read.random_access
        and run.forward.draws is False
    )


def _evaluated(step: Ahead) -> tuple[float, tuple[Tensor, ...]] | None:
    """Loss and gradients of a step; None, and nothing has changed, where it is not as foreseen."""
    begun, run, plan = step.begun, step.begun.run, step.begun.plan
    run.forward.step = plan.step
    buffers = run.buffers.begin()
    try:
        losses = run.forward(begun.live, run.read(plan, run.streams, 0), 0, True)
        if losses.weights is None and plan.weights is None and len(losses.values) == step.foreseen.tokens:
            value, mass = arithmetic.weighted_sum(losses.values, None, None)
            run.held = ()
            gradients = tuple(run.gradients(losses.values, None))
            if math.isfinite(value) and arithmetic.divide_(gradients, mass):
                run.held = gradients
                buffers.leave(first=True)
                return value / mass, gradients
    except (UserCodeError, DeclarationError, Unaddressed, torch.OutOfMemoryError):
        pass  # the single step meets it again, and says what it is
    buffers.restore()
    return None


def commit(run: Any, steps: Sequence[Ahead], signals: Sequence[dict[str, Any]]) -> list[Record]:
    """Move a run past steps that have been made; return their records."""
    after, frame = steps[-1], run.frame
    names = ("step", "samples", "tokens", "phase_step", "phase_samples", "phase_tokens")
    for name, value in zip(names, after.counters):
        setattr(frame, name, value)
    frame.cursor, frame.plans, frame.skipped_in_a_row = after.cursor, list(after.plans), 0
    for step in steps:  # added one by one: sums are then the same to the bit
        run.work.charge(step.foreseen.flops, beside=False)
    run.work.samples += sum(len(step.begun.plan) for step in steps)
    run.work.steps += len(steps)
    frame.spent = run.work.spent - run.work.before_phase
    run.locate()
    name = run.phase.name
    return [Record(step.begun.at, name, step.begun.knobs, found) for step, found in zip(steps, signals)]
