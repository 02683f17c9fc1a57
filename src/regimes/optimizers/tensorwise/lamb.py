"""LAMB: Adam whose step is as long as each layer's weights allow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.adam_direction import adam_direction
from regimes.optimizers.tensorwise.rule import Tensorwise
from regimes.optimizers.tensorwise.trust_ratio import check_clamp, trust_ratio


@register
class LAMB(Tensorwise):
    r"""Adam with decoupled decay, each tensor's step rescaled to the length of its weights, for large batches.

    With gradient g_t, betas (beta_1, beta_2) and weight decay lambda, for each tensor w

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda w_{t-1} \\
        w_t &= w_{t-1} - \text{lr}\; \frac{\phi(\lVert w_{t-1} \rVert_2)}{\lVert u_t \rVert_2}\; u_t

    where the ratio is 1 if either length is 0 (`regimes.optimizers.tensorwise.trust_ratio`).

    Parameters
    ----------
    lr : knob
        Learning rate: how far a step goes, relative to the weights. Default 1e-3, ours; the paper's for BERT grow as
        the root of the batch, from 6.25e-4 at 512 to 5e-3 at 32,768, with longer warm-up.
    betas : two knobs
        Decay of the two moments. Default (0.9, 0.999) (paper).
    eps : knob
        epsilon. Default 1e-6 (paper).
    weight_decay : knob
        lambda. Default 0.01 (paper, BERT). Groups spare tensors from decay.
    clamp : two floats or None
        Bounds of phi. Default None: phi is the identity; the paper gives no numbers.
    bias_correction : bool
        Divide the moments by 1 - beta^t. Default True (algorithm 2 of the paper).
    adapt_vectors : bool
        Also rescale tensors of fewer than two dimensions. Default False: their ratio is 1, as biases and norms are
        left out in the authors' training of BERT.

    Raises
    ------
    DeclarationError
        If the bounds of phi are not in order.

    References
    ----------
    Y. You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020,
    arXiv:1904.00962, algorithm 2.

    Examples
    --------
    >>> p = torch.tensor([[3.0, 4.0]]); rule = LAMB(lr=0.1, weight_decay=0.0); slot = rule.slots(p)
    >>> rule.update(p, torch.tensor([[1.0, -7.0]]), slot, 1)
    >>> [round(v, 4) for v in p[0].tolist()]  # a step of length 0.1 * 5 along (1, -1)
    [2.6464, 4.3536]
    """

    lr: Knob = knob(1e-3, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.999), low=0, below=1)
    eps: Knob = knob(1e-6, low=0)
    weight_decay: Knob = knob(0.01, low=0)
    clamp: tuple[float, float] | None = fixed(None, low=0)
    bias_correction: bool = fixed(True)
    adapt_vectors: bool = fixed(False)

    card = Card(
        title="Adam with steps as long as each layer's weights allow",
        axes=("rates",),
        source="You et al. 2020, arXiv:1904.00962",
        when="Large batches: the rate grows as the root of the batch, without tuning it anew.",
        cost="two slots per parameter; two norms per tensor and step",
        shelf="atlas",
        rows=("lamb",),
        defaults={
            "lr": "1e-3, ours",
            "betas": "(0.9, 0.999), paper",
            "eps": "1e-6, paper",
            "weight_decay": "0.01, paper (BERT)",
            "clamp": "none: the paper gives no bounds (one port has 10)",
        },
        deviations=(
            "Tensors of fewer than two dimensions have the ratio 1 unless told otherwise; the paper writes the rule for "
            "every layer, and leaves out biases and norms in practice.",
            "A tensor is a layer: weight and bias have ratios of their own, as in every implementation.",
        ),
        claims=(
            Claim(
                "From batches of 16 to batches of 1,024 of as many tokens the loss grows less than AdamW's, the rate tuned at "
                "16 and scaled by the root.",
                {"seeds": 5, "margin": 0.05, "scale": "char_lm of width 32, 40,960 parameters, 400k tokens"},
                paper_scale="BERT-Large, batches of 512 to 32,768",
                measure="regimes.claims.large_batches:loss_increase",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse bounds that are not in order."""
        check_clamp(self.clamp)

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """First and second moment, zero."""
        return {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        u = adam_direction(g, slot, self.betas, self.eps, t if self.bias_correction else None)
        if self.weight_decay != 0.0:
            u.add_(p, alpha=self.weight_decay)
        if self.adapt_vectors or p.ndim >= 2:
            u.mul_(trust_ratio(p, u, self.clamp))
        p.add_(u, alpha=-self.lr)
