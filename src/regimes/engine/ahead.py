"""Looking ahead: every phase is entered on a copy of the model, without its values, before anything is spent."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from regimes.core import paths
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Weights
from regimes.core.progress import Progress
from regimes.engine import seam, trees, trials
from regimes.engine.diagnose import refuse_interaction


def check_given(declaration: Any) -> None:
    """Refuse weights that are not there, or do not go together, before the phase that is given them begins."""
    for path, value in paths.walk(declaration):
        if isinstance(value, Weights):
            try:
                value.load()
            except DeclarationError as why:
                raise why.within(path) from None


def check_phases(run: Any) -> None:
    """Enter every phase on a copy of the model, without its values, before anything is spent.

    Raises
    ------
    DeclarationError
        If a phase's patterns, groups or data do not fit what it will meet, it carries what cannot be carried, its
        micro-batches would interact, or it would make a trial whose length cannot be told.
    """
    model = run.model if len(run.phases) == 1 else copy.deepcopy(run.model)
    before: tuple[Any, dict[str, Any]] | None = None
    for phase in run.phases:
        try:
            check_given(phase.declaration)
            if before is not None:
                for transform in phase.declaration.on_entry:
                    model = transform.structure(model)
            ahead = SimpleNamespace(model=model, workload=run.workload, view=run.view)
            states = run.states if before is None else _ahead(ahead, phase)
            _check_trial(run, phase, states)
            if before is not None:
                _check_carry(before, (phase, states))
        except DeclarationError as why:
            raise (why if before is None else why.within(phase.name)) from None
        before = phase, states


def _ahead(ahead: Any, phase: Any) -> dict[str, Any]:
    """Fresh states of a later phase."""
    declared = phase.declaration
    ahead.parameters = seam.phase_parameters(ahead.model, declared, ahead.view)
    ahead.loss = declared.loss if declared.loss is not None else ahead.workload.loss
    if declared.micro_batch == "auto":
        refuse_interaction(ahead)
    seam.fresh_cursor(ahead, phase, (phase.name,))
    return seam.fresh_states(ahead, phase)


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
                total = phase.length.total
                edit = trials.absolute(path, trial)
                trials.compiled(run.regime, phase, edit, 0.0, min(phase.length.amount(trial.budget) / total, 1.0))
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
        # Only what fills the new model knows which parameter is which: paths are looked up, shapes are not.
        for path in carry:
            if path not in ("model", "averaged", "cursor"):
                seam.find(left, fresh, path)
    else:
        seam.carried(trees.clone(left), trees.clone(fresh), carry, {})


def _same_form(path: str, old: Any, new: Any) -> None:
    if seam.form(old) != seam.form(new):
        raise DeclarationError(
            f"got '{path}', but {new!r} cannot go on where {old!r} stopped: only the same kind of component can",
            "carry",
        )
