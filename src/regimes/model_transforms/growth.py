"""Maximal update parametrization: how rates and first values follow the axes of a parameter that grow with the width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, show
from regimes.core.randomness import kept
from regimes.model_transforms.widths import Axes, axes_of
from regimes.optimizers.roles import roles_of

#: By parametrization and family of the rule: exponents of the growth of what is read, and of what is written.
RATES: dict[str, dict[str, tuple[float, float]]] = {
    "mup": {"sgd": (-1.0, 1.0), "adaptive": (-1.0, 0.0), "sign": (-1.0, 0.0)},
    "ntk": {"sgd": (-1.0, 0.0), "adaptive": (-0.5, 0.0), "sign": (-0.5, 0.0)},
}


class Growth(NamedTuple):
    """How many times as long as in the base the axes of a parameter are.

    Parameters
    ----------
    fan_in, fan_out : float
        What is read and what is written; 1: it does not grow.

    Examples
    --------
    >>> Growth(4.0, 4.0).kind, Growth(1.0, 4.0).kind, Growth(4.0, 1.0).kind
    ('hidden', 'input', 'output')
    >>> Growth(4.0, 2.0).rate("sgd"), Growth(4.0, 2.0).rate("adaptive")
    (0.5, 0.25)
    """

    fan_in: float = 1.0
    fan_out: float = 1.0

    @property
    def kind(self) -> str:
        """Which axes grow: "input" (what is written; biases, too), "hidden" (both), "output" (what is read) or "fixed"."""
        names = {(False, True): "input", (True, True): "hidden", (True, False): "output"}
        return names.get((self.fan_in != 1.0, self.fan_out != 1.0), "fixed")

    def rate(self, family: str, parametrization: str = "mup") -> float:
        """Return by what the rate of the base is multiplied.

        Parameters
        ----------
        family : "sgd", "adaptive" or "sign"
            Whether a step's length follows that of the gradient, or each entry's is about the rate, or is the rate.
        parametrization : "mup" or "ntk"
        """
        read, written = RATES[parametrization][family]
        return float(self.fan_in**read * self.fan_out**written)


def base_of(model: nn.Module, base: nn.Module | int) -> nn.Module:
    """Return the base model, made by ``model.grown(base)`` where only its width is given.

    Raises
    ------
    DeclarationError
        If the model does not say how it changes its width, or cannot have this one.
    """
    if isinstance(base, nn.Module):
        return base
    made: Any = model
    if type(getattr(model, "width", None)) is not int or not callable(getattr(model, "grown", None)):
        raise DeclarationError(
            f"got {show(base)}, but {type(model).__name__} does not say how it changes its width; give it a number `width` "
            "and a method `grown(width)` that returns a fresh model of the same form. Where it cannot, groups.mup takes a narrower "
            "model itself, and what MuPInit would multiply is in groups.mup_table(model, narrower): write that into the "
            "model's own first values",
            "base",
        )
    try:
        with kept(torch_alone=True):
            torch.manual_seed(0)
            found: nn.Module = made.grown(base)
    except ValueError as why:
        raise DeclarationError(str(why), "base") from why
    return found


def growth(model: nn.Module, base: nn.Module | int) -> dict[str, Growth]:
    """Return how each parameter has grown over the base, from the shapes of the two.

    Parameters
    ----------
    model : Module
    base : Module or int
        The same layers under the same names, of another width; or that width.

    Raises
    ------
    DeclarationError
        If the two are not of one form, one differs in other axes than what layers read and write, nothing says which axis
        is which, or a weight that grows serves as embedding and as head.

    Examples
    --------
    >>> made = lambda width: nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
    >>> growth(made(8), made(4))["1.weight"], growth(made(8), made(4))["0.bias"]
    (Growth(fan_in=2.0, fan_out=1.0), Growth(fan_in=1.0, fan_out=2.0))
    """
    small = dict(base_of(model, base).named_parameters())
    large, axes, roles = dict(model.named_parameters()), _axes(model), roles_of(model)
    strange = sorted(set(small) ^ set(large))
    if strange:
        raise DeclarationError(
            f"only one of model and base has a parameter '{strange[0]}'; allowed: a base of the same layers, as many of them "
            "(`depth` says of how many more blocks the rates are to be)",
            "base",
        )
    return {name: _of(name, p, small[name], axes[name], roles.get(name, "")) for name, p in large.items()}


def _of(name: str, p: Tensor, small: Tensor, axes: Axes | None, role: str) -> Growth:
    if p.shape == small.shape:
        return Growth()
    found = f"'{name}' has shape {tuple(p.shape)}, and {tuple(small.shape)} in the base"
    if p.ndim != small.ndim:
        raise DeclarationError(f"{found}; allowed: as many axes", "base")
    if role == "embedding head":
        raise DeclarationError(
            f"'{name}' serves as embedding and as head, which learn at different rates as the width grows; untie them",
            "base",
        )
    if axes is None:
        raise DeclarationError(
            f"{found}, and nothing says which axis is read and which is written; allowed to grow: vectors, and weights of "
            "Linear, convolutions, Embedding, norms, recurrent layers and MultiheadAttention that no two share in different "
            "roles",
            "base",
        )
    ratios = {"in": 1.0, "out": 1.0, "": 1.0}
    for axis, new, old in zip(axes, p.shape, small.shape, strict=True):
        ratios[axis] *= new / old
    if ratios[""] != 1.0:
        raise DeclarationError(f"{found}; allowed: a base that differs in what layers read and write alone", "base")
    return Growth(ratios["in"], ratios["out"])


def _axes(model: nn.Module) -> Mapping[str, Axes | None]:
    """What each axis is, convolutions and recurrent layers included."""
    listed, found = {id(p): name for name, p in model.named_parameters()}, axes_of(model)
    for module in model.modules():
        for own, p in module.named_parameters(recurse=False):
            axes = _more(module, own, p)
            if axes is not None:
                found[listed[id(p)]] = axes
    return found


def _more(module: nn.Module, own: str, p: Tensor) -> Axes | None:
    if p.ndim < 2:
        return None
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return ("in", "out", *[""] * (p.ndim - 2))
    if isinstance(module, nn.modules.conv._ConvNd):
        return ("out", "in", *[""] * (p.ndim - 2))
    known = isinstance(module, nn.RNNBase) or (
        isinstance(module, nn.MultiheadAttention) and own.endswith("proj_weight")
    )
    return ("out", "in") if known else None


def first_values(model: nn.Module, grown: Mapping[str, Growth]) -> dict[str, float]:
    r"""Return by what each parameter's first values are multiplied, where the model's own keep to 1 / fan_in.

    Output weights, whose variance becomes 1 / fan_in^2 of the base's, by fan_in^(-1/2); biases of layers, which torch draws
    in +-fan_in^(-1/2) and muP wants at one size, by fan_in^(1/2) of their weight.

    Parameters
    ----------
    model : Module
    grown : mapping of str to Growth
        As `growth` gives it.
    """
    return {
        name: grown[weight].fan_in ** 0.5 if weight else one.fan_in**-0.5 if one.kind == "output" else 1.0
        for (name, one), weight in zip(grown.items(), _weights_of_biases(model))
    }


def _weights_of_biases(model: nn.Module) -> Iterator[str]:
    """For each parameter the name of the weight whose bias it is; empty for others."""
    listed, found = {id(p): name for name, p in model.named_parameters()}, dict[str, str]()
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and id(weight) in listed and id(bias) in listed:
            found[listed[id(bias)]] = listed[id(weight)]
    for name, _ in model.named_parameters():
        yield found.get(name, "")
