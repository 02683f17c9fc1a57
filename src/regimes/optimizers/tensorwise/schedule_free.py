"""What the schedule-free rules share: three sequences, of which one is stored in the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.kinds import Knob, State
from regimes.optimizers.tensorwise.rule import Tensorwise


class ScheduleFree(Tensorwise):
    r"""Interpolated averaging instead of a schedule, around a step d_t that a subclass gives.

    .. math::
        y_t &= (1 - \beta) z_t + \beta x_t \\
        z_{t+1} &= z_t - \gamma_t d_t(y_t) \\
        x_{t+1} &= (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}, \qquad c_{t+1} = \gamma_t^2 / \sum_{i \le t} \gamma_i^2

    Gradients are taken at y, which the parameters hold; z is a slot; x is what is evaluated, and is recovered as
    z + (y - z) / beta with the beta that y was made with, which may therefore vary, but not be 0.
    """

    lr: Knob

    weight_slots = ("z",)

    def interpolation(self) -> float:
        """Return beta."""
        raise NotImplementedError(f"{type(self).__name__} gives no interpolation")

    def direction(self, y: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> Tensor:
        """Return the step d_t at y; the gradient itself may be returned, and is not written to."""
        raise NotImplementedError(f"{type(self).__name__} gives no direction")

    def slots(self, p: Tensor) -> dict[str, Any]:
        """z, the sum of squared rates, and the beta that y was made with."""
        return {"z": p.detach().clone(), "weight_sum": 0.0, "interpolation": 1.0}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        step, z = self.direction(p, g, slot, t), slot["z"]
        c, beta = self.weigh(slot), self.interpolation()
        p.lerp_(z, 1.0 - 1.0 / slot["interpolation"])  # x_t
        z.sub_(step, alpha=self.lr)
        p.lerp_(z, 1.0 - beta * (1.0 - c))  # y_{t+1}: z_{t+1} is in x_{t+1} too
        slot["interpolation"] = beta

    def weigh(self, slot: dict[str, Any]) -> float:
        """Count the present rate into the average and return c_{t+1}, its share."""
        slot["weight_sum"] += self.lr**2
        # A warm-up begins at a rate of 0, where nothing moves.
        return self.lr**2 / slot["weight_sum"] if slot["weight_sum"] > 0.0 else 0.0

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """x, by name."""
        return {name: averaged(p.detach(), state["slots"][name]) for name, p in parameters.items()}


def averaged(y: Tensor, slot: dict[str, Any]) -> Tensor:
    """Return x as a new tensor of the type of y."""
    z = slot["z"]
    return torch.lerp(z, y.to(z.dtype), 1.0 / slot["interpolation"]).to(y.dtype)
