"""The batches of several runs as one, with a leading axis of runs, and the losses of their units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from regimes.core.unit_losses import UnitLosses
from regimes.engine.plan import Plan
from regimes.engine.step import Begun
from regimes.losses.forward import split


class Differ(Exception):
    """The batches of a step differ in form: they are not stacked."""


class Inputs(NamedTuple):
    """The batches of one micro-batch of all runs.

    Parameters
    ----------
    args, kwargs
        With a leading axis of runs.
    targets
        The same.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    targets: Any

    def tensors(self) -> list[Tensor] | None:
        """All of them, if they are tensors and nothing else."""
        flat = [*self.args, *self.kwargs.values(), self.targets]
        return flat if all(isinstance(value, Tensor) for value in flat) else None

    def form(self) -> Any:
        """What a graph supposes of them."""
        return tuple(self.kwargs), [(value.shape, value.dtype) for value in self.tensors() or ()]


def read(begun: Sequence[Begun], number: int, start: int, size: int) -> Inputs:
    """Inputs, named inputs and targets of one micro-batch, with a leading axis of runs."""
    if rowwise(begun):
        batch = begun[0].run.read(_joined([one.plan.part(start, start + size) for one in begun]))
        args, kwargs, target = split(batch)
        count = len(begun)

        def parted(value: Any) -> Any:
            return value.unflatten(0, (count, size)) if isinstance(value, Tensor) else value

        inputs = [_each(parted, value) for value in args], {n: _each(parted, v) for n, v in kwargs.items()}
        return Inputs(*inputs, _each(parted, target))
    return _stacked([split(one.evaluate.batches()[number][2]) for one in begun])


def rowwise(begun: Sequence[Begun]) -> bool:
    """Whether the batches of all runs can be read as one."""
    return begun[0].run.read.rowwise and all(
        not one.live.augment and not one.plan.columns and (one.plan.sources is None) == (begun[0].plan.sources is None)
        for one in begun
    )


def units(begun: Sequence[Begun], output: Any, targets: Any, size: int) -> tuple[list[UnitLosses], Tensor, bool]:
    """Unit losses of every run, all their values as one tensor, and whether each run has as many as the others."""
    count = len(begun)
    losses = [loss_of(one.run, one.live) for one in begun]
    if losses[0].separable and all(loss == losses[0] for loss in losses[1:]):
        whole = losses[0].per_unit(_each(_merged, output), _each(_merged, targets))
        found = parted_units(whole, count, size)
        if found is not None:
            return found, whole.values.reshape(-1), True
    each = [
        loss.per_unit(*pytree.tree_map(lambda t, place=place: t[place], (output, targets)))
        for place, loss in enumerate(losses)
    ]
    each = [UnitLosses(found.values.reshape(-1), found.weights, found.examples) for found in each]
    same = len({len(found.values) for found in each}) == 1
    return each, torch.cat([found.values for found in each]), same


def loss_of(run: Any, declared: Any) -> Any:
    return declared.loss if declared.loss is not None else run.workload.loss


def _each(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with every tensor in it replaced; most are one tensor, and a tree costs 20 us."""
    return function(value) if isinstance(value, Tensor) else pytree.tree_map(function, value)


def _merged(stacked: Tensor) -> Tensor:
    return stacked.flatten(0, 1)


def _joined(plans: Sequence[Plan]) -> Plan:
    """The plans of one step of several runs as one, in order."""
    import numpy as np

    first = plans[0]
    indices = np.concatenate([plan.indices for plan in plans])
    sources = None if first.sources is None else np.concatenate([plan.sources for plan in plans])
    return Plan(first.step, indices, sources, None, {}, {}, {})


def _stacked(found: Sequence[tuple[Any, Any, Any]]) -> Inputs:
    """Stack the batches of several runs."""
    leaves = [pytree.tree_flatten(batch) for batch in found]
    if any(spec != leaves[0][1] for _, spec in leaves[1:]):
        raise Differ
    made = []
    for values in zip(*[flat for flat, _ in leaves]):
        if not isinstance(values[0], Tensor):
            if any(value != values[0] for value in values[1:]):
                raise Differ
            made.append(values[0])
        elif any(value.shape != values[0].shape or value.dtype != values[0].dtype for value in values[1:]):
            raise Differ
        else:
            made.append(torch.stack(values))
    args, kwargs, target = pytree.tree_unflatten(made, leaves[0][1])
    return Inputs(args, kwargs, target)


def parted_units(whole: UnitLosses, count: int, size: int) -> list[UnitLosses] | None:
    """The unit losses of every run, where those of one lie side by side and are as many as another's; else None."""
    values = whole.values.reshape(-1)
    units, left = divmod(len(values), count)
    if left or not units or units % size:
        return None
    weights = [None] * count if whole.weights is None else list(whole.weights.view(count, units))
    examples = None
    if whole.examples is not None:
        examples = whole.examples[:units]
        if (
            units != size * (units // size)
            or int(whole.examples[-1]) != count * size - 1
            or int(examples[-1]) != size - 1
        ):
            return None
    elif units != size:
        return None
    return [UnitLosses(own, weight, examples) for own, weight in zip(values.view(count, units), weights)]
