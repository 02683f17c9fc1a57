"""LARS: momentum whose step is as long as each layer's weights allow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.rule import Tensorwise
from regimes.optimizers.tensorwise.trust_ratio import check_clamp, trust_ratio


@register
class LARS(Tensorwise):
    r"""Momentum with coupled decay, each tensor's step rescaled to the length of its weights, for large batches.

    With gradient g_t, momentum mu and weight decay lambda, for each tensor w

    .. math::
        m_t &= \mu m_{t-1} + (1 - \mu)(g_t + \lambda w_{t-1}) \\
        w_t &= w_{t-1} - \text{lr}\; \frac{\phi(\lVert w_{t-1} \rVert_2)}{\lVert m_t \rVert_2}\; m_t

    where the ratio is 1 if either length is 0 (`regimes.optimizers.tensorwise.trust_ratio`).

    Parameters
    ----------
    lr : knob
        Learning rate: how far a step goes, relative to the weights. Default 0.01, ours.
    momentum : knob
        mu. Default 0.9 (paper).
    weight_decay : knob
        lambda, added to the gradient. Default 0. Groups spare tensors from decay.
    clamp : two floats or None
        Bounds of phi. Default None: phi is the identity.
    adapt_vectors : bool
        Also rescale tensors of fewer than two dimensions. Default False: their ratio is 1.

    Raises
    ------
    DeclarationError
        If the bounds of phi are not in order.

    References
    ----------
    Y. You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020,
    arXiv:1904.00962, algorithm 1; Y. You, I. Gitman and B. Ginsburg, Large Batch Training of Convolutional Networks,
    2017, arXiv:1708.03888.

    Examples
    --------
    >>> p = torch.tensor([[3.0, 4.0]]); rule = LARS(lr=0.1); slot = rule.slots(p)
    >>> rule.update(p, torch.tensor([[0.0, -7.0]]), slot, 1)
    >>> [round(v, 4) for v in p[0].tolist()]  # a step of length 0.1 * 5
    [3.0, 4.5]
    """

    lr: Knob = knob(0.01, low=0)
    momentum: Knob = knob(0.9, low=0, below=1)
    weight_decay: Knob = knob(0.0, low=0)
    clamp: tuple[float, float] | None = fixed(None, low=0)
    adapt_vectors: bool = fixed(False)

    card = Card(
        title="Momentum with steps as long as each layer's weights allow",
        axes=("rates",),
        source="You et al. 2020, arXiv:1904.00962, algorithm 1; You, Gitman and Ginsburg 2017, arXiv:1708.03888",
        when="Large batches in vision.",
        cost="one slot per parameter; two norms per tensor and step",
        shelf="atlas",
        rows=("lamb",),
        defaults={"lr": "0.01, ours", "momentum": "0.9, paper"},
        deviations=(
            "The ratio is that of the momentum, as in LAMB's paper; that of 2017 scales each gradient before it enters "
            "the momentum, by ||w|| / (||g|| + lambda ||w||) and a coefficient. Without momentum and decay both are one.",
            "Tensors of fewer than two dimensions have the ratio 1 unless told otherwise.",
        ),
    )

    def validate(self) -> None:
        """Refuse bounds that are not in order."""
        check_clamp(self.clamp)

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """The momentum buffer, zero."""
        return {"momentum_buffer": torch.zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        m = slot["momentum_buffer"]
        m.lerp_(g.add(p, alpha=self.weight_decay) if self.weight_decay != 0.0 else g, 1.0 - self.momentum)
        if self.adapt_vectors or p.ndim >= 2:
            p.sub_(m * (self.lr * trust_ratio(p, m, self.clamp)))
        else:
            p.add_(m, alpha=-self.lr)
