"""Parts of an evaluation: what each micro-batch gave, and the units of all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from regimes.core.errors import NonFinite
from regimes.core.unit_losses import UnitLosses, Units
from regimes.engine.plan import Plan

#: Units of a micro-batch, and the place of its first example in the plan.
Placed = tuple[UnitLosses, int]


class Part(NamedTuple):
    """What the evaluation of one micro-batch found; of all of them, every process knows.

    Parameters
    ----------
    number : int
    value, mass : float
        Sums of the weighted unit losses, and of the weights.
    tokens : int
        Units of non-zero weight.
    flops : float
    norm : float or None
        Of its gradient.
    kept : (UnitLosses, int) or None
        Its units, where they are wanted, and the place of its first example in the plan.
    bad : NonFinite or None
        Why the step cannot be made.
    """

    number: int
    value: float
    mass: float
    tokens: int
    flops: float = 0.0
    norm: float | None = None
    kept: Placed | None = None
    bad: NonFinite | None = None


def units_of(plan: Plan, kept: Sequence[Placed]) -> Units:
    """Return the units of all micro-batches of a plan, without graph."""
    values = torch.cat([losses.values.detach().reshape(-1) for losses, _ in kept])
    weights = None
    if any(losses.weights is not None for losses, _ in kept):
        weights = torch.cat([torch.ones_like(u.values) if u.weights is None else u.weights for u, _ in kept]).detach()
    sources = None if plan.sources is None else torch.from_numpy(plan.sources)
    examples = torch.cat([start + _examples(losses) for losses, start in kept])
    return Units(values, weights, examples, torch.from_numpy(plan.indices), sources)


def culprits(plan: Plan, losses: UnitLosses, start: int) -> tuple[int, ...]:
    """Return the examples of a micro-batch whose loss is not finite, at most those of its first 64 such units."""
    bad = torch.nonzero(~torch.isfinite(losses.values.detach())).view(-1)
    places = _examples(losses)[bad[:64]]
    return tuple(dict.fromkeys(int(plan.indices[start + int(place)]) for place in places))


def _examples(losses: UnitLosses) -> Tensor:
    """The example of each unit, counted in the micro-batch."""
    if losses.examples is not None:
        return losses.examples
    return torch.arange(len(losses.values), device=losses.values.device)
