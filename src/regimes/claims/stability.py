"""Two-layer ReLU networks that interpolate 60 values of a teacher: how curved is where SGD ends?"""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import philox

_EXAMPLES, _INPUTS, _WIDTH, _TARGET, _EPOCHS = 60, 20, 50, 1e-6, 400
#: The last ones diverge.
_RATES = (0.02, 0.04, 0.08, 0.16, 0.32)


def within_the_bound(seed: int) -> tuple[float, float]:
    """Minus lr tr(H) / 2 where SGD ends at the largest rate that interpolates; and -1.

    Parameters
    ----------
    seed : int
        Of the teacher, of initial weights and of the order.
    """
    found = [margin for rate in _RATES if (margin := _margin(rate, seed)) is not None]
    return -found[-1], -1.0


def trace_falls(seed: int) -> tuple[float, float]:
    """log2 of the trace at the smallest rate, and at the largest one that interpolates.

    Parameters
    ----------
    seed : int
        As of `within_the_bound`.
    """
    found = [(rate, margin) for rate in _RATES if (margin := _margin(rate, seed)) is not None]
    (slow, small), (fast, large) = found[0], found[-1]
    return math.log2(small / slow), math.log2(large / fast)


@functools.cache
def _margin(rate: float, seed: int) -> float | None:
    """Lr tr(H) / 2 where SGD with batches of one ends; None where it does not interpolate."""
    draw = philox(seed, "teacher")
    x = torch.from_numpy(draw.normal(size=(_EXAMPLES, _INPUTS)))
    y = torch.relu(x @ torch.from_numpy(draw.normal(size=(_INPUTS, 3)))).mean(1, keepdim=True) / _INPUTS**0.5
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(_INPUTS, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(_EPOCHS):
        for i in draw.permutation(_EXAMPLES):
            optimizer.zero_grad()
            _half(model, (x[i : i + 1], y[i : i + 1])).backward()
            optimizer.step()
        with torch.no_grad():
            loss = _half(model, (x, y)).item()
        if loss < _TARGET:
            return rg.StabilityMargins(lr=rate)(model, _half, (x, y))["trace"]
        if not math.isfinite(loss):
            return None
    return None


def _half(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean() / 2
