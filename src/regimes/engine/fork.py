"""Forks: a child run that begins with the state of another at a step, and goes on under edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from regimes.core import paths
from regimes.core.errors import DeclarationError
from regimes.core.regime import DATA_SLOTS, Regime
from regimes.engine import seam, trees
from regimes.engine.compile import CompiledPhase
from regimes.engine.folder import Folder
from regimes.engine.identity import identity
from regimes.engine.run import Run
from regimes.engine.stored import Stored

#: What a phase does once, on being entered.
_ON_ENTERING = ("on_entry", "carry")


def fork(
    stored: Stored, at: int, regime: Regime, out: Path, workload_spec: Any = None, seed: int | None = None
) -> dict[str, Any]:
    """Make the folder of a child run; the same fork, made before, is left as it stands.

    Parameters
    ----------
    stored : Stored
        The parent. It is only read.
    at : int
        Steps of the parent that the child has behind it.
    regime : Regime
        How the child goes on.
    out : Path
        The child's folder: records and state of the parent up to `at` are copied there.
    workload_spec : str or mapping, optional
        What builds the workload again.
    seed : int, optional
        Of all that is drawn from there on; default the parent's.

    Returns
    -------
    dict
        What changes: `changes`, and in ``trained_again`` the steps that had to be made again to get there.

    Raises
    ------
    DeclarationError
        If there is no such step, an edit is of what is over, or nothing is left to train.
    ResumeError
        If the folder holds another run, or the parent cannot be trained again.
    """
    child = stored.begin(regime, seed)
    content = identity(child)
    folder = Folder(out)
    lineage = {"folder": str(stored.path.absolute()), "parent": stored.declared["key"], "at": at}
    lineage |= {"command": stored.declared["command"]}
    if not (out / "run.json").exists():
        again = stored.again(at)
        begun = again.begun
        parent = again.until(at)
        check_past(parent, child)
        said = adopt(child, parent)
        lineage["changes"] = changes(parent, child) | said | {"trained_again": [begun, at]}
        with (stored.path / "records.jsonl").open("rb") as records:
            folder.plant(child, records.read(again.offset), content, lineage, workload_spec, stored.options)
    found = folder.begin(child, workload_spec, stored.options, content, lineage)
    return dict(found["lineage"]["changes"])


def check_past(parent: Run, child: Run) -> None:
    """Refuse edits of what is over, and a budget that leaves nothing to train.

    Raises
    ------
    DeclarationError
        Naming it.
    """
    if [phase.name for phase in parent.phases] != [phase.name for phase in child.phases]:
        raise DeclarationError("got another; allowed: the names of the parent's phases, which its data know", "name")
    place, step = parent.frame.phase, parent.frame.step
    for old, new in zip(parent.phases[:place], child.phases):
        budget = f"{new.name}.budget"  # an amount may be written in another way
        found = [d.path for d in paths.diff(old.declaration, new.declaration, new.name) if d.path != budget]
        if found or _extent(old) != _extent(new):
            key = found[0] if found else budget
            raise DeclarationError(
                f"got another value, but phase '{new.name}' is over at step {step}; allowed: edits of what follows, or a "
                "fork at an earlier step",
                key,
            )
    now = child.phases[place]
    for name in _ON_ENTERING:
        if getattr(parent.phase.declaration, name) != getattr(now.declaration, name):
            raise DeclarationError(
                f"got another value, but phase '{now.name}' has been entered at step {step}; allowed: edits of a later "
                "phase's, or a fork at an earlier step",
                f"{now.name}.{name}",
            )
    used = now.length.consumed(parent.frame.counters(), parent.frame.spent)
    if used >= now.length.total * (1.0 - 1e-12):
        raise DeclarationError(
            f"got '{now.length.budget}', which is over at step {step} ({used:g} {now.length.unit}); allowed: a longer "
            "one, or a fork at an earlier step",
            "budget" if len(child.phases) == 1 else f"{now.name}.budget",
        )


def adopt(child: Run, parent: Run) -> dict[str, list[str]]:
    """Give a run the state of another of the same workload; return what was carried, reset and dropped.

    What is declared as before goes on to the bit. A component that is declared otherwise follows the rule of a seam
    that carries it: it goes on if it is of the same form and its state fits, else it begins anew.
    """
    tree = trees.clone(parent.tree()) | {"regime": child.regime.hash, "seed": child.seed, "finished": False}
    before, now = parent.phase, child.phases[parent.frame.phase]
    if before.declaration.micro_batch != now.declaration.micro_batch:
        tree["micro"] = now.declaration.micro_batch
    child.load(tree)
    if child.regime == parent.regime:
        if child.seed != parent.seed:
            child.redraw()
        return {"carried": ["model", *child.states], "reset": [], "dropped": []}
    old, child.states = child.states, seam.fresh_states(child, now)
    said = _inherit(parent, child, old)
    if not _draws_alike(parent, child):
        slots = before.declaration.data_slot, now.declaration.data_slot
        if slots[0] != slots[1] or seam.form(before.slots[slots[0]]) != seam.form(now.slots[slots[1]]):
            child.frame.cursor = seam.fresh_cursor(child, now, child.streams.prefix)
            said["reset"].append("cursor")
        child.redraw()
    elif not child.frame.plans:
        child.redraw()
    return said


def _inherit(parent: Run, child: Run, old: dict[str, Any]) -> dict[str, list[str]]:
    """Move into the child's fresh states what of the parent's fits them."""
    before, now, new = dict(parent.phase.parts()), dict(child.phase.parts()), child.states
    said: dict[str, list[str]] = {"carried": ["model"], "reset": [], "dropped": [s for s in old if s not in new]}
    alike = list(parent.parameters) == list(child.parameters)
    for slot in [slot for slot in new if slot != "knobs"]:
        fits = slot in old and (slot in before) == (slot in now)
        if fits and slot in before and before[slot] != now[slot]:
            fits = seam.form(before[slot]) == seam.form(now[slot]) and _same_shapes(old[slot], new[slot])
        if fits:
            try:
                new[slot] = (
                    old[slot] if alike and before.get(slot) == now.get(slot) else seam.moved(old[slot], new[slot])
                )
            except DeclarationError:  # a rule keeps something of another shape than before
                fits = False
        said["carried" if fits else "reset"].append(slot)
    _inherit_controllers(parent.phase, child.phase, old["knobs"], new["knobs"], said)
    return said


def _inherit_controllers(
    before: CompiledPhase, now: CompiledPhase, old: dict[str, Any], new: dict[str, Any], said: dict[str, list[str]]
) -> None:
    for path, controller in now.controllers.items():
        fits = type(before.controllers.get(path)) is type(controller) and _same_shapes(old[path], new[path], keys=True)
        if fits:
            new[path] = old[path]
        said["carried" if fits else "reset"].append(path)
    said["dropped"] += [path for path in old if path not in new]


def _same_shapes(old: Any, new: Any, keys: bool = False) -> bool:
    """Whether tensors that both states have, those of parameters apart, are of one shape: a number that shapes a state
    (clusters, say) may have been edited."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return old.shape == new.shape
    if isinstance(old, dict) and isinstance(new, dict):
        if keys and old.keys() != new.keys():
            return False
        return all(_same_shapes(old[k], new[k], keys) for k in old if k in new and k not in ("slots", "owned"))
    return True


def _draws_alike(parent: Run, child: Run) -> bool:
    """Whether the child would have drawn what the parent has drawn and not yet used."""
    names = [*DATA_SLOTS, "lag"]
    if parent.seed != child.seed:
        return False
    same = all(getattr(parent.phase.declaration, n) == getattr(child.phase.declaration, n) for n in names)
    return same and [_extent(phase) for phase in parent.phases] == [_extent(phase) for phase in child.phases]


def _extent(phase: CompiledPhase) -> tuple[str, float]:
    return phase.length.unit, phase.length.total


# -- what changes --------------------------------------------------------------------------------------------------


def changes(parent: Run, child: Run) -> dict[str, Any]:
    """Return what an edit changes at the step of the fork: paths, values of knobs now, and the horizon."""
    before, after = knobs_now(parent), knobs_now(child)
    lead = f"{child.phase.name}." if len(child.phases) > 1 else ""
    return {
        "edits": [difference._asdict() for difference in parent.regime.diff(child.regime)],
        "knobs": [
            {"path": lead + path, "before": before.get(path), "after": after.get(path)}
            for path in dict.fromkeys([*before, *after])
            if before.get(path) != after.get(path)
        ],
        "horizon": {"before": horizon(parent), "after": horizon(child)},
    }


def knobs_now(run: Run) -> dict[str, float]:
    """Every knob of the run's phase with its value at the run's position."""
    phase, states = run.phase, run.states["knobs"]
    plain = {p: v for p, v, _ in paths.knobs(phase.declaration) if isinstance(v, int | float)}
    return plain | phase.step_knobs.values(states, run.position) | phase.data_knobs.values(states, run.position)


def horizon(run: Run) -> str:
    """How long the whole run is: in steps where their number is known beforehand, else as it is declared."""
    steps = [phase.length.steps for phase in run.phases]
    if None not in steps:
        return f"{sum(n for n in steps if n is not None)} steps"
    return " + ".join(str(phase.length.budget) for phase in run.phases)
