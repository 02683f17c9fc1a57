"""Contracts of a component's settings in a run: every knob takes a schedule and a controller, every field acts."""

from __future__ import annotations

from typing import Any

from regimes.core import fields, paths
from regimes.core.errors import DeclarationError, RegimesError
from regimes.core.notation import parse
from regimes.engine import trees
from regimes.testing.conformance.declared import alternatives, others
from regimes.testing.conformance.examples import importable
from regimes.testing.conformance.harness import demand, few, rule
from regimes.testing.conformance.signals import driven
from regimes.testing.conformance.stand import PLACES, Setup, Stand
from regimes.testing.conformance.toys import Held


def _turns(stand: Stand) -> bool:
    return stand.runs and bool(stand.own_knobs)


@rule("takes a schedule for every knob", when=_turns)
def takes_a_schedule_for_every_knob(stand: Stand) -> None:
    """A constant schedule in a knob trains the same weights as its number, bitwise."""
    for path in stand.own_knobs:
        number = paths.get(stand.example, path)
        edited = _edited(stand, path, f"Constant({number!r})")
        found = trees.differences(_weights(stand, stand.setup), _weights(stand, edited))
        demand(not found, f"{path}=Constant({number!r}) trains other weights than {path}={number!r}: {few(found)}")


@rule("takes a controller for every knob", when=_turns)
def takes_a_controller_for_every_knob(stand: Stand) -> None:
    """A controller in a knob is read each step: the record shows the value that it gave."""
    for path, spec in stand.own_knobs.items():
        number = paths.get(stand.example, path)
        for value in others(spec, number):
            toy = Held(number, value)
            try:
                edited = _edited(stand, path, f"{type(toy).__module__}:Held({number!r}, {value!r})")
            except DeclarationError:
                continue
            run = stand.make(edited)()
            outside = (record for record in run if "trial" not in record.signals)
            seen = [next(v for k, v in next(outside).knobs.items() if k.endswith(path)) for _ in range(3)]
            wanted = [number, value, value]
            demand(
                seen[0] == wanted[0] and seen[2] == wanted[2], f"{path} was {seen} where the controller gave {wanted}"
            )
            break


def _edited(stand: Stand, path: str, text: str) -> Setup:
    with importable(stand.cls):
        return stand.setup._replace(example=paths.put(stand.example, path.split("."), parse(text)))


def _weights(stand: Stand, setup: Setup, steps: int = 4) -> dict[str, Any]:
    run = stand.make(setup)()
    while run.frame.phase + 1 < len(run.phases):
        run.step()
    for _ in range(steps):
        run.step()
    return trees.clone(dict(run.model.state_dict()))


@rule("acts on every field", *(kind for kind in PLACES if kind != "schedule"))
def acts_on_every_field(stand: Stand) -> None:
    """Another value of a field makes another run, in one of the examples at least: no setting is for show."""
    paths_ = list(stand.own_knobs) + [
        name
        for name, info in fields.table(stand.cls).items()
        if info.spec.role == "fixed" and name != stand.cls.open_field
    ]
    plain = [_trace(stand, setup) for setup in stand.setups]
    idle = [path for path in paths_ if _acts(stand, path, plain) is False]
    demand(not idle, f"in a run of {[s.example for s in stand.setups]} no other value changes anything: {idle}")


def _acts(stand: Stand, path: str, plain: list[dict[str, Any]]) -> bool | None:
    """Whether another value makes another run; None where no other value could be tried."""
    acted = None
    for setup, usual in zip(stand.setups, plain):
        for value in _values(setup.example, path):
            try:
                edited = setup._replace(example=paths.edit(setup.example, {path: value}))
                found = _trace(stand, edited)
            except RegimesError:
                continue
            if trees.differences(usual, found):
                return True
            acted = False
    return acted


def _values(example: Any, path: str) -> list[Any]:
    table = fields.table(type(example))
    if path in table and table[path].spec.role == "fixed":
        return alternatives(table[path], getattr(example, path))
    knobs = {own: (value, spec) for own, value, spec in paths.knobs(example)}
    return others(knobs[path][1], knobs[path][0]) if path in knobs else []


def _trace(stand: Stand, setup: Setup) -> dict[str, Any]:
    """What a run leaves: weights, states, plans and losses; of a controller, its values over made-up signals."""
    if stand.kind == "controller" and (values := driven(setup.example)) is not None:
        return {"values": values}
    run = stand.make(setup)()
    records: list[Any] = []
    while not run.finished:
        records.append(run.step().signals)
    tree = trees.clone(run.tree())
    judged, _ = run.judged_weights()
    return {"frames": tree["frames"], "states": tree["states"], "model": tree["model"], "records": records} | {
        "judged": trees.clone(dict(judged or {}))
    }
