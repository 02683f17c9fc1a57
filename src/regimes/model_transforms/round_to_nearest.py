"""Weights at the nearest value of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.notice import notice
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching
from regimes.model_transforms.quantize import round_to_nearest
from regimes.optimizers.layers import Layer, layers_of


@register
class RoundToNearest(ModelTransform):
    """Round the weights of layers to `bits` bits, without a look at data; the baseline of `GPTQ`.

    Each row of a weight (out, in), or a kernel (out, in * height * width), has an even grid from its least to its
    largest entry, 0 among its values. Weights keep their type and lie on the grid until something trains them. A matrix
    that the patterns match and that belongs to no layer stays as it is, and is named in a warning.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of parameter names: what they match of linear layers' and convolutions' weights is rounded.
    bits : int
        2^bits values. Default 4.
    group : int or None
        Columns that share a grid; None: the row.

    Raises
    ------
    DeclarationError
        If there is no pattern, one matches nothing, or no layer's weight is among what they match.

    References
    ----------
    B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    CVPR 2018, arXiv:1712.05877.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 2))
    >>> _ = RoundToNearest("0.*", bits=2).fill(net, net, iter(()), Streams(0))
    >>> [len(row.unique()) <= 4 for row in net[0].weight]
    [True, True]
    """

    patterns: tuple[str, ...] = fixed()
    bits: int = fixed(4, low=1, high=16)
    group: int | None = fixed(None, low=1)

    card = Card(
        title="Weights rounded to few bits",
        axes=("phases",),
        source="Jacob et al. 2018, arXiv:1712.05877",
        when="The baseline for every other quantization; eight bits.",
        shelf="atlas",
        deviations=("Values lie on the grid but are stored as before: nothing is packed.",),
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        refuse_no_pattern(self.patterns)

    def structure(self, model: nn.Module) -> nn.Module:
        """Nothing but a check that the patterns name layers."""
        quantizable(model, self.patterns)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Round the weights."""
        with torch.no_grad():
            for layer in quantizable(model, self.patterns):
                weight = model.get_parameter(layer.weight)
                weight.copy_(round_to_nearest(weight.flatten(1), self.bits, self.group).reshape(weight.shape))
        name_what_stays("RoundToNearest", model, self.patterns)
        return TransformResult({name: name for name, _ in model.named_parameters()})


def refuse_no_pattern(patterns: Sequence[str]) -> None:
    """Refuse an empty list of patterns."""
    if not patterns:
        raise DeclarationError("got no pattern; allowed: one or more, for example '*.weight'", "patterns")


def quantizable(model: nn.Module, patterns: Sequence[str]) -> list[Layer]:
    """Return the layers whose weight matches, in model order.

    Raises
    ------
    DeclarationError
        If a pattern matches nothing, or all match no layer's weight.
    """
    named = matching(model, patterns)
    found = [layer for layer in layers_of(model) if layer.weight in named]
    if not found:
        raise DeclarationError(
            f"got {list(patterns)}, which match no weight of a linear layer or convolution; allowed here: "
            + (", ".join(layer.weight for layer in layers_of(model)) or "nothing"),
            "patterns",
        )
    return found


def name_what_stays(rule: str, model: nn.Module, patterns: Sequence[str]) -> None:
    """Warn of matrices that match and are no weight of a layer that is quantized."""
    own = {layer.weight for layer in layers_of(model)}
    left = {id(p): name for name, p in reversed(matching(model, patterns).items()) if p.ndim > 1 and name not in own}
    if left:
        names = ", ".join(reversed(left.values()))
        notice(f"{rule} leaves {names} as they are: no linear layer or convolution has them to itself.")
