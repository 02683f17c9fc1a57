"""The graphs of a stack: traced when they are worth it, and believed where they find what the step finds."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from regimes.engine import arithmetic
from regimes.engine.stacked_batches import Differ, Inputs, loss_of, units
from regimes.engine.stacked_forward import Mode, StackedForward
from regimes.engine.step import Begun
from regimes.engine.traced import Traced, Worth


class Graphs:
    """Graphs of a stack's micro-batches, by their size.

    Parameters
    ----------
    forward : StackedForward
    leaves : tuple of Tensor
        Stacked trained weights, by name: what gradients are made for.
    near : float
        How far what is compiled may be from what is not, relative to its size.
    compiled : bool
        Whether torch compiles them; they are then used in any case.
    """

    def __init__(self, forward: StackedForward, leaves: tuple[Tensor, ...], near: float, compiled: bool) -> None:
        self._forward, self._leaves, self._near, self.compiled = forward, leaves, near, compiled
        #: None where there can be none.
        self.by_size: dict[int, Traced | None] = {}
        #: Whether steps are made by graphs.
        self.worth = Worth(declared=compiled)
        #: Whether the model is one that a graph may stand for.
        self.traceable = False

    def find(
        self, begun: Sequence[Begun], size: int, inputs: Inputs, masks: Sequence[Tensor], mode: Mode
    ) -> Traced | None:
        """Return the graph of such a micro-batch, where there is one and what it supposes holds."""
        if not self.traceable or any(one.plan.weights is not None for one in begun):
            return None
        losses = [loss_of(one.run, one.live) for one in begun]
        if size not in self.by_size:
            try:
                self.by_size[size] = self._trace(losses, begun, size, inputs, masks, mode)
            except Exception:  # torch cannot trace it, or it would not be the same
                self.by_size[size] = None
            # Where what existed before is not looked through for garbage, neither is what tracing has loaded.
            if gc.get_freeze_count():
                gc.freeze()
        graph = self.by_size[size]
        return graph if graph is not None and graph.fits(inputs, losses) else None

    def _trace(
        self,
        losses: Sequence[Any],
        begun: Sequence[Begun],
        size: int,
        inputs: Inputs,
        masks: Sequence[Tensor],
        mode: Mode,
    ) -> Traced:
        """Trace one step, and see that the graph finds the same bits; buffers are as before.

        Raises
        ------
        Exception
            If it cannot be traced, or finds others.
        """
        places = [next((i for i, own in enumerate(self._leaves) if own is leaf), leaf) for leaf in self._forward.leaves]

        def made(leaves: Any, buffers: Any, given: Inputs, masks: Any) -> tuple[Tensor, Any, Tensor | None]:
            own = tuple(leaves[place] if isinstance(place, int) else place for place in places)
            output = self._forward.mapped(own, buffers, given.args, given.kwargs, masks, mode)
            found, values, each = units(begun, output, given.targets, size)
            if not each or found[0].weights is not None or not losses[0].separable:
                raise Differ
            gradients = torch.autograd.grad(values, leaves, torch.ones_like(values), allow_unused=True)
            return values, gradients, found[0].examples

        def plainly() -> tuple[Tensor, Sequence[Tensor | None]]:
            output = self._forward.outputs(inputs.args, inputs.kwargs, masks, mode)
            _, values, _ = units(begun, output, inputs.targets, size)
            return values.detach(), arithmetic.gradient(values, arithmetic.ones(values), self._leaves)

        written = self._forward.written
        before = [buffer.clone() for buffer in written]

        def aside(make: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
            try:
                return make(), [buffer.clone() for buffer in written]
            finally:
                for buffer, value in zip(written, before):
                    buffer.copy_(value)

        expected = aside(plainly)
        graph, _ = aside(lambda: Traced(made, self._leaves, written, inputs, masks, losses[0], self.compiled))
        found = aside(lambda: graph(self._leaves, written, inputs, masks))
        if not _same(expected, found, self._near if self.compiled else 0.0):
            raise Differ
        return graph


def _same(one: Any, other: Any, near: float) -> bool:
    """Whether two trees hold the same tensors: to the bit, or as near as this, relative to the largest entry of each."""
    first, second = pytree.tree_leaves(one), pytree.tree_leaves(other)
    if len(first) != len(second):
        return False
    for a, b in zip(first, second):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if a is not b:
                return False
        elif not torch.equal(a, b) and not (near and _distance(a, b) <= near):
            return False
    return True


def _distance(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest entry, of which what is too small is rounding."""
    if one.shape != other.shape or not one.numel():
        return math.inf
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-6))
