"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.rule import Tensorwise, counter, fusable


@register
class AdamW(Tensorwise):
    r"""Adam with decoupled weight decay.

    With gradient g_t, betas (beta_1, beta_2) and weight decay lambda

    .. math::
        \theta &\leftarrow \theta - \text{lr}\,\lambda\,\theta \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta &\leftarrow \theta - \text{lr}\; \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-3 (paper and torch).
    betas : two knobs
        Decay of the two moments. Default (0.9, 0.999) (paper and torch); 0.95 for the second is usual for language.
    eps : knob
        epsilon. Default 1e-8.
    weight_decay : knob
        lambda, multiplied by the learning rate as in torch. Default 0.01, torch's. Decay by the schedule alone, independent of
        the rate's peak (Wortsman et al. 2024, arXiv:2309.14322), is lambda divided by the peak.

    References
    ----------
    D. Kingma and J. Ba, Adam, ICLR 2015, arXiv:1412.6980; I. Loshchilov and F. Hutter, Decoupled Weight Decay
    Regularization, ICLR 2019, arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> p = torch.tensor([1.0]); rule = AdamW(lr=0.1, weight_decay=0.0); slot = rule.slots(p)
    >>> rule.update(p, torch.tensor([3.0]), slot, 1)
    >>> round(p.item(), 6)
    0.9
    """

    lr: Knob = knob(1e-3, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.999), low=0, below=1)
    eps: Knob = knob(1e-8, low=0)
    weight_decay: Knob = knob(0.01, low=0)

    elementwise = True
    one_pass = True
    card = Card(
        title="Adam with decoupled weight decay",
        axes=("rates",),
        source="Loshchilov and Hutter 2019, arXiv:1711.05101; Kingma and Ba 2015, arXiv:1412.6980",
        when="The default for transformers.",
        cost="two slots per parameter",
        defaults={"betas": "(0.9, 0.999), Kingma and Ba", "weight_decay": "0.01, torch"},
        deviations=("Decay is multiplied by the rate, as in torch; in the paper by its schedule only.",),
    )

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """First and second moment, zero."""
        return {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        beta1, beta2 = self.betas
        p.mul_(1.0 - self.lr * self.weight_decay)
        m, v = slot["exp_avg"], slot["exp_avg_sq"]
        m.lerp_(g, 1.0 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        denominator = (v / (1.0 - beta2**t)).sqrt_().add_(self.eps)
        p.addcdiv_(m, denominator, value=-self.lr / (1.0 - beta1**t))

    def update_all(
        self, tensors: Sequence[Tensor], gradients: Sequence[Tensor], slots: Sequence[dict[str, Any]], t: int
    ) -> None:
        """torch's fused kernel: the same formula in one pass over memory (50 us against 99 for the instance)."""
        if not fusable(tensors, gradients):
            return super().update_all(tensors, gradients, slots, t)
        step = counter(tensors[0].device).fill_(t)
        torch._fused_adamw_(
            list(tensors),
            list(gradients),
            [slot["exp_avg"] for slot in slots],
            [slot["exp_avg_sq"] for slot in slots],
            [],
            [step] * len(tensors),
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )
        return None
