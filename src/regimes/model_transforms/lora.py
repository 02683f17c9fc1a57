"""Low-rank adapters in linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.adapters import LoRALinear, adaptable, draw, plain, put


@register
class LoRA(ModelTransform):
    r"""Freeze the model, and train low-rank matrices beside the weights of linear layers.

    .. math:: y = W x + b + \frac{\alpha}{r} B A \, \mathrm{dropout}(x)

    with A of shape (r, in), drawn as torch draws a layer's weight, and B of shape (out, r), zeros: the network's function
    stays what it was until training begins. The new parameters are called ``lora_A`` and ``lora_B``; all that was there is
    frozen. What else shall train (a head) is named by `Unfreeze` after it. `MergeLoRA` adds the product to the weight again.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of names of linear layers. Default: all.
    rank : int
        r. Default 8.
    alpha : float, optional
        alpha. Default r, so that the product is not scaled.
    dropout : float
        While training, of what A is given. Default 0.

    Raises
    ------
    DeclarationError
        If there is no pattern, one matches no linear layer, or a layer cannot have an adapter: its weight is shared or made
        of other parameters, it stands in MultiheadAttention, or has one.

    References
    ----------
    E. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang and W. Chen, LoRA: Low-Rank Adaptation of Large
    Language Models, ICLR 2022, arXiv:2106.09685.

    Examples
    --------
    >>> net = LoRA("1", rank=2).structure(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)))
    >>> [(name, tuple(p.shape)) for name, p in net.named_parameters() if p.requires_grad]
    [('1.lora_A', (2, 4)), ('1.lora_B', (3, 2))]
    """

    patterns: tuple[str, ...] = fixed(("*",))
    rank: int = fixed(8, low=1)
    alpha: float | None = fixed(None, above=0)
    dropout: float = fixed(0.0, low=0, below=1)

    keeps_values = True
    card = Card(
        title="Low-rank adapters",
        axes=("phases",),
        source="Hu et al. 2022, arXiv:2106.09685",
        when="A trained network is to be adapted to a task with little memory, or few examples.",
        cost="two thin products per layer forward; gradients and moments of the adapters alone",
        rows=("allora",),
        defaults={"rank": "8, usual", "alpha": "the rank: no scale", "dropout": "0"},
        deviations=(
            "Linear layers only, not embeddings and convolutions.",
            "A is drawn uniformly in +-in^(-1/2), as the authors' code does it; the paper says Gaussian.",
        ),
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example '*.attention.*'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Freeze all, and put an adapter into each layer that matches."""
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        places = adaptable(model, self.patterns)
        model.requires_grad_(False)
        for name in places:
            linear: Any = model.get_submodule(name)
            model = put(model, name, LoRALinear(linear, self.rank, scale, self.dropout))
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Draw the A of each layer from its own address."""
        new = set[str]()
        for name in adaptable(before, self.patterns):
            layer: Any = model.get_submodule(name)
            draw(layer, torch.Generator().manual_seed(streams.seed32("lora", name)))
            new |= {f"{name}.{own}".lstrip(".") for own in ("lora_A", "lora_B")}
        return TransformResult({name: None if name in new else name for name, _ in model.named_parameters()})


@register
class MergeLoRA(ModelTransform):
    r"""Add every adapter's product to its weight, W + s B A, and leave plain linear layers.

    The network's function stays what it was in evaluation mode, to rounding. Weights stay frozen, as `LoRA` left them:
    `Unfreeze` after it trains them.

    Raises
    ------
    DeclarationError
        If the model has no layer that `LoRA` made.

    References
    ----------
    E. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv:2106.09685.

    Examples
    --------
    >>> MergeLoRA().structure(LoRA(rank=1).structure(nn.Sequential(nn.Linear(2, 3))))
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
    )
    """

    card = Card(
        title="Merge low-rank adapters into the weights",
        axes=("phases",),
        source="Hu et al. 2022, arXiv:2106.09685",
        when="After adapting: no cost at inference, or a next phase that trains the weights.",
        rows=("allora",),
    )

    def structure(self, model: nn.Module) -> nn.Module:
        """Put plain layers in the places of adapted ones."""
        for name in _adapted(model):
            layer: Any = model.get_submodule(name)
            model = put(model, name, plain(layer))
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Write the sums."""
        with torch.no_grad():
            for name in _adapted(before):
                layer: Any = before.get_submodule(name)
                weight: Any = model.get_submodule(name).weight
                weight.copy_(layer.merged())
        return TransformResult({name: name for name, _ in model.named_parameters()})


def _adapted(model: nn.Module) -> list[str]:
    found = [name for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    if not found:
        raise DeclarationError("the model has no adapter to merge; LoRA makes them on entering an earlier phase")
    return found
