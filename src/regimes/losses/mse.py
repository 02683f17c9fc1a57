"""Mean squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regimes.core.card import Card
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import OutputLoss, per_example, same_shape


@register
class MSE(OutputLoss):
    r"""Mean squared error, one unit per example.

    .. math:: \ell_i = \frac1d \sum_{j=1}^{d} (\hat y_{ij} - y_{ij})^2

    over the d numbers of example i, so that the mean over examples is ``nn.MSELoss()``.

    Raises
    ------
    DeclarationError
        If output and target differ in shape (torch would broadcast (n, 1) against (n,) to n^2 differences).

    Examples
    --------
    >>> import torch
    >>> MSE().per_unit(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])).values
    tensor([2., 5.])
    """

    criterion_class = nn.MSELoss
    card = Card(title="Mean squared error", axes=("regime",), source="folklore", when="Regression.")

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each example; output and target (n, ...)."""
        same_shape(output, target)
        return per_example((output - target).square())

    def per_unit_drawn(self, output: Tensor, target: Tensor, generator: torch.Generator) -> UnitLosses:
        """Loss of targets drawn around the output with variance d / 2, of which it is the negative log-likelihood."""
        normal = torch.randn(output.shape, generator=generator, dtype=output.dtype, device=output.device)
        numbers = output[0].numel() if len(output) else 1
        return self.per_unit(output, output.detach() + (numbers / 2) ** 0.5 * normal)
