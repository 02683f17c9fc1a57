"""Hinge loss of a margin."""

from __future__ import annotations

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import OutputLoss, per_example, same_shape


@register
class Hinge(OutputLoss):
    r"""Hinge loss of two classes with one output, one unit per example.

    With outputs o and y = 1 where the target is above 0, else -1 (so that classes may be 0 and 1, or -1 and 1)

    .. math:: \ell_i = \frac{1}{\alpha} \max(0, 1 - y_i o_i)

    It is exactly 0 where every example has its margin. Under `CenteredOutput(alpha)`, whose outputs are alpha F, it is
    the loss of Sclocchi et al.: its gradient in the weights does not grow with alpha. Several outputs of an example are
    averaged.

    Parameters
    ----------
    scale : float
        alpha. Default 1.

    Raises
    ------
    DeclarationError
        If output and target differ in shape.

    References
    ----------
    A. Sclocchi, M. Geiger and M. Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML
    2023, arXiv:2301.13703; C. Cortes and V. Vapnik, Support-Vector Networks, 1995.

    Examples
    --------
    >>> Hinge(scale=2.0).per_unit(torch.tensor([[0.5], [3.0], [1.0]]), torch.tensor([[1.0], [1.0], [0.0]])).values
    tensor([0.2500, 0.0000, 1.0000])
    """

    scale: float = fixed(1.0, above=0)

    card = Card(
        title="Hinge loss",
        axes=("regime",),
        source="Cortes and Vapnik 1995; Sclocchi et al. 2023, arXiv:2301.13703 (the scale)",
        when="Two classes, where training is to end when every example has its margin.",
        shelf="atlas",
        rows=("sgd-noise-regimes",),
        defaults={"scale": "1: the plain hinge"},
    )

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each example; output and target (n, ...)."""
        same_shape(output, target)
        margins = torch.where(target > 0, output, -output)
        return per_example((1.0 - margins).clamp_min(0.0) / self.scale)
