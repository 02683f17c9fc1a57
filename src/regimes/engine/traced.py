"""A stack's losses and gradients as one graph of tensor operations: what vmap and autograd work out anew every step,
worked out once. It runs the same operations and finds the same bits, unless it is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.engine.stacked_batches import Inputs
from regimes.losses.forward import kept, supposing

#: Seconds that it costs to trace a graph: three quarters of it to load what traces, the first time.
COST = 1.3
#: The share of the time of a step that a graph has been seen to save, at least, where it saves anything.
GAIN = 0.15


#: As ``made(leaves, buffers, inputs, masks)``: values of all units, their gradients by leaf, examples of one run's units.
Function = Callable[..., tuple[Tensor, Sequence[Tensor | None], Tensor | None]]


class Traced:
    """The graph of a step.

    Parameters
    ----------
    function : callable
        What it does, in tensor operations.
    leaves, buffers, masks : sequence of Tensor
    inputs : Inputs
        What to trace it on; buffers are written.
    loss : Loss
        The loss that is traced: a graph is of its numbers.
    compiled : bool
        Whether torch compiles it: it then finds the same to rounding.

    Raises
    ------
    Exception
        Whatever torch raises where it cannot be traced.
    """

    def __init__(
        self,
        function: Function,
        leaves: Sequence[Tensor],
        buffers: Sequence[Tensor],
        inputs: Inputs,
        masks: Sequence[Tensor],
        loss: Any,
        compiled: bool = False,
    ) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.graph import CodeGen

        self._loss, self._form = loss, inputs.form()
        self.examples: Tensor | None = None
        counts = [len(leaves), len(buffers), len(inputs.args), len(inputs.kwargs), 1, len(masks)]

        def flat(*tensors: Tensor) -> list[Tensor | None]:
            parts = iter(torch.utils._pytree.tree_unflatten(list(tensors), _nested(counts)))
            own, written, args, named, [targets], drawn = parts
            given = Inputs(args, dict(zip(inputs.kwargs, named)), targets)
            values, gradients, self.examples = function(own, written, given, drawn)
            return [values.detach(), *gradients]

        given = [*leaves, *buffers, *(inputs.tensors() or ()), *masks]
        with supposing() as self._ignored, torch.enable_grad():
            module = make_fx(flat)(*given)
        _drop_idle(module.graph)
        module.graph.set_codegen(CodeGen())  # no trees of arguments: they are flat
        module.recompile()
        self._run = module.forward
        if compiled:
            with torch.no_grad():
                self._run = torch._inductor.compile(module, [tensor.detach() for tensor in given])

    def fits(self, inputs: Inputs, losses: Sequence[Any]) -> bool:
        """Whether what the graph supposes holds of a step."""
        return (
            all(loss is self._loss or loss == self._loss for loss in losses)
            and inputs.tensors() is not None
            and inputs.form() == self._form
            and all(kept(inputs.targets, ignore) is None for ignore in self._ignored)
        )

    def __call__(
        self, leaves: Sequence[Tensor], buffers: Sequence[Tensor], inputs: Inputs, masks: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return values of all units, and the gradients of their sum by leaf."""
        with torch.no_grad():
            values, *gradients = self._run(*leaves, *buffers, *(inputs.tensors() or ()), *masks)
        return values, gradients


#: Operations that hand on what they get, where shape, strides and type stay as they are.
_IDLE = frozenset(("view", "_unsafe_view", "expand", "detach", "alias", "reshape"))


def _drop_idle(graph: Any) -> None:
    """Drop what changes nothing, and what nobody reads: vmap views, expands and multiplies by 1 where most models have no
    need of it. Where something is written in place, a copy may be there to be kept, and all stays.
    """
    if any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in graph.nodes):
        return
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args or not hasattr(node.args[0], "meta"):
            continue
        given, made = node.args[0].meta.get("val"), node.meta.get("val")
        name = str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.")
        idle = name in _IDLE or (name == "mul" and node.args[1:] == (1,))
        if idle and given is not None and _alike(given, made):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


def _nested(counts: Sequence[int]) -> Any:
    """The form of lists of so many tensors."""
    return torch.utils._pytree.tree_structure([[0] * count for count in counts])


class Worth:
    """Decides by the clock whether a graph is worth its while; the bits are the same either way.

    Parameters
    ----------
    cost : float
        Seconds that it takes to trace.
    declared : bool
        Whether it is wanted in any case.
    """

    def __init__(self, cost: float = COST, declared: bool = False) -> None:
        self._cost = cost
        self._times: dict[bool, list[float]] = {False: [], True: []}
        self._decided = declared
        #: Whether steps are to be made by a graph.
        self.wanted = declared

    def note(self, seconds: float, left: float) -> None:
        """Take in what a step took of late, and how many there are left."""
        if self._decided:
            return
        times = self._times[self.wanted]
        times.append(seconds)
        if len(times) < _SEEN:
            return
        if self.wanted:
            self.wanted, self._decided = min(times) < min(self._times[False]), True
        else:
            self.wanted = min(times) * left * GAIN > self._cost
            self._decided = not self.wanted


#: How often it looks before it decides: the first steps load and warm up.
_SEEN = 4
