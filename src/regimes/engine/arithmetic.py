"""The sums of a step: weighted losses, gradients added in a fixed binary tree, one division, one finite check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable

_ONES: dict[tuple[torch.dtype, torch.device, int], Tensor] = {}


def ones(values: Tensor) -> Tensor:
    """Return cached ones of the shape of `values`."""
    key = (values.dtype, values.device, values.shape[0])
    found = _ONES.get(key)
    if found is None:
        if len(_ONES) > 256:
            _ONES.clear()
        found = _ONES[key] = torch.ones_like(values)
    return found


def weighted_sum(values: Tensor, weights: Tensor | None, own: Tensor | None) -> tuple[float, float]:
    """Return (sum of weighted values, sum of the weights that normalize)."""
    flat = values.detach()
    # A unit of weight 0 (padding) may hold anything; it counts as nothing rather than as 0 * inf.
    total = flat.sum() if weights is None else torch.where(weights != 0, flat * weights, 0.0).sum()
    return total.item(), float(flat.shape[0]) if own is None else own.sum().item()


#: (level, place, gradients): the sum of the micro-batches [place * 2^level, (place + 1) * 2^level).
Node = tuple[int, int, Any]


def _add(left: list[Tensor], right: list[Tensor]) -> None:
    torch._foreach_add_(left, right)


class Tree:
    """Adds gradients of micro-batches in a binary tree fixed by their numbers alone.

    Parameters
    ----------
    first : int
        Number of the first micro-batch that is added.
    add : callable
        Adds the second sum to the first, in place.
    """

    def __init__(self, first: int = 0, add: Callable[[Any, Any], None] = _add) -> None:
        self.nodes: list[Node] = []
        self._next, self._add = first, add

    def add(self, gradients: Any) -> None:
        """Add the next micro-batch's gradients."""
        self.push(0, self._next, gradients)
        self._next += 1

    def push(self, level: int, place: int, gradients: Any) -> None:
        """Put in the next node, in order; what lies side by side under one node merges into it."""
        nodes = self.nodes
        while place % 2 and nodes and nodes[-1][:2] == (level, place - 1):
            left = nodes.pop()[2]
            self._add(left, gradients)
            gradients, level, place = left, level + 1, place // 2
        nodes.append((level, place, gradients))

    def total(self) -> Any:
        """Return the sum over all: what is left over at the end is added from the right."""
        right = self.nodes.pop()[2]
        while self.nodes:
            left = self.nodes.pop()[2]
            self._add(left, right)
            right = left
        return right


def gradient(values: Tensor, seeds: Tensor, leaves: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """Return the gradient of sum(seeds * values), None where a leaf is not reached.

    torch.autograd.grad spends 40 us of Python on checks that hold here by construction; the engine it calls is
    private, so its public form stands in where the signature should ever change.
    """
    try:
        return Variable._execution_engine.run_backward(
            (values,), (seeds,), False, False, leaves, True, accumulate_grad=False
        )
    except TypeError:
        return torch.autograd.grad(values, leaves, grad_outputs=seeds, allow_unused=True)


class Leaves:
    """What gradients are made for: the trained parameters.

    Parameters
    ----------
    tensors : sequence of Tensor
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self._bytes: list[int] = []

    def owned(self, gradients: Sequence[Tensor | None], seeds: Tensor) -> list[Tensor]:
        """Return gradients that may be changed in place.

        A leaf that is not reached has gradient zero; autograd may hand out one tensor twice, expanded ones, overlapping
        ones, or the seeds themselves (of a leaf that is added to the values).
        """
        made = [
            torch.zeros_like(leaf)
            if g is None
            else g
            if g.is_contiguous()
            else g.clone(memory_format=torch.contiguous_format)
            for g, leaf in zip(gradients, self.tensors)
        ]
        # Addresses in memory tell: to ask for storages costs four times as much.
        self._bytes = self._bytes or [g.numel() * g.element_size() for g in made]
        spans = [
            *zip([g.data_ptr() for g in made], self._bytes),
            (seeds.data_ptr(), seeds.numel() * seeds.element_size()),
        ]
        spans.sort()
        end = 0
        for start, length in spans:
            if start < end and length:
                return [g.clone() for g in made]
            end = start + length
        return made


_FOUND: dict[tuple[torch.device, float], tuple[Tensor, Tensor]] = {}


def divide_(gradients: tuple[Tensor, ...], mass: float) -> bool:
    """Divide in place by `mass`; return whether everything is finite.

    One pass by the kernel that torch's gradient scaler uses (9 us against 30 for division and norm); a plain
    form stands in for types that the kernel does not take.
    """
    if not gradients:
        return True
    if {g.dtype for g in gradients} != {torch.float32}:
        return _divide_plainly(gradients, mass)
    try:
        found, scale = _scalars(gradients[0].device, mass)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, scale)
        finite = found.item() == 0.0
        if not finite:  # the next step wants to find it clean
            found.zero_()
        return finite
    except (AttributeError, RuntimeError):
        return _divide_plainly(gradients, mass)


def _divide_plainly(gradients: tuple[Tensor, ...], mass: float) -> bool:
    torch._foreach_div_(list(gradients), mass)
    return all(bool(torch.isfinite(g).all()) for g in gradients)


def _scalars(device: torch.device, mass: float) -> tuple[Tensor, Tensor]:
    key = (device, mass)
    made = _FOUND.get(key)
    if made is None:
        if len(_FOUND) > 256:
            _FOUND.clear()
        made = _FOUND[key] = (
            torch.zeros((), device=device),
            torch.tensor(1.0 / mass, dtype=torch.float32, device=device),
        )
    return made


def norm(gradients: tuple[Tensor, ...] | list[Tensor]) -> float:
    """Return the norm of all gradients together."""
    return torch.stack(torch._foreach_norm(list(gradients))).norm().item()
