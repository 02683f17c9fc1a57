"""Layers that multiply by their weight: what a rule with a preconditioner of its own for each layer has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional


class Layer(NamedTuple):
    """One linear layer or convolution, by names.

    Parameters
    ----------
    module : str
        Name of the module, as ``evaluate(capture=...)`` takes it.
    weight : str
        Name of its weight, which counts as a matrix of shape (out, rest).
    bias : str or None
        Name of its bias, None where it has none.
    unfold : mapping or None
        Of a convolution, what `torch.nn.functional.unfold` has to be told to lay out its input.
    """

    module: str
    weight: str
    bias: str | None
    unfold: Mapping[str, Any] | None = None

    def inputs(self, x: Tensor) -> Tensor:
        """What the weight was multiplied by, one row per product: shape (rows, rest)."""
        if self.unfold is None:
            return x.reshape(-1, x.shape[-1])
        patches = functional.unfold(x if x.ndim == 4 else x[None], **self.unfold)  # (n, rest, places)
        return patches.transpose(1, 2).reshape(-1, patches.shape[1])

    def outputs(self, y: Tensor) -> Tensor:
        """The output, or its gradient, in the same rows: shape (rows, out)."""
        if self.unfold is None:
            return y.reshape(-1, y.shape[-1])
        places = (y if y.ndim == 4 else y[None]).flatten(2)  # (n, out, places)
        return places.transpose(1, 2).reshape(-1, places.shape[1])


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """Return the layers whose output is a product with a weight of theirs alone, in model order.

    These are `nn.Linear` and `nn.Conv2d` (one group, zeros for padding) with the forward that torch gave them. A
    weight that two modules share, or that is computed from other parameters, belongs to no layer.

    Examples
    --------
    >>> layers_of(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5, bias=False)))
    (Layer(module='1', weight='1.weight', bias='1.bias', unfold=None), \
Layer(module='2', weight='2.weight', bias=None, unfold=None))
    """
    listed = {id(p): name for name, p in model.named_parameters()}
    holders = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    found = []
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if holders[id(weight)] == 1 and _multiplies(module):
            found.append(Layer(name, listed[id(weight)], listed.get(id(bias)), _unfold(module)))
    return tuple(found)


def _multiplies(module: nn.Module) -> bool:
    forward = type(module).forward
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and forward is nn.Conv2d.forward
    return isinstance(module, nn.Linear) and forward is nn.Linear.forward


def _unfold(module: nn.Module) -> dict[str, Any] | None:
    if not isinstance(module, nn.Conv2d):
        return None
    return {name: getattr(module, name) for name in ("kernel_size", "dilation", "padding", "stride")}
