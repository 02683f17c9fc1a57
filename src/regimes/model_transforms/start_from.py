"""A phase that starts from given weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult, Weights
from regimes.core.randomness import Streams
from regimes.core.registry import register


@register
class StartFrom(ModelTransform):
    """Give the model the weights of another run.

    Optimizer state is not carried to what is given anew.

    Parameters
    ----------
    weights : Weights
        For example ``FromRun("runs/pretrained")`` or a `Soup`.

    Raises
    ------
    DeclarationError
        If a name or a shape is not the model's, naming it.

    Examples
    --------
    >>> import regimes as rg
    >>> rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="1 epochs", on_entry=StartFrom(rg.FromRun("runs/base")))
    Regime(optimizer=SGD(lr=0.1), batch_size=8, on_entry=[StartFrom(FromRun('runs/base'))], budget='1 epochs')
    """

    weights: Weights = fixed()

    keeps_values = True
    card = Card(
        title="Start from the weights of another run",
        axes=("phases",),
        source="this package",
        when="Fine-tuning; going on from a soup.",
    )

    def check(self, model: nn.Module) -> None:
        """Refuse what does not fit."""
        self._fitting(model)

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Copy what is given."""
        given, own = self._fitting(model), model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in given.items():
                own[name].copy_(value)
        return TransformResult({name: None for name, _ in model.named_parameters()})

    def _fitting(self, model: nn.Module) -> Mapping[str, Tensor]:
        given, own = self.weights.load(), model.state_dict(keep_vars=True)
        for name in sorted(set(given) ^ set(own)) or [n for n in own if own[n].shape != given[n].shape]:
            where = (
                "the model has no" if name not in own else "they have no" if name not in given else "another shape of"
            )
            raise DeclarationError(f"got {self.weights!r}, which does not fit: {where} '{name}'", "weights")
        return given
