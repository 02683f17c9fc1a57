"""AdamW without a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.rule import counter, fusable
from regimes.optimizers.tensorwise.schedule_free import ScheduleFree


@register
class ScheduleFreeAdamW(ScheduleFree):
    r"""AdamW whose average replaces the schedule: no budget need be known beforehand.

    With betas (beta_1, beta_2) and weight decay lambda, at y_t = (1 - beta_1) z_t + beta_1 x_t

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        z_{t+1} &= z_t - \text{lr}_t \left( \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda y_t \right) \\
        x_{t+1} &= (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}, \qquad
        c_{t+1} = \text{lr}_t^2 / \sum_{i \le t} \text{lr}_i^2

    The parameters hold y; validation, averagers and the final model see x.

    Parameters
    ----------
    lr : knob
        Learning rate: constant, with a warm-up. Default 0.0025, the authors' code.
    betas : two knobs
        beta_1, the interpolation, in (0, 1]; beta_2, the decay of the second moment. Default (0.9, 0.999) (paper).
    eps : knob
        epsilon. Default 1e-8.
    weight_decay : knob
        lambda, taken at y and multiplied by the learning rate. Default 0 (paper).

    Raises
    ------
    DeclarationError
        If beta_1 is 0: x could not be recovered.

    References
    ----------
    A. Defazio et al., The Road Less Scheduled, NeurIPS 2024, arXiv:2405.15682, algorithm 1.

    Examples
    --------
    >>> p = torch.tensor([1.0]); rule = ScheduleFreeAdamW(lr=0.1); slot = rule.slots(p)
    >>> for t in (1, 2): rule.update(p, torch.tensor([3.0]), slot, t)
    >>> x = rule.evaluation_weights({"slots": {"w": slot}}, {"w": p})["w"]
    >>> [round(v.item(), 4) for v in (slot["z"], x, p)]
    [0.8, 0.85, 0.845]
    """

    lr: Knob = knob(0.0025, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.999), above=0, high=1)
    eps: Knob = knob(1e-8, low=0)
    weight_decay: Knob = knob(0.0, low=0)

    elementwise = True
    card = Card(
        title="AdamW with averaging instead of a schedule",
        axes=("rates", "phases"),
        source="Defazio et al. 2024, arXiv:2405.15682",
        when="The budget is open, or good weights are wanted at any time.",
        cost="two slots per parameter; averaged weights are made anew for each validation",
        defaults={"lr": "0.0025, authors' code", "betas": "(0.9, 0.999), paper"},
        deviations=(
            "The weights of the average follow the rate itself, as in algorithm 1; the authors' code follows its "
            "maximum so far, which differs only where the rate falls.",
            "BatchNorm's statistics belong to y, not to x.",
        ),
    )

    def validate(self) -> None:
        """Refuse betas at which x or the bias correction is not defined."""
        if self.betas[0] == 0.0:
            raise DeclarationError(
                "got 0.0; allowed: a number > 0 and <= 1 (the average is recovered through it)", "betas.0"
            )
        if self.betas[1] == 1.0:
            raise DeclarationError("got 1.0; allowed: a number >= 0 and < 1", "betas.1")

    def interpolation(self) -> float:
        """beta_1."""
        return self.betas[0]

    def slots(self, p: Tensor) -> dict[str, Any]:
        """z and what belongs to it, and the second moment."""
        return {**super().slots(p), "exp_avg_sq": torch.zeros_like(p)}

    def direction(self, y: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> Tensor:
        """The preconditioned gradient and the decay at y."""
        beta2, v = self.betas[1], slot["exp_avg_sq"]
        v.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        denominator = (v / (1.0 - beta2**t)).sqrt_().add_(self.eps)
        step = torch.div(g, denominator, out=denominator)
        return step.add_(y, alpha=self.weight_decay) if self.weight_decay != 0.0 else step

    def update_all(
        self, tensors: Sequence[Tensor], gradients: Sequence[Tensor], slots: Sequence[dict[str, Any]], t: int
    ) -> None:
        r"""torch's fused kernel makes the step of z: with a first decay of 0 its first moment is the gradient.

        The gradient stands for that moment, and is written back as it is. Decay at y is decay of z by
        (1 - beta_1) lambda and of x by beta_1 lambda.
        """
        if not fusable(tensors, gradients):
            return super().update_all(tensors, gradients, slots, t)
        step = counter(tensors[0].device).fill_(t)
        for y, g, slot in zip(tensors, gradients, slots):
            c, beta, was, z = self.weigh(slot), self.interpolation(), slot["interpolation"], slot["z"]
            x = y.lerp_(z, 1.0 - 1.0 / was)
            decay = self.weight_decay * (1.0 - was)
            torch._fused_adamw_(
                [z], [g], [g], [slot["exp_avg_sq"]], [], [step], lr=self.lr, beta1=0.0, beta2=self.betas[1],
                weight_decay=decay, eps=self.eps, amsgrad=False, maximize=False,
            )  # fmt: skip
            if self.weight_decay != 0.0:
                z.add_(x, alpha=-self.lr * self.weight_decay * was)
            x.lerp_(z, 1.0 - beta * (1.0 - c))
            slot["interpolation"] = beta
        return None
