"""Entering a phase: the model changes, states start fresh except what `carry` names, the data goes on or anew."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import TransformResult
from regimes.core.permutation import permutation
from regimes.engine import trees
from regimes.engine.buffers import Slot, slots
from regimes.engine.plan import Plan
from regimes.optimizers.groups import roles_of
from regimes.optimizers.layers import Layer, layers_of
from regimes.optimizers.tensorwise.rule import refuse_complex

#: For each axis of a parameter, the old index of every new one; None: the axis is as it was.
Indices = tuple[Tensor | None, ...]


class Parameters(dict[str, Tensor]):
    """Trained parameters by name, in model order, with the roles that groups may match and the layers they are of.

    `sources` are the examples in each source of the data that they are trained on; `buffers` the places where the model
    keeps its buffers, by name, which a rule that takes whole networks writes (``buffers[name].put(value)``).
    """

    roles: Mapping[str, str] = {}
    layers: tuple[Layer, ...] = ()
    sources: Mapping[str, int] = {}
    buffers: Mapping[str, Slot] = {}


def phase_parameters(model: nn.Module, declared: Any, view: Any) -> Parameters:
    """Return the parameters that a declared phase trains, with the sizes of the sources that it draws from."""
    found = trained_parameters(model, declared.trainable)
    named = dict(getattr(declared.mixture, "sources", ())) or view.sizes
    found.sources = {name: size for name, size in view.sizes.items() if name in named}
    found.buffers = slots(model)
    return found


def trained_parameters(model: nn.Module, patterns: tuple[str, ...]) -> Parameters:
    """Return the parameters that match; tied weights once, under their first name."""
    found = Parameters(
        {name: p for name, p in model.named_parameters() if p.requires_grad and (not patterns or _fits(name, patterns))}
    )
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name, _ in model.named_parameters()):
            hint = nearest(pattern, [name for name, _ in model.named_parameters()])
            raise DeclarationError(f"got '{pattern}', which matches no parameter; {hint}", "trainable")
    if not found:
        raise DeclarationError("no parameter is trainable", "trainable")
    for name, p in found.items():
        refuse_complex(name, p)
    found.roles = roles_of(model)
    found.layers = tuple(layer for layer in layers_of(model) if layer.weight in found)
    return found


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def replay_structure(model: nn.Module, regime: Any, phase: int) -> nn.Module:
    """Return the model with the structure that it has in `phase`: pure functions of the declaration."""
    for entered in regime.phases[: phase + 1]:
        for transform in entered.on_entry:
            model = transform.structure(model)
    return model


def transform_model(run: Any, phase: Any) -> dict[str, TransformResult]:
    """Apply the phase's transforms to the run's model, structure then values, and return their name maps."""
    results = {}
    for place, transform in enumerate(phase.declaration.on_entry):
        before = copy.deepcopy(run.model)
        run.model = transform.structure(run.model)
        streams = run.streams.within("on_entry", place)
        result = transform.fill(run.model, before, _batches(run, place), streams)
        _check_map(result, run.model, f"on_entry.{place}")
        results[f"on_entry.{place}"] = result
    return results


def _batches(run: Any, place: int) -> Iterator[Any]:
    """Batches of training data for transforms that look at data: uniform, addressed."""
    number = 0
    refuse_sequential(run.workload, f"on_entry.{place}")
    while True:
        size = min(run.view.size, 64)
        indices = permutation(run.view.size, run.streams.rng("on_entry", place, number))[:size]
        plan = Plan(number, indices, None, None, {}, {}, {})
        yield run.read(plan)
        number += 1


def refuse_sequential(workload: Any, key: str) -> None:
    """Refuse a look at examples of one's own where the data can only be read on."""
    for name, source in workload.sources["train"].items():
        if not source.random_access:
            raise DeclarationError(
                f"looks at examples of its own, but the data '{name}' is read in its own order only; allowed: map-style "
                "data",
                key,
            )


def _check_map(result: Any, model: nn.Module, key: str) -> None:
    if not isinstance(result, TransformResult):
        raise DeclarationError(f"its fill returned {show(result)}; allowed: a TransformResult", key)
    omitted = [name for name, _ in model.named_parameters() if name not in result.names]
    if omitted:
        raise DeclarationError(
            f"the name map says nothing of '{omitted[0]}'; it must be total over the new parameters (None: new), "
            "because after a change of structure an old name may be another tensor",
            key,
        )


def form(component: Any) -> tuple[Any, ...]:
    """What decides the form of a state: classes of the component and its parts, and the sources it names."""
    named = tuple(name for name, _ in getattr(component, "sources", ()))
    return type(component), named, tuple(form(part) for _, part in component.parts() if part.kind != "controller")


def fresh_cursor(run: Any, phase: Any, prefix: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the cursor at the beginning of the phase's data."""
    slot = phase.declaration.data_slot
    try:
        return phase.slots[slot].start(run.view, prefix)
    except DeclarationError as why:
        raise why.within(slot) from None


def fresh_states(run: Any, phase: Any) -> dict[str, Any]:
    """Return the states of every component of a phase, from `init`."""
    states: dict[str, Any] = {"knobs": {path: c.init() for path, c in phase.controllers.items()}}
    for slot, component in phase.parts():
        try:
            states[slot] = component.init(*_init_arguments(run, slot.split(".")[0]))
        except DeclarationError as why:
            raise why.within(slot) from None
    if "loss" not in states:
        states["loss"] = run.workload.loss.init()
    return states


def _init_arguments(run: Any, slot: str) -> tuple[Any, ...]:
    if slot in ("mixture", "sampler"):
        return (run.view,)
    return (run.parameters,) if slot in ("optimizer", "average", "grad_transforms") else ()


def carried(
    old: dict[str, Any], new: dict[str, Any], carry: tuple[str, ...], results: Mapping[str, TransformResult]
) -> dict[str, list[str]]:
    """Move into `new` what `carry` names from `old`; return what was carried, reset and dropped.

    Raises
    ------
    DeclarationError
        If a path names nothing that both phases have.
    """
    said: dict[str, list[str]] = {
        "carried": ["model"] if "model" in carry else [],
        "reset": [],
        "dropped": [],
    }
    for path in carry:
        if path in ("model", "averaged", "cursor"):
            continue
        holder, key, source = find(old, new, path)
        holder[key] = moved(source, holder[key], results)
        said["carried"].append(path)
    heads = {path.split(".")[0] for path in carry}
    said["reset"] = sorted(name for name in new if name not in heads and name in old)
    said["dropped"] = sorted(name for name in old if name not in new)
    return said


def find(old: dict[str, Any], new: dict[str, Any], path: str) -> tuple[dict[str, Any], str, Any]:
    """Return (holder in `new`, key, value in `old`) of a path that both states have, or refuse it."""
    source, holder, parts = old, new, path.split(".")
    # Slots such as grad_transforms.0 contain a dot themselves.
    if path in old and path in new:
        return new, path, old[path]
    for part in parts[:-1]:
        if part not in source or part not in holder:
            raise DeclarationError(f"got '{path}', of which the phases share nothing", "carry")
        source, holder = source[part], holder[part]
    if parts[-1] not in source or parts[-1] not in holder:
        hint = nearest(parts[-1], [name for name in source if name in holder])
        raise DeclarationError(f"got '{path}', which not both phases have; {hint}", "carry")
    return holder, parts[-1], source[parts[-1]]


def moved(old: Any, fresh: Any, results: Mapping[str, TransformResult] = MappingProxyType({})) -> Any:
    """Return `old` for the new parameters: dicts under ``slots`` follow the name maps, or names where there are none."""
    if isinstance(old, dict) and isinstance(fresh, dict):
        out = {}
        for key, value in old.items():
            if key.startswith(trees.CACHE):
                continue
            if key == "slots":
                out[key] = _moved_slots(value, fresh["slots"], results)
            elif key == "owned":
                out[key] = fresh[key]
            else:
                out[key] = moved(value, fresh.get(key), results)
        return out
    return old


def _moved_slots(old: dict[str, Any], fresh: dict[str, Any], results: Mapping[str, TransformResult]) -> dict[str, Any]:
    moved: dict[str, Any] = {}
    taken: set[str] = set()
    for name, new_slot in fresh.items():
        origin: str | None = name
        rules: dict[str, str] = {}
        maps: list[Indices] = []
        for result in reversed(list(results.values())):
            if origin is not None:
                maps = [result.indices[origin], *maps] if origin in result.indices else maps
                origin = result.names[origin]
            rules |= dict(result.rules)
        slot = old.get(origin) if origin is not None else None
        if origin in taken:
            slot = trees.clone(slot)  # of a parameter that several begin as; a rule advances each in place
        taken |= {origin} if origin is not None else set()
        moved[name] = new_slot if slot is None else _fitted(slot, new_slot, rules, maps)
    return moved


def _fitted(old: Any, new: Any, rules: Mapping[str, str], maps: list[Indices]) -> Any:
    default = rules.get("*", "copy")
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return _fitted_tensor(old, new, "copy", [])  # an average: weights, which no rule of state makes larger
    fitted = {
        key: _fitted_tensor(old[key], value, rules.get(key, default), maps) if key in old else value
        for key, value in new.items()
    }
    # Slots that a rule makes at its first step are missing from a fresh state; one that is zeroed is made anew.
    late = {key: value for key, value in old.items() if key not in new and not key.startswith(trees.CACHE)}
    return fitted | {
        key: _taken(value, maps) for key, value in late.items() if not maps or rules.get(key, default) != "zeros"
    }


def _fitted_tensor(old: Any, new: Any, rule: str, maps: list[Indices]) -> Any:
    if not isinstance(old, Tensor) or old.shape == new.shape:
        return old
    if rule == "zeros":
        return torch.zeros_like(new)
    if rule == "tile" and maps:
        old = _taken(old, maps)
        if old.shape == new.shape:
            return old
    elif rule == "tile" and old.ndim == new.ndim:
        repeats = [-(-wide // narrow) for wide, narrow in zip(new.shape, old.shape)]
        return old.repeat(repeats)[tuple(slice(0, wide) for wide in new.shape)].clone()
    raise DeclarationError(
        f"state of shape {tuple(old.shape)} cannot be carried to a parameter of shape {tuple(new.shape)}; "
        "the transform's rules must say 'zeros' or 'tile'",
        "carry",
    )


def _taken(value: Any, maps: list[Indices]) -> Any:
    """State of a parameter's form, or with axes of length 1 where a rule has summed, read along its index maps."""
    for indices in maps:
        if isinstance(value, Tensor) and value.ndim == len(indices):
            for axis, index in enumerate(indices):
                if index is not None and value.shape[axis] > 1:
                    value = value.index_select(axis, index.to(value.device))
    return value
