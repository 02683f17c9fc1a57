"""SGD-SaI: momentum with one factor per tensor, fixed by its first gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.gradient_snr import gradient_snr
from regimes.optimizers.tensorwise.rule import Tensorwise


@register
class SGDSaI(Tensorwise):
    r"""Momentum and decoupled decay, with a rate per tensor that the first gradient fixes for good.

    With momentum mu, weight decay lambda and, for each tensor, the signal-to-noise ratio r of its first gradient that
    is not zero (`regimes.optimizers.tensorwise.gradient_snr`)

    .. math::
        r &= \frac{\lVert g \rVert_2}{\operatorname{std}(g) + \epsilon}, \qquad f = \frac{r}{\max_p r_p} \\
        b_1 &= g_1, \quad b_t = \mu b_{t-1} + (1 - \mu) g_t \\
        \theta_t &= (1 - \text{lr}\,\lambda)\,\theta_{t-1} - \text{lr}\, f\, b_t

    with the largest ratio over all tensors of the rule so far: one that joins later is divided by the largest known
    then, and moves no other's factor.

    Parameters
    ----------
    lr : knob
        Learning rate, of the tensor with the largest ratio. Default 0.01, the authors' code.
    momentum : knob
        mu. Default 0.9, the authors' code.
    eps : float
        epsilon. Default 1e-8, the authors' code.
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0.01, the authors' code.
    normalize : "max" or "none"
        Divide ratios by the largest, or not: "none" wants rates smaller by that (the root of the number of entries of
        the largest tensor, about), and gives tensors in different Groups one scale. Default "max", the authors' code
        since version 1.0.4.

    References
    ----------
    M. Xu, L. Xiang, X. Cai and H. Wen, No More Adam: Learning Rate Scaling at Initialization is All You Need, 2024,
    arXiv:2412.11768.

    Examples
    --------
    >>> tensors = torch.zeros(2), torch.zeros(3); rule = SGDSaI(lr=0.1); slots = [rule.fresh(p) for p in tensors]
    >>> rule.advance(tensors, (torch.tensor([3.0, -4.0]), torch.tensor([1.0, 2.0, 2.0])), slots)
    >>> [round(slot["factor"], 4) for slot in slots], [round(v, 4) for v in tensors[1].tolist()]
    ([0.1944, 1.0], [-0.1, -0.2, -0.2])
    """

    lr: Knob = knob(0.01, low=0)
    momentum: Knob = knob(0.9, low=0, below=1)
    eps: float = fixed(1e-8, low=0)
    weight_decay: Knob = knob(0.01, low=0)
    normalize: Literal["max", "none"] = fixed("max")

    card = Card(
        title="Momentum with a factor per tensor from the first gradient",
        axes=("rates",),
        source="Xu et al. 2024, arXiv:2412.11768",
        when="Transformers with half of Adam's memory.",
        cost="one slot per parameter; one look at the first gradient",
        shelf="atlas",
        rows=("sgd-sai",),
        defaults={
            "lr": "0.01, authors' code",
            "momentum": "0.9, authors' code",
            "eps": "1e-8, authors' code",
            "weight_decay": "0.01, authors' code",
            "normalize": "max, authors' code since 1.0.4",
        },
        deviations=(
            "A gradient without spread (one entry, or equal ones) counts as the root of its number of entries; in the "
            "authors' code a scalar has 1e8 times its gradient, and starves all others.",
            "A tensor whose gradient is zero gets its factor when it first is not; in the authors' code it stays at 0, and "
            "one without a gradient at the first step has none later.",
            "The largest ratio is that of the rule: inside Groups of each group, in regimes.optim of each parameter group.",
        ),
        claims=(
            Claim(
                "Half of the way from momentum's loss to AdamW's, each at the best of six rates.",
                {"seeds": 5, "margin": 0.05, "scale": "char_lm of width 32, 40,960 parameters, 400 steps"},
                paper_scale="GPT-2 and ViT, where it matches or beats AdamW",
                measure="regimes.claims.scaled_at_start:half_the_gap",
            ),
            Claim(
                "The order of the tensors' ratios is that of any first batch: rank correlations of three of at least 0.95.",
                {"seeds": 8, "margin": 0.0001, "scale": "char_lm of width 32, 6 layers, batches of 16"},
                paper_scale="GPT-2 and ViT",
                measure="regimes.claims.scaled_at_start:first_batches",
            ),
        ),
    )

    def slots(self, p: Tensor) -> dict[str, Any]:
        """The momentum buffer; the factor, 0 until it is fixed, and the largest ratio that was known then."""
        return {"momentum_buffer": torch.zeros_like(p), "factor": 0.0, "largest": 0.0}

    def advance(
        self,
        tensors: Sequence[Tensor],
        gradients: Sequence[Tensor],
        slots: Sequence[dict[str, Any]],
        compiled: bool = False,
    ) -> None:
        """Fix the factors of those that have none yet, then update every tensor."""
        new = [place for place, slot in enumerate(slots) if slot["factor"] == 0.0]
        if new:
            self._fix([gradients[place] for place in new], [slots[place] for place in new], slots)
        super().advance(tensors, gradients, slots, compiled)

    def _fix(self, gradients: Sequence[Tensor], new: Sequence[dict[str, Any]], slots: Sequence[dict[str, Any]]) -> None:
        found = [gradient_snr(g, self.eps) for g in gradients]
        ratios: list[float] = torch.stack([ratio.to(found[0]) for ratio in found]).tolist()
        largest = max(*ratios, *(slot["largest"] for slot in slots)) if self.normalize == "max" else 1.0
        for ratio, slot in zip(ratios, new):
            if ratio > 0.0:
                slot |= {"factor": ratio / largest, "largest": largest}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above, with the factor that `advance` has fixed."""
        b = slot["momentum_buffer"]
        if t == 1:
            b.copy_(g)
        else:
            b.lerp_(g, 1.0 - self.momentum)
        if self.weight_decay != 0.0:
            p.mul_(1.0 - self.lr * self.weight_decay)
        p.add_(b, alpha=-self.lr * slot["factor"])
