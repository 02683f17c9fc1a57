"""Train on the units of a batch whose loss is highest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Knob, Selector, State
from regimes.core.registry import register
from regimes.core.unit_losses import Units


@register
class HighLoss(Selector):
    r"""Keep the share of a batch's units with the highest loss; the step's loss is the mean over them.

    .. math:: w_i = [\, \ell_i \text{ is among the } k \text{ highest}\,], \qquad k = \lceil s\, n \rceil

    over the n units (examples, or tokens) that the loss itself counts; of equal losses the earlier are kept.

    Parameters
    ----------
    share : knob
        s, in (0, 1]; 1 is training without a selector, bitwise. Default 0.5.

    References
    ----------
    A. Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining, CVPR 2016,
    arXiv:1604.03540; K. Kawaguchi and H. Lu, Ordered SGD, AISTATS 2020, arXiv:1907.04371.

    Examples
    --------
    >>> units = Units(torch.tensor([0.1, 3.0, 2.0, 9.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.arange(4), torch.arange(4))
    >>> HighLoss(0.5).select({}, units)  # the fourth is padding
    tensor([0., 1., 1., 0.])
    """

    share: Knob = knob(0.5, above=0, high=1)

    card = Card(
        title="Train on the highest losses of a batch",
        axes=("distribution", "order"),
        source="Shrivastava et al. 2016, arXiv:1604.03540; Kawaguchi and Lu 2020, arXiv:1907.04371",
        when="Most examples are learned already, and labels are clean.",
        cost="a scoring forward of the whole batch",
        defaults={"share": "ours"},
        deviations=(
            "The backward pass goes over the whole batch with weights 0 and 1: the papers' saving of time is not made.",
        ),
    )

    def select(self, state: State, units: Units) -> Tensor:
        """1 for the highest losses, 0 for the rest and for what the loss does not count."""
        chosen, values = torch.zeros_like(units.values), units.values
        if units.weights is not None:
            values = values.masked_fill(units.weights == 0, -math.inf)
        counted = int(torch.isfinite(values).sum())
        # 0.07 * 100 is 7.000000000000001, which is meant to be 7.
        highest = torch.argsort(values, descending=True, stable=True)[: math.ceil(self.share * counted - 1e-9)]
        chosen[highest] = 1.0
        return chosen
