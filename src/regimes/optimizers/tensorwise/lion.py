"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.rule import Tensorwise


@register
class Lion(Tensorwise):
    r"""Sign descent on an interpolation of momentum and gradient.

    With betas (beta_1, beta_2) and weight decay lambda

    .. math::
        c_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        \theta_t &= \theta_{t-1} - \text{lr}\,(\operatorname{sign}(c_t) + \lambda \theta_{t-1}) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-4, the paper's; three to ten times smaller than AdamW's.
    betas : two knobs
        Default (0.9, 0.99), the paper's.
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0.

    References
    ----------
    X. Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv:2302.06675, algorithm 2.

    Examples
    --------
    >>> p = torch.tensor([1.0, 1.0]); rule = Lion(lr=0.1); slot = rule.slots(p)
    >>> rule.update(p, torch.tensor([5.0, -0.01]), slot, 1)
    >>> [round(v, 6) for v in p.tolist()]
    [0.9, 1.1]
    """

    lr: Knob = knob(1e-4, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.99), low=0, high=1)
    weight_decay: Knob = knob(0.0, low=0)

    elementwise = True
    card = Card(
        title="The sign of an interpolated momentum",
        axes=("rates",),
        source="Chen et al. 2023, arXiv:2302.06675",
        when="Memory for one slot only; large batches.",
        cost="one slot per parameter",
        defaults={"lr": "1e-4", "betas": "(0.9, 0.99), algorithm 2"},
    )

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """The momentum, zero."""
        return {"exp_avg": torch.zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        beta1, beta2 = self.betas
        m = slot["exp_avg"]
        direction = torch.lerp(m, g, 1.0 - beta1).sign_()
        if self.weight_decay != 0.0:
            p.mul_(1.0 - self.lr * self.weight_decay)
        p.add_(direction, alpha=-self.lr)
        m.lerp_(g, 1.0 - beta2)
