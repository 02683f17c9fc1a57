"""What every detector of spikes offers: how far a value lies above the level of those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from regimes.core.component import Component, fixed, knob
from regimes.core.kinds import Knob, State

#: Added to every scale, as ZClip's authors do.
EPS = 1e-6


class Level(NamedTuple):
    """Where values lie, and how far they usually are from there."""

    center: float
    scale: float


class Detector(Component):
    r"""Says of each value of a series, a loss or a gradient's norm, whether it is a spike.

    With center mu and scale sigma of the values before it, which a subclass gives

    .. math:: z = \frac{x - \mu}{\sigma + 10^{-6}}, \qquad \text{a spike where } z > k

    What falls is none. Memory is a value, so that guards and probes keep it as they keep their own.

    Parameters
    ----------
    threshold : knob
        k.
    warmup : int
        Values at the beginning of which nothing is said.
    """

    kind = "detector"

    threshold: Knob = knob(above=0)
    warmup: int = fixed(low=1)

    def init(self) -> State:
        """Return the memory before the first value."""
        raise NotImplementedError(f"{type(self).__name__} remembers nothing")

    def level(self, state: State) -> Level | None:
        """Return center and scale of the values so far; None while they are too few."""
        raise NotImplementedError(f"{type(self).__name__} knows no level")

    def learn(self, state: State, value: float) -> State:
        """Return the memory after one more value."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    def height(self, state: State, value: float) -> float:
        """z of a value; 0 during the warm-up."""
        level = self.level(state)
        return 0.0 if level is None else (value - level.center) / (level.scale + EPS)

    def spikes(self, state: State, value: float) -> bool:
        """Whether a value is a spike."""
        return self.height(state, value) > self.threshold

    def tamed(self, state: State, value: float) -> float:
        r"""Return mu + k^2 sigma / z in place of a spike: the higher it is, the nearer to the center; else the value."""
        z, level = self.height(state, value), self.level(state)
        if level is None or z <= self.threshold:
            return value
        return level.center + self.threshold**2 / z * level.scale

    def said(self, state: State, what: str, value: float) -> str:
        """Why a step with this value is left out, as its record has it."""
        level, z = self.level(state), self.height(state, value)
        assert level is not None
        return f"spike: {what} {value:.4g} is {z:.1f} times {level.scale:.3g} above {level.center:.4g}"


def length(gradients: Sequence[Tensor]) -> float:
    """Norm of a gradient, over all parameters together.

    Examples
    --------
    >>> length([torch.tensor([3.0]), torch.tensor([[4.0]])])
    5.0
    """
    norms = torch._foreach_norm(tuple(gradients))
    return math.hypot(*torch.stack([norm.to(norms[0].device) for norm in norms]).tolist())
