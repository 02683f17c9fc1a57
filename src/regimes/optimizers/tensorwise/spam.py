"""SPAM: Adam that clips spikes, and forgets its moments every so often."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.adam_direction import adam_direction
from regimes.optimizers.tensorwise.rule import Tensorwise
from regimes.optimizers.tensorwise.warmth import warmth


@register
class SPAM(Tensorwise):
    r"""AdamW with entries clipped where they exceed their own second moment, and moments that are reset.

    With gradient g_t, betas (beta_1, beta_2), weight decay lambda and threshold kappa; every `reset_interval`-th update
    begins with m = v = 0, and c updates after it (none before the first)

    .. math::
        g_i &\leftarrow \operatorname{sign}(g_i) \sqrt{\kappa v_i} \quad \text{where } g_i^2 > \kappa v_i > 0 \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow (1 - \text{lr}\,\lambda)\,\theta
            - \text{lr}\, s_c\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}, \qquad
        s_c = 1 - \frac{0.99}{2} \left(1 + \cos \frac{\pi c}{N + 1}\right) \; (c < N), \text{ else } 1

    The number t of the update goes on through resets: once t and beta_1^-c are large, a step is longer than Adam's by
    1 / sqrt(1 - beta_2^(c + 1)).

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-3, the authors' code.
    betas : two knobs
        Decay of the two moments. Default (0.9, 0.999), the authors' code.
    eps : knob
        epsilon. Default 1e-6, the authors' code.
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0.
    threshold : knob
        kappa. Default 5000 (paper).
    reset_interval : int
        Updates from reset to reset. Default 500, the paper's as far as we recall.
    warmup_steps : int
        N, updates after a reset over which the rate rises again. Default 150, the authors' code.
    clip_after : int
        Updates, from the beginning and from each reset, in which nothing is clipped. Default 20, the authors' code.

    References
    ----------
    T. Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training, ICLR 2025, arXiv:2501.06842.

    Examples
    --------
    >>> p = torch.zeros(2); rule = SPAM(lr=0.1, threshold=9000.0, clip_after=0); slot = rule.slots(p)
    >>> for t, g in enumerate(([1.0, 1.0], [1.0, 1000.0]), start=1): rule.update(p, torch.tensor(g), slot, t)
    >>> [round(m, 3) for m in slot["exp_avg"].tolist()]  # of 1000, 3 are left: the root of 9000 v, with v = 0.001
    [0.19, 0.39]
    >>> SPAM(lr=0.1, reset_interval=4, warmup_steps=2)  # for a run of few steps
    SPAM(lr=0.1, reset_interval=4, warmup_steps=2)
    """

    lr: Knob = knob(1e-3, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.999), low=0, below=1)
    eps: Knob = knob(1e-6, low=0)
    weight_decay: Knob = knob(0.0, low=0)
    threshold: Knob = knob(5000.0, above=0)
    reset_interval: int = fixed(500, low=1)
    warmup_steps: int = fixed(150, low=0)
    clip_after: int = fixed(20, low=0)

    elementwise = True
    card = Card(
        title="Adam that clips spikes and resets its moments",
        axes=("rates",),
        source="Huang et al. 2025, arXiv:2501.06842",
        when="Gradients with rare spikes of single entries.",
        cost="two slots per parameter",
        shelf="atlas",
        rows=("stable-spam",),
        defaults={
            "lr": "1e-3, authors' code",
            "eps": "1e-6, authors' code",
            "threshold": "5000, paper",
            "reset_interval": "500, paper as recalled; pytorch_optimizer has it too",
            "warmup_steps": "150, authors' code (pytorch_optimizer: 50)",
            "clip_after": "20, authors' code",
        },
        deviations=(
            "Without sparse momentum, the paper's variant for less memory.",
            "An entry whose second moment is still 0 is not clipped; the authors' code sets it to 0 until the next reset.",
            "Decay comes before the step, as in AdamW; in the authors' code after it.",
            "epsilon is added to the corrected second moment's root, as in AdamW; in the authors' code to the plain one's.",
            "Bias corrections count all updates, as the authors' code does; whether the paper means that is not known to us.",
        ),
    )

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """First and second moment, zero."""
        return {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        since, v = t % self.reset_interval, slot["exp_avg_sq"]
        if since == 0:
            slot["exp_avg"].zero_()
            v.zero_()
        if since >= self.clip_after:
            bound = (v * self.threshold).sqrt_()
            # No comparison with a number, and `where` as a method: so the compiled form can play it.
            g = g.clamp(-bound, bound).where(bound > -bound, g)
        direction = adam_direction(g, slot, self.betas, self.eps, t)
        p.mul_(1.0 - self.lr * self.weight_decay)
        p.add_(direction, alpha=-self.lr * self._warmth(t, since))

    def _warmth(self, t: int, since: int) -> float:
        """s_c."""
        return 1.0 if t < self.reset_interval else warmth(since, self.warmup_steps)
