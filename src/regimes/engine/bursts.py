"""Bursts: the bookkeeping of many steps at once, where it depends on nothing that a step finds.

Between two steps of which somebody wants to know something, an open-loop regime reads schedules, draws plans and moves
its position by the declaration alone. Done for many steps in a row this costs a third of what it costs between
tensors, which empty the caches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from regimes.core.progress import Progress
from regimes.engine.plan import Plan
from regimes.engine.step import Begun, Record, draw


class Ahead(NamedTuple):
    """One step ahead of a run, and where the run stands after it."""

    begun: Begun
    tokens: int
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


def ahead(run: Any, most: int, tokens: Callable[[int], int | None], last: Callable[[Any], bool]) -> list[Ahead]:
    """Return the next steps of a run; the run itself stays where it is.

    They end before a step after which there is something to measure, or the phase is over.

    Parameters
    ----------
    run : Run
        Whose phase is `plain`.
    most : int
    tokens : callable
        Tokens of a step of so many samples; None where it is not known.
    last : callable
        ``last(run)``, asked where the run would stand after a step: whether the step has to be the last.
    """
    real, position, consumed = run.frame, run.position, run.consumed
    ghost = run.frame = dataclasses.replace(real, plans=list(real.plans))
    phase, found = run.phase, list[Ahead]()
    end = phase.length.total * (1.0 - 1e-12)
    try:
        while len(found) < most:
            at, plan = run.position, ghost.plans[0]
            samples = len(plan)
            count = tokens(samples)
            if count is None or any(run.validation.is_due(needed, samples, count) for needed in (True, False)):
                break
            knobs = phase.step_knobs.values(run.states["knobs"], at) | plan.knobs
            begun = Begun(run, at, plan, knobs, phase.substitute(knobs), None)
            ghost.cursor = ghost.plans.pop(0).cursor
            ghost.advance(samples, count)
            run.locate()
            if run.consumed >= end:
                break
            while len(ghost.plans) < phase.declaration.lag + 1:
                ghost.plans.append(draw(run))
            found.append(Ahead(begun, count, ghost.counters(), ghost.cursor, tuple(ghost.plans)))
            if last(run):
                break
    finally:
        run.frame, run.position, run.consumed = real, position, consumed
    return found


def commit(run: Any, steps: Sequence[Ahead], signals: Sequence[dict[str, Any]], flops: float) -> list[Record]:
    """Move a run past steps that have been made, each of so many operations; return their records."""
    after, frame = steps[-1], run.frame
    names = ("step", "samples", "tokens", "phase_step", "phase_samples", "phase_tokens")
    for name, value in zip(names, after.counters):
        setattr(frame, name, value)
    frame.cursor, frame.plans, frame.skipped_in_a_row = after.cursor, list(after.plans), 0
    for _ in steps:  # added one by one, as step by step: sums are then the same to the bit
        run.work.charge(flops, beside=False)
    run.work.samples += sum(len(step.begun.plan) for step in steps)
    run.work.steps += len(steps)
    frame.spent = run.work.spent - run.work.before_phase
    run.locate()
    name = run.phase.name
    return [Record(step.begun.at, name, step.begun.knobs, found) for step, found in zip(steps, signals)]
