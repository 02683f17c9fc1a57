"""Stable-SPAM: Adam behind two guards of its gradient, with moments that are reset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.grad_transforms.ada_clip import ada_clip
from regimes.grad_transforms.ada_gn import ada_gn
from regimes.optimizers.tensorwise.adam_direction import adam_direction
from regimes.optimizers.tensorwise.rule import Tensorwise


@register
class StableSPAM(Tensorwise):
    r"""AdamW of a gradient that is clipped at its usual maximum and brought to its usual length, tensor by tensor.

    With gradient g_t of one tensor, betas (beta_1, beta_2), weight decay lambda

    .. math::
        c_t &= \theta c_{t-1} + (1 - \theta) \max |g_t|, \quad \hat c = c_t / (1 - \theta^t), \quad
            g_i \leftarrow g_i\, \hat c / \max |g_t| \text{ where } |g_i| > \hat c \\
        n_t &= \lVert g \rVert_2, \quad a_t = \gamma_1 a_{t-1} + (1 - \gamma_1) n_t, \quad
            q_t = \gamma_2 q_{t-1} + (1 - \gamma_2) n_t^2 \\
        g &\leftarrow \frac{g}{n_t} \cdot \frac{a_t / (1 - \gamma_1^t)}{\sqrt{q_t / (1 - \gamma_2^t)} + \epsilon}

    and AdamW on that gradient. Every `reset_interval`-th update begins with Adam's moments at zero, and is the first
    that its bias corrections count; c, a, q and their t go on. Where a tensor's whole gradient is zero, the weights decay, c
    takes the zero in and falls, and t goes on; a, q and both moments stay as they are, and the weights make no other move.

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-3, the authors' code.
    betas : two knobs
        Decay of the two moments. Default (0.9, 0.999), the authors' code.
    gammas : two knobs
        gamma_1 and gamma_2, decay of the length's two moments. Default (0.7, 0.9), the authors' code. Their optional
        cosine to a half is a schedule on ``betas.0`` and ``gammas.0``.
    theta : knob
        Decay of the maximum. Default 0.999, the authors' code.
    eps : knob
        epsilon, in both places. Default 1e-8, the authors' code.
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0.
    reset_interval : int
        Updates from reset to reset. Default 1000, the authors' code.

    References
    ----------
    T. Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam, 2025, arXiv:2502.17055.

    Examples
    --------
    >>> p = torch.zeros(2); rule = StableSPAM(lr=0.1); slot = rule.slots(p)
    >>> for t, g in enumerate(([3.0, 4.0], [3000.0, 4.0]), start=1): rule.update(p, torch.tensor(g), slot, t)
    >>> [round(slot[key].item(), 3) for key in ("largest", "norm_avg", "norm_avg_sq")]
    [3.004, 451.876, 225829.422]
    """

    lr: Knob = knob(1e-3, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.999), low=0, below=1)
    gammas: tuple[Knob, Knob] = knob((0.7, 0.9), low=0, below=1)
    theta: Knob = knob(0.999, low=0, below=1)
    eps: Knob = knob(1e-8, low=0)
    weight_decay: Knob = knob(0.0, low=0)
    reset_interval: int = fixed(1000, low=1)

    card = Card(
        title="Adam with clipping and length from the gradient's own history",
        axes=("rates",),
        source="Huang et al. 2025, arXiv:2502.17055",
        when="Gradients whose lengths jump: low precision, high rates.",
        cost="two slots per parameter and three numbers per tensor; a maximum and a norm per tensor and step",
        shelf="atlas",
        rows=("stable-spam",),
        defaults={
            "lr": "1e-3, authors' code",
            "gammas": "(0.7, 0.9), authors' code",
            "theta": "0.999, authors' code",
            "reset_interval": "1000, authors' code",
        },
        deviations=(
            "Bias corrections of the maximum and the length go on through a reset; in the authors' code they begin anew "
            "with the old averages, which lifts the bound by hundreds.",
            "The update of a reset begins with moments of zero; in the authors' code it still uses the old ones.",
            "A tensor whose gradient is zero is left alone; in the authors' code its averages fall and its moments move it.",
        ),
        claims=(
            Claim(
                "With spikes of a thousand on a hundredth of the steps, in four bits, a rate other than the best costs at most "
                "0.6 of what it costs with AdamW, over five rates.",
                {
                    "seeds": 5,
                    "margin": 0.737,
                    "scale": "char_lm of width 32 in four bits, 40,960 parameters, 300 steps, log2 of nats",
                },
                paper_scale="LLaMA of 130M to 1B parameters in 4 bits",
                measure="regimes.claims.spikes:sensitivity",
            ),
            Claim(
                "Under the same spikes a lower loss than AdamW with its gradient clipped at 1, each at the best of five rates.",
                {
                    "seeds": 5,
                    "margin": 0.02,
                    "scale": "char_lm of width 32 in four bits, 40,960 parameters, 300 steps",
                },
                paper_scale="LLaMA of 130M to 1B parameters in 4 bits",
                measure="regimes.claims.spikes:best_loss",
            ),
        ),
    )

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """First and second moment of the gradient; mean maximum, mean length and mean squared length. All zero."""
        number = torch.zeros((), dtype=torch.promote_types(p.dtype, torch.float32), device=p.device)
        moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        return moments | {name: number.clone() for name in ("largest", "norm_avg", "norm_avg_sq")}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        since = t % self.reset_interval
        if since == 0:
            slot["exp_avg"].zero_()
            slot["exp_avg_sq"].zero_()
        p.mul_(1.0 - self.lr * self.weight_decay)
        g, slot["largest"] = ada_clip(g, slot["largest"], self.theta, t)
        means = slot["norm_avg"], slot["norm_avg_sq"]
        g, (slot["norm_avg"], slot["norm_avg_sq"]), alive = ada_gn(g, means, self.gammas, self.eps, t)
        alive = alive.to(g.dtype)
        age = t if t < self.reset_interval else since + 1
        p.addcmul_(adam_direction(g, slot, self.betas, self.eps, age, alive), alive, value=-self.lr)
