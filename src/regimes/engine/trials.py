"""Trials on the stack of frames: begin under an edited phase, train, return to what was, hand over what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from regimes.core import fields, notation, paths
from regimes.core.combinators import Window
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Schedule
from regimes.core.regime import DATA_SLOTS, Regime
from regimes.core.trial import Trial, TrialEnd
from regimes.engine import seam, trees
from regimes.engine.buffers import load_into, state_of
from regimes.engine.compile import CompiledPhase
from regimes.engine.frames import Frame
from regimes.engine.scoring import score

#: Of a record, what a component that absorbs a trial is not shown.
_POSITION = ("step", "phase", "samples", "tokens")


def begin(run: Any) -> None:
    """Push a frame if somebody proposes a trial; take the looks that are asked for, before it and inside it."""
    name, trial = proposed(run)
    while trial is not None:
        try:
            _look(run, name, trial) if trial.look else _push(run, name, trial)
        except DeclarationError as why:
            raise why.within(f"a trial of {name.removeprefix('knobs.')}") from None
        name, trial = proposed(run)


def proposed(run: Any) -> tuple[str, Trial | None]:
    """Who proposes a trial before the next step, and which; inside a trial, a look of the data alone."""
    outside = run.frame.trial is None
    for name in run.phase.proposing:
        if outside or name.split(".")[0] in DATA_SLOTS:
            component, state = _owner(run, name)
            trial = component.propose(state, run.position)
            if trial is not None and (outside or trial.look):
                return name, trial
    return "", None


def _look(run: Any, name: str, trial: Trial) -> None:
    """Score the present weights."""
    _absorb(run, name, TrialEnd(run.position, [], owner=trial.owner, scores=score(run)))


def _owner(run: Any, name: str) -> tuple[Any, Any]:
    """The component that proposes, and its state."""
    if name.startswith("knobs."):
        path = name.removeprefix("knobs.")
        return run.phase.controllers[path], run.states["knobs"][path]
    plan = run.frame.plans[0]
    live = run.phase.substitute(run.phase.step_knobs.values(run.states["knobs"], run.position) | plan.knobs)
    head, _, place = name.partition(".")
    component = getattr(live, head)
    return (component[int(place)] if place else component), run.states[name]


def _push(run: Any, name: str, trial: Trial) -> None:
    outer, phase = run.frame, run.phase
    amount = phase.length.amount(trial.budget)
    if amount <= 0.0:
        raise DeclarationError(f"got '{trial.budget}'; allowed: more than nothing", "budget")
    values = absolute(name.removeprefix("knobs."), trial)
    about = {
        "owner": name,
        "names": list(trial.owner),
        "edit": {path: fields.printed(value) for path, value in values.items()},
        "begin": run.consumed,
        "amount": amount,
        "validate": trial.validate,
        "score": trial.score,
        "past_end": trial.past_end,
        "skips": trial.skips,
        "before": {},
        "records": [],
        "kept": {"weights": trees.clone(state_of(run.model)), "states": trees.clone(run.states)},
    }
    # Without caches: a sampler of fresh states would draw by what another had learned.
    plans = [replace(plan, cursor=trees.clone(plan.cursor)) for plan in outer.plans]
    inner = replace(
        outer, prefix=(*outer.prefix, *trial.address), cursor=trees.clone(outer.cursor), plans=plans, trial=about,
        skipped_in_a_row=0,
    )  # fmt: skip
    run.push(inner)
    made = edited(run)
    old = run.states
    run.begin_trial(made)
    run.states = _states(run, phase, made, old)
    if trial.address or _data(phase) != _data(made):
        inner.plans, inner.cursor = [], seam.fresh_cursor(run, made, run.streams.prefix)
    if trial.validate_before:
        about["before"] = run.validation.measure("val", account="side_flops")
    run.settle()


def absolute(name: str, trial: Trial) -> dict[str, Any]:
    """Edits of a trial that the component at `name` proposes, by their paths below the phase."""
    root = ".".join([name, *trial.owner])
    return {path[1:] if path[:1] == "/" else f"{root}.{path}" if path else root: v for path, v in trial.edit.items()}


def _data(phase: CompiledPhase) -> list[Any]:
    return [getattr(phase.declaration, name) for name in DATA_SLOTS]


def edited(run: Any) -> CompiledPhase:
    """Compile the phase of the innermost frame as its trial edits it: a pure function of the frame."""
    frame: Frame = run.frame
    about = frame.trial
    assert about is not None
    whole = run.phases[frame.phase]
    total = whole.length.total
    edit = {path: notation.parse(text) for path, text in about["edit"].items()}
    return compiled(run.regime, whole, edit, about["begin"] / total, about["amount"] / total)


def compiled(
    regime: Regime, whole: CompiledPhase, edit: Mapping[str, Any], start: float, share: float
) -> CompiledPhase:
    """Compile a phase with edits for a share of it: schedules among them have that share for their stretch."""
    declaration = whole.declaration
    for path, value in edit.items():
        if isinstance(value, Schedule):
            value = Window(value, f"{start * 100.0!r}%", f"{share * 100.0!r}%")
        declaration = paths.edit(declaration, {path: value}, flatten=True)
    changed: Any = regime
    changed = replace(changed, phases=_with(regime.phases, whole.index, declaration))
    return CompiledPhase(changed, whole.index, whole.length)


def _with(phases: tuple[Any, ...], place: int, phase: Any) -> tuple[Any, ...]:
    return (*phases[:place], phase, *phases[place + 1 :])


def _states(run: Any, old: CompiledPhase, new: CompiledPhase, states: Mapping[str, Any]) -> dict[str, Any]:
    """States of the edited phase: what stands as before goes on with a copy, what was put in is fresh."""
    fresh, same = seam.fresh_states(run, new), dict(old.parts())
    for slot, component in new.parts():
        if slot in states and slot in same and seam.form(same[slot]) == seam.form(component):
            fresh[slot] = trees.clone(states[slot])
    kept = states.get("knobs", {})
    fresh["knobs"] |= {path: trees.clone(kept[path]) for path in fresh["knobs"] if path in kept}
    if "loss" in states and "loss" not in dict(new.parts()):
        fresh["loss"] = trees.clone(states["loss"])
    return fresh


def over(run: Any) -> bool:
    """Whether the trial has used up its budget, its phase, or its luck."""
    about = run.frame.trial
    used = run.consumed - about["begin"]
    ended = not about["past_end"] and run.consumed >= run.phase.length.total * (1.0 - 1e-12)
    return ended or used >= about["amount"] * (1.0 - 1e-12) or _failed(run)


def _failed(run: Any) -> bool:
    """Whether it broke off: at a step that was not finite, or where a run gives up."""
    return run.frame.skipped_in_a_row >= (run.give_up if run.frame.trial["skips"] else 1)


def note(run: Any, record: Any) -> Any:
    """Keep the record of a trial's step, and return to the outer frame when it was the last."""
    about = run.frame.trial
    if over(run) and about["validate"] and not _failed(run):
        record = record._replace(signals=record.signals | run.validation.measure("val", account="side_flops"))
    fraction = (record.at.fraction * run.phase.length.total - about["begin"]) / about["amount"]
    about["records"].append({"fraction": fraction, "knobs": dict(record.knobs), **record.signals})
    owner = ".".join([about["owner"].removeprefix("knobs."), *about["names"]])
    if over(run):
        _pop(run, record)
    return record._replace(signals=record.signals | {"trial": owner})


def _pop(run: Any, last: Any) -> None:
    about = run.frame.trial
    failed = last.signals["skipped"] if _failed(run) else None
    judged, _ = run.judged_weights()
    held = dict(run.model.named_parameters()) | dict(run.model.named_buffers()) | dict(judged or {})
    weights = {name: value.detach().clone() for name, value in held.items()}
    scores = score(run) if about["score"] and failed is None else {}
    used = run.consumed - about["begin"]
    load_into(run.model, about["kept"]["weights"])
    run.pop()
    run.states = about["kept"]["states"]
    run.frame.tried += used
    run.end_trial()
    end = TrialEnd(
        run.position, about["records"], failed, weights, tuple(about["names"]), scores, about["before"],
        used / about["amount"],
    )  # fmt: skip
    _absorb(run, about["owner"], end)


def _absorb(run: Any, name: str, end: TrialEnd) -> None:
    """Hand what came of a trial to who proposed it; what draws draws anew."""
    component, state = _owner(run, name)
    absorbed = component.absorb(state, end)
    if name.startswith("knobs."):
        run.states["knobs"][name.removeprefix("knobs.")] = absorbed
    else:
        run.states[name] = absorbed
    if name.split(".")[0] in DATA_SLOTS:
        run.redraw()
