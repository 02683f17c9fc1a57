"""Linear layers with a low-rank part of their own, which alone is trained."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.errors import DeclarationError, nearest_pattern


class LoRALinear(nn.Linear):
    r"""A linear layer W and, beside it, a product of two thin matrices.

    .. math:: y = W x + b + s \, B A \, \mathrm{dropout}(x)

    Parameters
    ----------
    linear : Linear
        Whose weight and bias this one takes over, the same tensors.
    rank : int
        Rows of A, shape (rank, in), and columns of B, shape (out, rank). Both are zeros here: `LoRA` draws A.
    scale : float
        s.
    dropout : float
        While training, of the inputs of A.

    Examples
    --------
    >>> layer = LoRALinear(nn.Linear(3, 2), rank=1)
    >>> [name for name, _ in layer.named_parameters()]
    ['weight', 'bias', 'lora_A', 'lora_B']
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float = 1.0, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)  # that of Linear would draw a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A = nn.Parameter(linear.weight.new_zeros(rank, self.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(self.out_features, rank))
        self.scale, self.dropout = scale, dropout
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        x = functional.dropout(input, self.dropout, self.training) if self.dropout else input
        return super().forward(input) + self.scale * functional.linear(functional.linear(x, self.lora_A), self.lora_B)

    def merged(self) -> Tensor:
        """Return W + s B A."""
        return self.weight.detach() + self.scale * (self.lora_B.detach() @ self.lora_A.detach())

    def extra_repr(self) -> str:
        """As of Linear, with rank and scale."""
        return f"{super().extra_repr()}, rank={len(self.lora_A)}, scale={self.scale:g}"


def adaptable(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of the linear layers that match and may have an adapter.

    Raises
    ------
    DeclarationError
        If a pattern matches no linear layer, or one that matches has a weight that another module holds, too, or is read by
        the module around it (in MultiheadAttention), or has a forward of its own.
    """
    modules = dict(model.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    for place, pattern in enumerate(patterns):
        if not fnmatch.filter(linear, pattern):
            raise DeclarationError(
                f"got '{pattern}', which matches no linear layer; {nearest_pattern(pattern, linear)}",
                f"patterns.{place}",
            )
    found = [name for name in linear if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    for name in found:
        _check(name, modules)
    return found


def _check(name: str, modules: dict[str, nn.Module]) -> None:
    module, around = modules[name], modules.get(name.rpartition(".")[0])
    weight = module._parameters.get("weight")
    holders = sum(p is weight for other in modules.values() for p in other._parameters.values())
    why = ""
    if isinstance(module, LoRALinear):
        why = "has one already"
    elif type(module) is not nn.Linear or weight is None:
        why = "is a kind of its own, or its weight is made of other parameters"
    elif isinstance(around, nn.MultiheadAttention):
        why = "is read by the MultiheadAttention around it, which would pass the adapter by"
    elif holders > 1:
        why = "shares its weight with another module"
    if why:
        raise DeclarationError(f"got '{name}', to which no adapter can be added: it {why}; leave it out", "patterns")


def put(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Return the model with a module in the place of that name; the module itself where the name is empty."""
    if not name:
        return module
    above, _, own = name.rpartition(".")
    setattr(model.get_submodule(above), own, module)
    return model


def plain(layer: LoRALinear) -> nn.Linear:
    """Return the linear layer with the same weight and bias, without the adapter."""
    made = nn.Linear(1, 1, device="meta")  # draws nothing
    made.in_features, made.out_features = layer.in_features, layer.out_features
    made.weight, made.bias = layer.weight, layer.bias
    return made.train(layer.training)


@torch.no_grad()
def draw(layer: LoRALinear, generator: torch.Generator) -> None:
    """Draw A as torch draws a linear layer's weight, in +-in^(-1/2), and make B zero."""
    drawn = torch.rand(layer.lora_A.shape, generator=generator, dtype=torch.float64)
    layer.lora_A.copy_((2.0 * drawn - 1.0) * layer.in_features**-0.5)
    layer.lora_B.zero_()
