"""A loss at every bit width of the model, added up."""

from __future__ import annotations

from typing import Any

from torch import nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.kinds import Loss, State
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.cross_entropy import CrossEntropy
from regimes.model_transforms.rounding import at_width, rounders


@register
class JointWidths(Loss):
    r"""Train all widths of the weights that `DoubleRounding` has made, in every step.

    .. math:: \ell_u = \sum_{b} \ell_u(f_b)

    with f_b the network at b bits. Validation, which is the workload's own loss, sees the highest width.

    Parameters
    ----------
    loss : Loss
        l. Default cross-entropy.

    Raises
    ------
    DeclarationError
        If the model has no such weights.

    References
    ----------
    H. Huang et al., Nearly Lossless Adaptive Bit Switching, 2025, arXiv:2502.01199.

    Examples
    --------
    >>> import torch
    >>> from regimes.losses import MSE
    >>> from regimes.model_transforms import DoubleRounding
    >>> net = DoubleRounding("0.weight", bits=(8, 2)).structure(nn.Sequential(nn.Linear(1, 1, bias=False)))
    >>> _ = net[0].parametrizations.weight.original.data.fill_(70.0)  # 70 at 8 bits, 64 at 2
    >>> JointWidths(MSE())(net, (torch.ones(1, 1), torch.tensor([[60.0]]))).values.tolist()
    [116.0]
    """

    loss: Loss = fixed(CrossEntropy())

    card = Card(
        title="A loss at every bit width",
        axes=("regime",),
        source="Huang et al. 2025, arXiv:2502.01199",
        when="Training weights of several bit widths, as `DoubleRounding` makes them.",
        cost="a forward and backward for each width",
        shelf="atlas",
        rows=("double-rounding-alrs",),
    )

    @property
    def separable(self) -> bool:  # type: ignore[override]
        """As the loss inside."""
        return self.loss.separable

    @property
    def asks(self) -> bool:
        """As the loss inside."""
        return self.loss.asks

    def init(self) -> State:
        """Return the memory of the loss inside."""
        return {"loss": self.loss.init()}

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """Add up the units of all widths, the highest first."""
        found: list[UnitLosses] = []
        for bits in rounders(model)[0].bits:
            with at_width(model, bits):
                found.append(self.loss.units(state["loss"], model, batch))
        values = sum((units.values for units in found[1:]), start=found[0].values)
        return UnitLosses(values, found[0].weights, found[0].examples)
