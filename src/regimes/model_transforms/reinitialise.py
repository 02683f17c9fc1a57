"""Fresh values for parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching


@register
class Reinitialise(ModelTransform):
    """Give parameters fresh values, as their modules' `reset_parameters` makes them.

    Each module draws from its own address (run, phase, module name), so that one pattern more moves no other value.
    Optimizer state is not carried to what is fresh. Buffers of a reset module start anew with it.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of parameter names; of a module that matches in part, the rest keeps its values.

    Raises
    ------
    DeclarationError
        If there is no pattern, one matches nothing, or a parameter's module has no `reset_parameters`.

    References
    ----------
    J. Ash and R. Adams, On Warm-Starting Neural Network Training, NeurIPS 2020, arXiv:1910.08475; I. Alabdulmohsin
    et al., The Impact of Reinitialization on Generalization in Convolutional Neural Networks, 2021, arXiv:2109.00267.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> head = net[1].weight.detach().clone()
    >>> result = Reinitialise("1.weight").fill(net, net, iter(()), Streams(0))
    >>> bool((net[1].weight != head).all()), result.names["1.weight"], result.names["1.bias"]
    (True, None, '1.bias')
    """

    patterns: tuple[str, ...] = fixed()

    keeps_values = True
    card = Card(
        title="Fresh values for some layers",
        axes=("phases",),
        source="Ash and Adams 2020, arXiv:1910.08475; Alabdulmohsin et al. 2021, arXiv:2109.00267",
        when="A new head for a new task; giving back plasticity between phases.",
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example 'head.*'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Nothing but a check that every matching parameter can be made anew."""
        for name, _ in _owners(model, matching(model, self.patterns)):
            _reset(model, name)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Reset the owners of what matches, inner modules first as on construction, and put the rest back."""
        chosen = {id(p) for p in matching(model, self.patterns).values()}
        for name, owner in reversed(_owners(model, matching(model, self.patterns))):
            kept = [(p, p.detach().clone()) for p in owner.parameters() if id(p) not in chosen]
            devices = {p.device for p in owner.parameters() if p.device.type == "cuda"}
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(streams.seed32("reinitialise", name))
                _reset(model, name)()
            with torch.no_grad():
                for p, value in kept:
                    p.copy_(value)
        return TransformResult({name: None if id(p) in chosen else name for name, p in model.named_parameters()})


def _owners(model: nn.Module, chosen: dict[str, Tensor]) -> list[tuple[str, nn.Module]]:
    """The modules that hold a chosen parameter themselves, outer ones first, each once."""
    prefixes = {name.rpartition(".")[0] for name in chosen}
    return [(name, module) for name, module in model.named_modules() if name in prefixes]


def _reset(model: nn.Module, name: str) -> Callable[[], None]:
    module = model.get_submodule(name)
    # nn.MultiheadAttention's has an underscore.
    found = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if found is None:
        raise DeclarationError(
            f"module '{name}' ({type(module).__name__}) holds a matching parameter and has no reset_parameters(); "
            "give it one that fills its parameters",
            "patterns",
        )
    return found
