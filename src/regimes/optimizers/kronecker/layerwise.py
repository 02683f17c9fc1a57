"""What rules with a preconditioner for each layer share: which layers, and their gradients as one matrix."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from regimes.core.errors import DeclarationError, nearest_pattern
from regimes.optimizers.layers import Layer


def chosen(parameters: Mapping[str, Tensor], skip: Sequence[str]) -> list[Layer]:
    """Return the layers whose weight no pattern of `skip` matches."""
    layers = getattr(parameters, "layers", ())
    return [layer for layer in layers if not any(fnmatch.fnmatchcase(layer.weight, p) for p in skip)]


def checked(parameters: Mapping[str, Tensor], skip: Sequence[str], name: str) -> list[Layer]:
    """Return the layers as `chosen` does, on meeting a model.

    Parameters
    ----------
    parameters : mapping of str to Tensor
        With the `layers` that they are of.
    skip : sequence of str
    name : str
        Of the rule, for the sentence.

    Raises
    ------
    DeclarationError
        If a pattern matches nothing, or no layer is left.
    """
    weights = [layer.weight for layer in getattr(parameters, "layers", ())]
    for place, pattern in enumerate(skip):
        if not fnmatch.filter(weights, pattern):
            raise DeclarationError(
                f"got '{pattern}', which matches no layer's weight; {nearest_pattern(pattern, weights)}",
                f"skip.{place}",
            )
    layers = chosen(parameters, skip)
    if not layers:
        raise DeclarationError(
            f"{name} preconditions linear layers and convolutions, and none is trained here; allowed: its base rule alone"
        )
    return layers


def trained_names(layer: Layer, parameters: Mapping[str, Tensor]) -> list[str]:
    """Weight and, where it is trained too, bias."""
    return [name for name in (layer.weight, layer.bias) if name is not None and name in parameters]


def sides(layer: Layer, parameters: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return rows and columns of the layer's gradient as one matrix: outputs, and inputs with a 1 for a bias."""
    weight = parameters[layer.weight].flatten(1)
    return len(weight), weight.shape[1] + len(trained_names(layer, parameters)) - 1


def as_matrix(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the gradients of a layer's weight and bias side by side, shape (out, rest [+ 1])."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1).to(dtype)


def as_parts(matrix: Tensor, names: Sequence[str], parts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return such a matrix taken apart, by name, in shapes and types of `parts`."""
    columns = matrix.split([part[0].numel() for part in parts], 1)
    # Contiguous, or fused kernels could not be used, and other bits would come out.
    return {n: c.reshape(part.shape).contiguous().to(part.dtype) for n, c, part in zip(names, columns, parts)}
