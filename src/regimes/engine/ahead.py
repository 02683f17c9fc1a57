"""Looking ahead: every phase is entered on a copy of the model, without its values, before anything is spent."""

from __future__ import annotations

import copy
from typing import Any

from regimes.core import paths
from regimes.core.component import keeper_of_weights
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Weights
from regimes.core.progress import Progress
from regimes.engine import seam, trees, trials
from regimes.engine.diagnose import refuse_interaction
from regimes.engine.first_batch import Ahead


def check_given(declaration: Any) -> None:
    """Refuse weights that are not there, or do not go together, before the phase that is given them begins."""
    for path, value in paths.walk(declaration):
        if isinstance(value, Weights):
            try:
                value.load()
            except DeclarationError as why:
                raise why.within(path) from None


def check_phases(run: Any, evaluate: bool = True) -> None:
    """Enter every phase on a copy of the model, without its values, before anything is spent.

    Raises
    ------
    DeclarationError
        If a phase's patterns, groups, weights or data do not fit what it will meet, it carries what cannot be carried, its
        micro-batches would interact, its loss cannot be computed on its first micro-batch, or it would make a trial
        whose length cannot be told.
    UserCodeError
        If the model, the loss or the data fail on a later phase's first micro-batch.
    """
    model = run.model
    before: tuple[Any, dict[str, Any]] | None = None
    for phase in run.phases:
        try:
            check_given(phase.declaration)
            if before is not None:
                model = copy.deepcopy(model) if model is run.model else model
                model = _entered(model, phase)
            ahead = Ahead(run, phase, model)
            states = _begun(ahead, run) if before is None else _states(ahead)
            _check_trial(run, phase, states)
            if before is not None:
                _check_carry(before, (phase, states))
            if evaluate:
                ahead.evaluate(run.frame.plans[0] if before is None else None)
        except DeclarationError as why:
            raise (why if before is None else why.within(phase.name)) from None
        before = phase, states


def _entered(model: Any, phase: Any) -> Any:
    """The model with the structure that it will have in a phase, which its transforms can fill."""
    for place, transform in enumerate(phase.declaration.on_entry):
        try:
            model = transform.structure(model)
            transform.check(model)
        except DeclarationError as why:
            raise why.within(f"on_entry.{place}") from None
    return model


def _begun(ahead: Ahead, run: Any) -> dict[str, Any]:
    """The states of the first phase, which has been entered; rules write none before they have evaluated."""
    ahead.parameters, ahead.trained, ahead.states = run.parameters, run.trained, run.states
    return ahead.states


def _states(ahead: Ahead) -> dict[str, Any]:
    """Fresh states of a later phase."""
    phase, declared = ahead.phase, ahead.phase.declaration
    ahead.parameters = seam.phase_parameters(ahead.model, declared, ahead.view)
    ahead.trained = list(ahead.parameters.values())
    if declared.micro_batch == "auto":
        refuse_interaction(ahead)
    ahead.frame.cursor = seam.fresh_cursor(ahead, phase, ahead.streams.prefix)
    ahead.states = seam.fresh_states(ahead, phase)
    return ahead.states


def _check_trial(run: Any, phase: Any, states: dict[str, Any]) -> None:
    """Refuse a first trial whose budget cannot be told in the phase's unit, or whose edit is refused."""
    at = Progress(run_fraction=0.0)
    live = phase.substitute(phase.step_knobs.values(states["knobs"], at) | phase.data_knobs.values(states["knobs"], at))
    for name in phase.proposing:
        head, _, rest = name.partition(".")
        if head == "knobs":
            trial = phase.controllers[rest].propose(states["knobs"][rest], at)
        else:
            component = getattr(live, head)
            trial = (component[int(rest)] if rest else component).propose(states[name], at)
        if trial is not None:
            path = rest if head == "knobs" else name
            try:
                share = phase.length.amount(trial.budget) / phase.length.total
                if share > 1.0 + 1e-9 and not trial.past_end:
                    raise DeclarationError(
                        f"got '{trial.budget}'; allowed: no more than its phase, '{phase.length.budget}'", "budget"
                    )
                trials.compiled(run.regime, phase, trials.absolute(path, trial), 0.0, min(share, 1.0))
            except DeclarationError as why:
                raise why.within(f"a trial of {path}") from None


def _check_carry(old: tuple[Any, dict[str, Any]], new: tuple[Any, dict[str, Any]]) -> None:
    """Refuse to carry the state of one component to another, or to one of another form."""
    (before, left), (phase, fresh) = old, new
    carry = phase.declaration.carry
    parts = dict(before.parts()), dict(phase.parts())
    if "cursor" in carry:
        slots = before.declaration.data_slot, phase.declaration.data_slot
        _same_form("cursor", parts[0].get(slots[0]), parts[1].get(slots[1]))
    for path in carry:
        if path in parts[0] and path in parts[1]:
            _same_form(path, parts[0][path], parts[1][path])
    if phase.declaration.on_entry:
        _refuse_stale_weights(phase.declaration, parts[0])
        # Only what fills the new model knows which parameter is which: paths are looked up, shapes are not.
        for path in carry:
            if path not in ("model", "averaged", "cursor"):
                seam.find(left, fresh, path)
    else:
        seam.carried(trees.clone(left), trees.clone(fresh), carry, {})


def _refuse_stale_weights(declared: Any, parts: dict[str, Any]) -> None:
    """Refuse to carry weights of a component's own past a transform that gives the model other values."""
    changing = next((transform for transform in declared.on_entry if not transform.keeps_values), None)
    for path in declared.carry if changing is not None else ():
        slot = next((slot for slot in parts if path == slot or path.startswith(f"{slot}.")), None)
        keeper = None if slot is None else keeper_of_weights(parts[slot])
        if keeper is not None:
            raise DeclarationError(
                f"got '{path}', but {type(keeper).__name__} keeps weights, which {type(changing).__name__} would leave "
                "as they were; allowed: to begin it anew",
                "carry",
            )


def _same_form(path: str, old: Any, new: Any) -> None:
    if seam.form(old) != seam.form(new):
        raise DeclarationError(
            f"got '{path}', but {new!r} cannot go on where {old!r} stopped: only the same kind of component can",
            "carry",
        )
