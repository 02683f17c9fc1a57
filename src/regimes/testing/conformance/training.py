"""Contracts of a component in a run: exact resume, memory that moves once a step, skipped steps, knobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regimes.core import paths
from regimes.core.component import Component, observes
from regimes.core.regime import Regime
from regimes.engine import trees, trials
from regimes.engine.run import Run
from regimes.testing.conformance import watch
from regimes.testing.conformance.harness import demand, few, rule
from regimes.testing.conformance.stand import PLACES, STATEFUL, Setup, Stand, applied
from regimes.testing.conformance.toys import tallies, tally
from regimes.testing.resume import resume_chain, through_bytes

_ALL = tuple(PLACES)


# -- state -----------------------------------------------------------------------------------------------


@rule("has a pure init", *STATEFUL)
def has_a_pure_init(stand: Stand) -> None:
    """Two fresh states are bitwise equal, whatever the global generators say; making one moves nothing."""
    first, second = stand.make()(), stand.make()()
    found = trees.differences(stand.state(first), stand.state(second))
    demand(not found, f"two fresh states of {stand.example!r} differ at {few(found)}")
    found = trees.differences(dict(first.model.state_dict()), dict(second.model.state_dict()))
    demand(not found, f"making a state of {stand.example!r} moves the model at {few(found)}")


@rule("has a state of plain values", *STATEFUL)
def has_a_state_of_plain_values(stand: Stand) -> None:
    """After some steps the state is dicts and lists of tensors, numbers and strings, and survives a file bitwise."""
    for setup in stand.setups:
        run = stand.make(setup)()
        for _ in range(3):
            run.step()
        state = {"own": run.states}
        found = trees.differences(trees.clone(state), through_bytes(state))
        demand(not found, f"the state of {setup.example!r} comes back from a file different at {few(found)}")
        wrong = list(_misplaced(run.states, set(run.parameters)))
        demand(not wrong, f"under 'slots' stand parameters by name; {setup.example!r} has {few(wrong)}")


def _misplaced(tree: Any, names: set[str], path: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return []
    found = [f"{path}.slots.{key}" for key in tree.get("slots", {}) if key not in names]
    return found + [
        w for key, value in tree.items() if key != "slots" for w in _misplaced(value, names, f"{path}.{key}")
    ]


# -- resume ----------------------------------------------------------------------------------------------


def _chain(stand: Stand, setup: Setup | None = None, steps: int | None = None, every: int = 1, **more: Any) -> None:
    found = resume_chain(stand.make(setup, **more), steps or stand.steps, every)
    demand(not found, f"resuming {stand.regime(setup, **more)!r} is not exact: {few(found)}")


@rule("resumes bitwise", *_ALL)
def resumes_bitwise(stand: Stand) -> None:
    """Saved, dropped, rebuilt and stepped, again and again: the whole state stays that of the unbroken run."""
    _chain(stand, every=1 if stand.steps > 8 else 2)


@rule("resumes bitwise in every example", *_ALL, when=lambda stand: len(stand.setups) > 1)
def resumes_bitwise_in_every_example(stand: Stand) -> None:
    """The same for the other instances that the class shows."""
    for setup in stand.setups[1:]:
        _chain(stand, setup, max(4, stand.steps // 4), every=3 if stand.steps <= 8 else 1)


@rule("resumes bitwise with lag and micro-batches", *_ALL)
def resumes_bitwise_with_lag_and_micro_batches(stand: Stand) -> None:
    """The same with plans drawn two steps ahead and batches cut in parts of unequal size."""
    _chain(stand, every=1 if stand.steps > 8 else 3, lag=2, micro_batch=4)


@rule("resumes bitwise over a carried seam", "averager", "grad_transform", "loss", "optimizer", "sampler")
def resumes_bitwise_over_a_carried_seam(stand: Stand) -> None:
    """A state that is carried into the next phase arrives there bitwise, and resumes there."""
    slot = "optimizer" if stand.kind == "optimizer" else stand.setup.place
    carry = ["model", slot] + (["cursor"] if stand.kind == "sampler" else [])

    whole = stand.regime(budget="6 steps").phases[0].replace("budget", "50%")
    second = whole.replace("name", "second").replace("carry", carry)
    make = stand.build(Regime(phases=[whole.replace("name", "first"), second], budget="6 steps"))

    run = make()
    with _seam(run) as before:
        while run.frame.phase == 0:  # not a number of steps: trials are steps, too
            run.step()
    found = trees.differences(before["state"], trees.clone(run.states[slot]))
    demand(not found, f"carrying '{slot}' of {stand.example!r} changes it at {few(found)}")
    found = resume_chain(make, 6, every=1 if stand.steps > 8 else 2)
    demand(not found, f"resuming {stand.example!r} over a carried seam is not exact: {few(found)}")


class _seam:
    """Inside, the state that a phase ends with is kept."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._kept: dict[str, Any] = {}

    def __enter__(self) -> dict[str, Any]:
        enter = self._run.enter

        def keep(first: bool) -> None:
            slot = self._run.phases[-1].declaration.carry[1]
            self._kept["state"] = trees.clone(self._run.states[slot])
            enter(first)

        self._run.enter = keep  # type: ignore[method-assign, assignment]
        return self._kept

    def __exit__(self, *_: object) -> None:
        del self._run.enter


@rule("keeps nothing on itself", *_ALL)
def keeps_nothing_on_itself(stand: Stand) -> None:
    """After a run, every declared object holds what it held before: the same objects under the same names."""
    run = stand.make()()
    before = {path: _contents(value) for path, value in paths.walk(run.regime)}
    while not run.finished and run.frame.step < 8:
        run.step()
    for path, value in paths.walk(run.regime):
        demand(_contents(value) == before[path], f"'{path}' of the declaration was changed while running")


def _contents(value: Any) -> Any:
    return {name: id(item) for name, item in vars(value).items()} if isinstance(value, Component) else value


#: The method through which a kind takes part in a step.
_PART = {
    "augment": "apply",
    "averager": "observe",
    "controller": "value",
    "grad_transform": "apply",
    "loss": "units",
    "optimizer": "step",
    "sampler": "draw",
    "selector": "select",
}


@rule("is asked in a run", *_PART)
def is_asked_in_a_run(stand: Stand) -> None:
    """What stands in a slot takes part in every step: no slot is filled for show."""
    run, name = stand.make()(), _PART[stand.kind]
    with watch.counted(stand.cls, name) as asked:
        applied(run), applied(run)
    demand(asked.count >= 2, f"in two steps {stand.cls.__name__}.{name} was called {asked.count} times")


# -- observing -------------------------------------------------------------------------------------------


def _observing(stand: Stand) -> bool:
    return stand.kind in STATEFUL and observes(stand.example)


@rule("observes once a step", *STATEFUL, when=_observing)
def observes_once_a_step(stand: Stand) -> None:
    """`observe` is called once for every applied step and never for a skipped one, and moves no weight."""
    run = stand.make()()
    with watch.observations(stand.cls, run, stand.state) as seen:
        run.step(), run.step()
        with watch.poisoned(run):
            skipped = run.step()
        demand("skipped" in skipped.signals, "a forward that is not finite did not skip the step")
        run.step()
    demand(seen.count == 3, f"{stand.example!r} observed {seen.count} times in 3 applied steps and 1 skipped one")
    demand(not seen.moved, f"observing, {stand.example!r} moves the model at {few(seen.moved)}")


def _holds_parts(stand: Stand) -> bool:
    return stand.kind in STATEFUL and any(True for _ in _parts(stand))


def _parts(stand: Stand) -> list[str]:
    kinds = {"optimizer", "sampler", "loss", "averager", "grad_transform"}
    found = [path for path, value in paths.walk(stand.example) if getattr(value, "kind", "") in kinds]
    return [path for path in found if not any(other.startswith(f"{path}.") for other in found)]


@rule("lets its parts observe", when=_holds_parts)
def lets_its_parts_observe(stand: Stand) -> None:
    """What stands inside observes once for every applied step, too, and its memory is kept."""
    for path in _parts(stand):
        counting = paths.put(stand.example, path.split("."), tally(paths.get(stand.example, path)))
        setup = stand.setup._replace(example=counting)
        run = Run(stand.workload(), stand.regime(setup), seed=1, count_flops=False)
        run.step()
        with watch.poisoned(run):
            run.step()
        run.step()
        found = tallies(_without(run.states, getattr(stand.cls, "copies", ())))
        demand(found, f"the state of '{path}' is not part of the state of {stand.example!r}")
        demand(set(found) == {2}, f"in 2 applied steps and a skipped one '{path}' observed {found} times")


def _without(tree: Any, keys: Sequence[str]) -> Any:
    """A state without copies of earlier ones, which have observed less."""
    if not isinstance(tree, dict):
        return tree
    return {name: _without(value, keys) for name, value in tree.items() if name not in keys}


# -- skipped steps ---------------------------------------------------------------------------------------


@rule("leaves a skipped step untouched", *_ALL)
def leaves_a_skipped_step_untouched(stand: Stand) -> None:
    """Whichever evaluation of a step is not finite, weights, buffers and states stay bitwise as they were."""
    for forward in range(1, _forwards(stand) + 1):
        run = stand.make()()
        while run.frame.phase + 1 < len(run.phases) or run.frame.phase_step < 2:
            applied(run)
        before = trees.clone({"states": run.states, "model": dict(run.model.state_dict())})
        with watch.poisoned(run, forward):
            record = run.step()
        demand("skipped" in record.signals, f"with forward {forward} not finite the step was not skipped")
        after = trees.clone({"states": run.states, "model": dict(run.model.state_dict())})
        found = trees.differences(before, after)
        demand(not found, f"with forward {forward} not finite {stand.example!r} leaves changes at {few(found)}")


def _forwards(stand: Stand) -> int:
    run = stand.make()()
    while run.frame.phase + 1 < len(run.phases):
        run.step()
    trials.begin(run)  # looks are no part of the step
    run.model.calls = 0  # type: ignore[assignment]
    run.step()
    return int(run.model.calls)  # type: ignore[arg-type]
