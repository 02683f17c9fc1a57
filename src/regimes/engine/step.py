"""One step, readable from top to bottom."""

from __future__ import annotations

from typing import Any, NamedTuple

from regimes.core.errors import StepSkipped
from regimes.core.kinds import DrawContext
from regimes.core.progress import Progress
from regimes.engine.evaluator import Evaluator
from regimes.engine.plan import Plan

#: Signals that are tensors: observers see them, records do not.
UNRECORDED = ("units", "weights", "example_gradients")


class Record(NamedTuple):
    """What happened in one step.

    Parameters
    ----------
    at : Progress
        Position before the step.
    phase : str
        Name of the phase.
    knobs : dict of str to number
        Every varying knob, with the value really used.
    signals : dict
        What was measured: ``loss``, ``gradient_norm``, ``val/loss`` ...; ``skipped`` says why a step was skipped.
    """

    at: Progress
    phase: str
    knobs: dict[str, float]
    signals: dict[str, Any]

    @property
    def loss(self) -> float | None:
        """Training loss of the first evaluation; None for a skipped step."""
        return self.signals.get("loss")


class Begun(NamedTuple):
    """A step whose knobs have been read; what the evaluator is asked for may have been made already, with others."""

    run: Any
    at: Progress
    plan: Plan
    knobs: dict[str, float]
    live: Any
    evaluate: Any


def step(run: Any) -> Record:
    """Train one step: read knobs, evaluate, update, observe, draw for the step after next."""
    return end(begin(run))


def begin(run: Any) -> Begun:
    """Read every knob once: the step's live declaration, and its evaluator."""
    at, phase, plan = run.position, run.phase, run.frame.plans[0]
    knobs = phase.step_knobs.values(run.states["knobs"], at) | plan.knobs
    live = phase.substitute(knobs)
    return Begun(run, at, plan, knobs, live, Evaluator(run, live, plan))


def end(begun: Begun) -> Record:
    """Make the step that has been begun: evaluate, update, observe, draw."""
    run, at, plan, knobs, live, evaluate = begun
    frame, phase, samples = run.frame, run.phase, len(plan)
    try:
        evaluate.ask()
        run.states["optimizer"] = live.optimizer.step(run.states["optimizer"], run.parameters, evaluate)
    except StepSkipped as why:
        evaluate.undo()
        signals = skipped(run, why, plan)
    except Exception:
        # Nothing has been written yet: out of memory, the run halves its micro-batch and repeats the step.
        evaluate.undo()
        raise
    else:
        signals = measured(run, evaluate)
        observe(run, live, signals, at, only="average")
        found = run.validation.due(True, samples, evaluate.tokens)
        signals |= found
        # Observers ask by the name that they declared in `needs`: val:loss for val/loss.
        shown = signals | {name.replace("/", ":"): v for name, v in found.items()} if found else signals
        observe(run, live, shown, at)
    if "val/loss" not in signals:
        signals |= run.validation.due(False, samples, evaluate.tokens)
    frame.cursor = frame.plans.pop(0).cursor
    frame.advance(samples, evaluate.tokens)
    run.work.samples += samples
    run.work.steps += 1
    run.settle()
    return Record(at, phase.name, knobs, {name: v for name, v in signals.items() if name not in UNRECORDED})


def measured(run: Any, evaluate: Evaluator) -> dict[str, Any]:
    """Return the step's signals; only what somebody needs has been computed."""
    run.frame.skipped_in_a_row = 0
    first = evaluate.first
    assert first is not None
    signals: dict[str, Any] = evaluate.logged | {"loss": first.loss}
    if run.keep_units:
        signals["units"] = first.units
    if run.keep_weights:
        signals["weights"] = run.evaluation_weights()
    if "final" in evaluate.norms:
        signals["gradient_norm"] = evaluate.norms["final"]
    if evaluate.example_gradients is not None:
        signals["example_gradients"] = evaluate.example_gradients
    if "micro" in evaluate.norms:
        signals["micro_batch_gradient_norms"] = evaluate.norms["micro"]
    return signals


def skipped(run: Any, why: StepSkipped, plan: Plan) -> dict[str, Any]:
    """Return what a skipped step leaves in its record."""
    run.frame.skipped_in_a_row += 1
    signals: dict[str, Any] = {"skipped": str(why)}
    if why.examples:
        signals["examples"] = list(why.examples)
    if why.layer:
        signals["layer"] = why.layer
    return signals


def observe(run: Any, live: Any, signals: dict[str, Any], at: Progress, only: str | None = None) -> None:
    """Advance what was learned, once per applied step: the averager first, then everybody else."""
    if only is not None:
        if live.average is not None:
            run.states[only] = live.average.observe(run.states[only], signals, at)
        return
    for name, component in run.phase.observing(live):
        run.states[name] = component.observe(run.states[name], signals, at)
    for path, controller in run.phase.controllers.items():
        run.states["knobs"][path] = controller.observe(run.states["knobs"][path], signals, at)


def draw(run: Any) -> Plan:
    """Draw the next plan: it knows only the past, through the states and the position of this moment."""
    frame, phase, at = run.frame, run.phase, run.position
    number = frame.step + len(frame.plans)
    knobs = phase.data_knobs.values(run.states["knobs"], at)
    live = phase.data_knobs.rebuild(phase.declaration, knobs)
    slot = live.data_slot
    cursor = frame.plans[-1].cursor if frame.plans else frame.cursor
    ctx = DrawContext(run.view, run.streams, number, at, run.streams.prefix)
    drawn = getattr(live, slot).draw(run.states[slot], cursor, live.batch_size, ctx)
    return Plan(number, drawn.indices, drawn.sources, drawn.weights, drawn.columns, knobs, drawn.cursor)
