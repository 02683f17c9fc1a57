"""Binary cross-entropy of logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.card import Card
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import OutputLoss, per_example, same_shape


@register
class BCE(OutputLoss):
    r"""Binary cross-entropy of logits, one unit per example.

    With logits z, targets y in [0, 1] and :math:`\sigma(z) = 1 / (1 + e^{-z})`

    .. math:: \ell_i = -\frac1d \sum_{j=1}^{d} y_{ij} \log \sigma(z_{ij}) + (1 - y_{ij}) \log(1 - \sigma(z_{ij}))

    over the d labels of example i, so that the mean over examples is ``nn.BCEWithLogitsLoss()``.

    Raises
    ------
    DeclarationError
        If output and target differ in shape.

    Examples
    --------
    >>> import torch
    >>> [round(v, 4) for v in BCE().per_unit(torch.tensor([0.0, 2.0]), torch.tensor([1, 0])).values.tolist()]
    [0.6931, 2.1269]
    """

    criterion_class = nn.BCEWithLogitsLoss
    card = Card(
        title="Binary cross-entropy of logits",
        axes=("regime",),
        source="folklore",
        when="Two classes with one output, or several labels at once.",
    )

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each example; logits and targets (n, ...), integer targets too."""
        same_shape(output, target)
        target = target if target.is_floating_point() else target.to(output.dtype)  # soft labels are not rounded
        values = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        return per_example(values)

    def per_unit_drawn(self, output: Tensor, target: Tensor, generator: torch.Generator) -> UnitLosses:
        r"""Loss of labels drawn from the output, times :math:`\sqrt d`: it is a mean over d labels, not a likelihood."""
        shares = torch.sigmoid(output.detach()).nan_to_num(nan=0.5)  # the loss shows what is not finite
        drawn = torch.bernoulli(shares, generator=generator)
        losses = self.per_unit(output, drawn)
        numbers = output[0].numel() if len(output) else 1
        return UnitLosses(losses.values * numbers**0.5, losses.weights, losses.examples)
