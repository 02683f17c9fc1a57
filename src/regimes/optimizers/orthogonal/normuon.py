"""NorMuon: Muon whose rows are brought to one length."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.orthogonal.muon import Muon

_REST = "Group('*', AdamW(lr=Cosine(0.008, warmup='5%'), betas=(0.9, 0.95), weight_decay=0.1))"
_RULE = "lr=Cosine(0.02, warmup='5%'), weight_decay=0.1"
_STUDY = {
    "workload": "char_lm",
    "compare": {"baseline": "muon", "metric": "test/loss", "better": "lower", "margin": 0.01, "seeds": 6, "trials": 4},
    "tune": {"*.lr.peak": "times(1/8, 8)"},
    "arms": {
        "muon": {
            "optimizer": f"Groups([Group('@matrices', Muon({_RULE})), {_REST}])",
            "batch_size": 16,
            "budget": "200k tokens",
        },
        "normuon": {"like": "muon", "optimizer": f"Groups([Group('@matrices', NorMuon({_RULE})), {_REST}])"},
    },
}
#: What the authors' code adds to roots and lengths before it divides.
_TINY = 1e-10


@register
class NorMuon(Muon):
    r"""Muon, each row of the orthogonalized momentum divided by a running root mean square of its own.

    With o_t of `Muon`, shape (A, B), and one number v_i per row (an output channel of a convolution)

    .. math::
        v_{i,t} &= \beta_2 v_{i,t-1} + (1 - \beta_2)\, \tfrac{1}{B} \textstyle\sum_j o_{ij,t}^2 \\
        n_{ij,t} &= o_{ij,t} / \sqrt{v_{i,t}} \\
        \theta_t &= (1 - \text{lr}\,\lambda)\,\theta_{t-1} - \text{lr}\,s(A, B)\,
            \frac{\ell}{\lVert n_t \rVert_F}\, n_t

    "original": s = sqrt(max(1, A / B)) and l = ||o_t||_F, so that the step is as long as Muon's (the authors' code);
    "match_rms_adamw": s = 0.2 sqrt(max(A, B)) and l = sqrt(min(A, B)), so that its root mean square is 0.2 (the paper).
    v has no bias correction: a factor that all rows share cancels. A row of zeros stays one.

    Parameters
    ----------
    lr : knob
        Learning rate. Default 0.02, the authors' code.
    momentum : knob
        mu of Muon. Default 0.95, the authors' code.
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0, the authors' code.
    nesterov, ns_coefficients, ns_steps, eps, iteration_dtype
        As in `Muon`.
    adjust_lr : "original" or "match_rms_adamw"
        s and l, above. Default "original", the authors' code.
    beta2 : knob
        beta_2. Default 0.95, the authors' code.

    Raises
    ------
    DeclarationError
        On meeting a parameter of fewer than two dimensions.

    References
    ----------
    Z. Li, L. Liu, C. Liang, W. Chen and T. Zhao, NorMuon: Making Muon more efficient and scalable, 2025,
    arXiv:2510.05491, algorithm 1; code: https://github.com/zichongli5/NorMuon.

    Examples
    --------
    >>> g = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.2]])
    >>> for rule in (Muon(lr=0.1, weight_decay=0.0), NorMuon(lr=0.1)):
    ...     p = torch.zeros(3, 2)
    ...     rule.update(p, g, rule.slots(p), 1)
    ...     print([round(row.norm().item(), 4) for row in p])
    [0.0856, 0.1308, 0.0262]
    [0.0915, 0.0915, 0.0915]
    """

    lr: Knob = knob(0.02, low=0)
    weight_decay: Knob = knob(0.0, low=0)
    beta2: Knob = knob(0.95, low=0, below=1)

    card = Card(
        title="Orthogonalized momentum with rows of one length",
        axes=("rates",),
        source="Li et al. 2025, arXiv:2510.05491",
        when="As Muon, where its step moves some rows (neurons) much more than others.",
        cost="one slot per parameter and a number per row; up to 15 products of matrices per weight and step",
        shelf="atlas",
        rows=("normuon",),
        defaults={
            "lr": "0.02, authors' code",
            "momentum": "0.95, authors' code",
            "beta2": "0.95, authors' code",
            "weight_decay": "0, authors' code",
        },
        deviations=(
            "Rows of a convolution are its output channels; in the authors' code they are lines of kernels, and the shape's "
            "factor is that of a kernel.",
            "Momentum looks ahead as in the authors' code; the paper writes it without.",
            "The iteration runs in float32 on a CPU unless told otherwise.",
        ),
        claims=(
            Claim(
                "The lengths of an update's rows vary, over their mean, at most half as much as Muon's.",
                {"seeds": 6, "margin": 1.0, "scale": "char_lm of width 32, 40,960 parameters, 300 steps, log2"},
                paper_scale="a decoder of 1.1 B parameters, in words",
                measure="regimes.claims.orthogonal:row_variation",
            ),
            Claim(
                "The held-out loss is at most half a percent above Muon's after as many tokens, rates tuned alike.",
                _STUDY,
                paper_scale="a decoder of 1.1 B parameters: 11% fewer steps than Muon",
                says="not worse",
            ),
        ),
    )

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """The momentum buffer, and one number per row, with as many axes as the parameter. All zero."""
        dtype = torch.promote_types(p.dtype, torch.float32)
        rows = torch.zeros((len(p), *[1] * (p.ndim - 1)), dtype=dtype, device=p.device)
        return super().slots(p) | {"second_momentum_buffer": rows}

    def direction(self, p: Tensor, g: Tensor, slot: dict[str, Any]) -> Tensor:
        """Move momentum and v, and return l n / ||n||, shape (A, B)."""
        ortho = super().direction(p, g, slot)
        v = slot["second_momentum_buffer"].view(-1, 1)
        ortho = ortho.to(v.dtype)
        v.lerp_(ortho.square().mean(1, keepdim=True), 1.0 - self.beta2)
        made = ortho / v.sqrt().add_(_TINY)
        length = ortho.norm() if self.adjust_lr == "original" else math.sqrt(min(ortho.shape))
        return made.mul_(length / (made.norm() + _TINY))
