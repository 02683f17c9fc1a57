"""Sophia: momentum over a clipped estimate of the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.second_order.diagonals import DiagonalCurvature

_STUDY = {
    "workload": {"name": "char_lm", "width": 32, "layers": 1, "length": 32},
    "compare": {"baseline": "adamw", "metric": "val/loss", "better": "lower", "margin": 0.02, "seeds": 6, "trials": 5},
    "tune": {"*.lr.peak": "times(1/4, 4)"},
    "arms": {
        "adamw": {
            "optimizer": "AdamW(lr=Cosine(0.004, final=0.0004, warmup='5%'), betas=(0.9, 0.95), weight_decay=0.1)",
            "batch_size": 16,
            "budget": "600 steps",
        },
        "sophia": {
            "like": "adamw",
            "optimizer": "Sophia(lr=Cosine(0.004, final=0.0004, warmup='5%'), weight_decay=0.2)",
        },
    },
}


@register
class Sophia(DiagonalCurvature):
    r"""Momentum divided by an estimate h of the Hessian's diagonal, no element of the step longer than the rate.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        h_t &= \beta_2 h_{t-k} + (1 - \beta_2) \hat h_t \quad \text{on updates } 1, k + 1, 2k + 1, \dots \\
        \theta &\leftarrow (1 - \text{lr}\,\lambda)\,\theta - \text{lr}\,
            \operatorname{clip}\Bigl(\frac{m_t}{\max(\gamma h_t, \epsilon)},\, -1,\, 1\Bigr)

    Where the curvature is small or negative the step is that of the sign of the momentum. On every k-th step the record
    holds, as ``unclipped_fraction``, the share of elements inside (-1, 1): gamma is right where it lies between 0.1 and
    0.5 (paper, section 3.1).

    Parameters
    ----------
    lr : knob
        Learning rate; about 0.8 of AdamW's. Default 1e-4, the authors' code.
    betas : two knobs
        Default (0.96, 0.99) (paper, section 3.1).
    gamma : knob
        Default 0.05, the paper's for "gnb"; for "hutchinson" it takes 0.01.
    eps : knob
        epsilon. Default 1e-12 (paper, algorithm 3).
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0.2, the paper's.
    update_every : int
        k. Default 10 (paper).
    estimator : "gnb" or "hutchinson"
        Of which the diagonal is estimated: the Gauss-Newton matrix, by the gradient for targets drawn from the model's
        own predictions (never negative), or the Hessian, by signs z and z * Hz. Default "gnb".

    Raises
    ------
    DeclarationError
        With "gnb", of a loss that says no distribution of targets.

    References
    ----------
    H. Liu, Z. Li, D. Hall, P. Liang and T. Ma, Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
    Pre-training, ICLR 2024, arXiv:2305.14342, algorithms 1 to 3.

    Examples
    --------
    >>> p = torch.tensor([1.0, 1.0]); rule = Sophia(lr=0.1, betas=(0.0, 0.0), gamma=1.0, weight_decay=0.0)
    >>> slot = rule.slots(p); rule.refresh(p, torch.tensor([8.0, -1.0]), slot)
    >>> rule.update(p, torch.tensor([4.0, 0.5]), slot, 1)  # a Newton step; the sign of the gradient
    >>> [round(v, 6) for v in p.tolist()]
    [0.95, 0.9]
    """

    lr: Knob = knob(1e-4, low=0)
    betas: tuple[Knob, Knob] = knob((0.96, 0.99), low=0, below=1)
    gamma: Knob = knob(0.05, above=0)
    eps: Knob = knob(1e-12, above=0)
    weight_decay: Knob = knob(0.2, low=0)
    update_every: int = fixed(10, low=1)
    estimator: Literal["gnb", "hutchinson"] = fixed("gnb")

    elementwise = True
    card = Card(
        title="Momentum over a clipped diagonal of the Hessian",
        axes=("rates", "order"),
        source="Liu et al. 2024, arXiv:2305.14342",
        when="Language models, where AdamW is the baseline.",
        cost="two slots per parameter; another gradient (gnb) or product with the Hessian on every tenth step",
        rows=("sophia",),
        defaults={
            "lr": "1e-4, the authors' code",
            "betas": "(0.96, 0.99), section 3.1",
            "gamma": "0.05, section 3.1 (Sophia-G)",
            "update_every": "10, section 3.1",
            "weight_decay": "0.2, section 3.1",
        },
        deviations=(
            "The diagonal is estimated on the whole batch of the step; the paper takes a part of it.",
            "Hutchinson's vectors are signs, whose estimate varies less; the paper's are normal.",
            "The authors' first code divides by h + 1e-15 and caps at gamma = 2e4, without the batch size: other rates.",
        ),
        claims=(
            Claim(
                "A lower held-out loss than AdamW after as many steps, rates tuned alike.",
                _STUDY,
                paper_scale="GPT-2 of 125 M to 770 M parameters on OpenWebText",
            ),
            Claim(
                "It takes at most 0.8 of the steps that AdamW takes to AdamW's final loss, each at the best of five rates.",
                {"seeds": 6, "margin": 0.3219, "scale": "char_lm, 0.03 M parameters, 600 steps, log2 of steps"},
                paper_scale="GPT-2 of 125 M to 770 M parameters: half of the steps",
                measure="regimes.claims.second_order:sophia_steps",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[Sophia]:
        """With an estimate in every step; and on every second, of the other kind."""
        return [cls(lr=0.01, update_every=1), cls(lr=0.01, gamma=0.5, update_every=2, estimator="hutchinson")]

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """Momentum and diagonal, zero."""
        return {"exp_avg": torch.zeros_like(p), "hessian": torch.zeros_like(p)}

    def refresh(self, p: Tensor, estimate: Tensor, slot: dict[str, Any]) -> None:
        """h moves towards the estimate."""
        slot["hessian"].lerp_(estimate, 1.0 - self.betas[1])

    def note(self, slots: Sequence[Mapping[str, Any]], evaluate: Any) -> None:
        """The share of elements whose step is shorter than the rate."""
        inside = sum(float((self._step(slot).abs() < 1.0).sum()) for slot in slots)
        evaluate.log("unclipped_fraction", inside / sum(slot["exp_avg"].numel() for slot in slots))

    def _step(self, slot: Mapping[str, Any]) -> Tensor:
        found: Tensor = slot["exp_avg"] / (slot["hessian"] * self.gamma).clamp_(min=self.eps)
        return found

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        m = slot["exp_avg"]
        m.lerp_(g, 1.0 - self.betas[0])
        if self.weight_decay != 0.0:
            p.mul_(1.0 - self.lr * self.weight_decay)
        p.add_(self._step(slot).clamp_(-1.0, 1.0), alpha=-self.lr)
