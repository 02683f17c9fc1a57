"""Gradients of single examples, from the very forward that a step makes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

#: Examples whose gradients are made in one batched backward.
_CHUNK = 64


def example_gradients(evaluate: Any) -> dict[str, Tensor]:
    """Return the gradient of every example of the step's plan, by parameter name, shape ``(n, *shape)``.

    Their mean over the n examples is the gradient of the step before its transforms: that of example i is n times what
    its weighted unit losses add to it. The forward is the step's own, with the same random numbers; where examples
    interact in it (batch norm), an example's gradient is that of its own losses through all of them.

    Parameters
    ----------
    evaluate : Evaluator
        Of the step, at the present weights.
    """
    run = evaluate.run
    parts = run.world.joined(own_gradients(evaluate))
    scale = len(evaluate.plan) / math.fsum(mass for _, mass in parts)
    rows = [rows for found, _ in parts for rows in found]
    return {name: torch.cat(parts) * scale for name, parts in zip(run.parameters, zip(*rows))}


def own_gradients(evaluate: Any) -> list[tuple[list[list[Tensor]], float]]:
    """Gradients of the examples of this process's micro-batches, by chunk and parameter; and their weights' sums."""
    run, parts = evaluate.run, []
    for number, losses, weights, own in _forwards(evaluate):
        n = evaluate.sizes[number]
        units = torch.arange(len(losses.values), device=losses.values.device)
        rows = losses.values.new_zeros(n, len(units))
        rows[units if losses.examples is None else losses.examples, units] = 1.0
        rows = rows if weights is None else rows * weights
        found = [_batched(losses.values, part, run.trained) for part in rows.split(_CHUNK)]
        parts.append((found, float(len(units)) if own is None else own.sum().item()))
    return parts


def _forwards(evaluate: Any) -> Iterator[Any]:
    run = evaluate.run
    for number, start, batch in evaluate.batches():
        # Buffers go back only after the backward, which may read what the forward wrote.
        with run.buffers.aside(), _batchable():
            losses = run.forward(evaluate.live, batch, number, True, watched=True)
            yield number, losses, *evaluate.weights(number, losses, start)


def _batchable() -> contextlib.AbstractContextManager[Any]:
    """Fused attention has no batched backward; torch's plain form has."""
    return sdpa_kernel(SDPBackend.MATH)


def _batched(values: Tensor, rows: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(values, leaves, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
    # torch's own zeros for what the loss does not reach have no axis of examples.
    return [leaf.new_zeros(len(rows), *leaf.shape) if g is None else g for g, leaf in zip(found, leaves)]
