"""What gradient transforms share that learn from gradients: seen in a step, kept once the step is made."""

from __future__ import annotations

import torch
from torch import Tensor

from regimes.core.kinds import State

#: Where a transform keeps what a step has shown until the step is made.
PENDING = "cache:pending"


def number_like(p: Tensor) -> Tensor:
    """A zero of no dimension beside a parameter, in single precision at least."""
    return torch.zeros((), dtype=torch.promote_types(p.dtype, torch.float32), device=p.device)


def learned(state: State) -> State:
    """Take what a step has shown into the slots, and count it."""
    for name, shown in state.pop(PENDING, {}).items():
        state["slots"][name] |= shown
        state["slots"][name]["step"] += 1
    return state
