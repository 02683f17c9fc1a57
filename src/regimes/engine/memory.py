"""How much memory a replica takes, measured on one, and how many fit."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from regimes.core.randomness import kept
from regimes.engine import trees
from regimes.engine.step import begin

#: The share of the free memory that one stack may take: the estimate is rough, and there may be other processes.
SHARE = 0.25


def replica_bytes(run: Any) -> int:
    """Return the bytes that a run adds to a stack: weights, gradients, states, their copy for checkpoints, and what one
    backward keeps.

    The last is measured on the first micro-batch of the next step, which leaves no trace.

    Examples
    --------
    >>> import regimes as rg
    >>> work, base = rg.workloads.load("digits_mlp"), rg.Regime(optimizer=rg.SGD(lr=0.1), budget="9 steps", batch_size=64)
    >>> few, many = (replica_bytes(rg.Run(work, base.but(batch_size=n))) for n in (64, 640))
    >>> few > 3 * 4 * 4810, 2 < many / few < 10
    (True, True)
    """
    own = sum(p.numel() * p.element_size() for p in run.model.parameters())
    trained = sum(p.numel() * p.element_size() for p in run.trained)
    tensors: dict[str, Tensor] = {}
    trees.flatten(run.states, tensors)
    states = sum(t.numel() * t.element_size() for t in tensors.values())
    # Of gradients there are those of autograd, the row, and its sum over micro-batches.
    return 2 * (own + states) + 3 * trained + _activations(run)


def _activations(run: Any) -> int:
    """Bytes that a forward keeps for its backward."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    begun = begin(run)
    number, _, batch = begun.evaluate.batches()[0]
    with kept(), run.buffers.aside(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = run.forward(begun.live, batch, number, True, watched=True)
    del losses
    return sum(seen.values())


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**31  # where the system does not say


def fitting(run: Any) -> int:
    """Return how many replicas of a run one stack may hold; at least one.

    Parameters
    ----------
    run : Run
        Between two steps.
    """
    return max(1, int(SHARE * free_bytes(run.workload.device) / max(replica_bytes(run), 1)))
