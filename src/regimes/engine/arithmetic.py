"""The sums of a step: weighted losses, gradients added in a fixed binary tree, one division, one finite check."""

from __future__ import annotations

from collections.abc import Sequence

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


class Tree:
    """Adds gradients of micro-batches 0, 1, 2 ... in a binary tree fixed by their numbers alone."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, list[Tensor]]] = []

    def add(self, gradients: list[Tensor]) -> None:
        """Add the next micro-batch's gradients; equal levels merge."""
        level = 0
        while self._stack and self._stack[-1][0] == level:
            _, left = self._stack.pop()
            torch._foreach_add_(left, gradients)
            gradients, level = left, level + 1
        self._stack.append((level, gradients))

    def total(self) -> tuple[Tensor, ...]:
        """Return the sum over all."""
        _, right = self._stack.pop()
        while self._stack:
            _, left = self._stack.pop()
            torch._foreach_add_(left, right)
            right = left
        return tuple(right)


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


def owned(gradients: Sequence[Tensor | None], leaves: Sequence[Tensor], seeds: Tensor) -> list[Tensor]:
    """Return gradients that may be changed in place.

    A leaf that is not reached has gradient zero; autograd may hand out one tensor twice, expanded ones, pieces of one,
    or the seeds themselves (of a leaf that is added to the values).
    """
    seen = {seeds.untyped_storage().data_ptr()}
    made: list[Tensor] = []
    for g, leaf in zip(gradients, leaves):
        if g is None:
            g = torch.zeros_like(leaf)
        elif (address := g.untyped_storage().data_ptr()) in seen or not g.is_contiguous():
            g = g.clone(memory_format=torch.contiguous_format)
        else:
            seen.add(address)
        made.append(g)
    return made


_FOUND: dict[tuple[torch.device, float], tuple[Tensor, Tensor]] = {}


def divide_(gradients: tuple[Tensor, ...], mass: float) -> bool:
    """Divide in place by `mass`; return whether everything is finite.

    One pass by the kernel that torch's gradient scaler uses (9 us against 30 for division and norm); a plain
    form stands in for types that the kernel does not take.
    """
    if not gradients:
        return True
    if any(g.dtype is not torch.float32 for g in gradients):
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
