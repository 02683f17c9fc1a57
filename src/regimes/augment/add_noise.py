"""Normal noise on the inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Augment, Knob, State
from regimes.core.registry import register


@register
class AddNoise(Augment):
    r"""Add normal noise to the inputs of every batch that is trained on.

    .. math:: x \leftarrow x + \sigma\, z, \qquad z \sim N(0, I)

    For a linear model and squared error this is, in the mean, weight decay by :math:`\sigma^2`.

    Parameters
    ----------
    std : knob
        sigma. Default 0.1.

    Raises
    ------
    DeclarationError
        If a batch is no tuple or list that begins with a tensor of floats.

    References
    ----------
    C. Bishop, Training with Noise is Equivalent to Tikhonov Regularization, Neural Computation 7, 1995.

    Examples
    --------
    >>> x, y = torch.zeros(1, 3), torch.tensor([4])
    >>> noisy, same = AddNoise(0.5).apply({}, (x, y), torch.Generator().manual_seed(0))
    >>> noisy.tolist() == (0.5 * torch.randn(1, 3, generator=torch.Generator().manual_seed(0))).tolist(), same.tolist()
    (True, [4])
    """

    std: Knob = knob(0.1, low=0)

    card = Card(
        title="Normal noise on the inputs",
        axes=("distribution",),
        source="Bishop 1995, Neural Computation 7",
        when="Inputs that are real numbers, and too few of them.",
        cost="as many random numbers as the batch has",
        shelf="atlas",
        rows=("resnet-rs",),
        defaults={"std": "0.1, a tenth of inputs of unit size"},
        deviations=("It stands in for RandAugment, whose operations on photographs are not built.",),
    )

    def apply(self, state: State, batch: Any, generator: Any) -> Any:
        """Return the batch with noise on its first part."""
        first = batch[0] if isinstance(batch, tuple | list) and batch else None
        if not isinstance(first, Tensor) or not first.is_floating_point():
            raise DeclarationError(
                f"got a batch of type {type(batch).__name__}; allowed: a tuple or list that begins with a tensor of floats",
                "augment",
            )
        noise = torch.randn(first.shape, generator=generator, dtype=first.dtype, device=first.device)
        rest = [first + self.std * noise, *batch[1:]]
        return type(batch)(*rest) if hasattr(batch, "_fields") else type(batch)(rest)
