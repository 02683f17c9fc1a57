"""A loss, and a price on experts that are used unequally."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob, Loss, State
from regimes.core.listening import heard
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.next_token import NextToken
from regimes.model_transforms.experts import MixtureOfExperts


@register
class LoadBalance(Loss):
    r"""Add what keeps a router from sending all tokens to a few experts.

    .. math:: \ell_u + \alpha \sum_{\text{layers}} E \sum_e f_e P_e

    with f_e the share of a layer's choices that fell on expert e and P_e the mean of its probability, over the tokens of
    the micro-batch. A layer adds alpha where all experts are used alike, up to alpha E / top_k where a few are. Every
    unit bears the same, so the mean over units is the paper's loss.

    Parameters
    ----------
    loss : Loss
        What is added to.
    weight : knob
        alpha. Default 0.01, the paper's.

    Raises
    ------
    DeclarationError
        If the model has no layer of experts.

    References
    ----------
    W. Fedus, B. Zoph and N. Shazeer, Switch Transformers, JMLR 2022, arXiv:2101.03961.

    Examples
    --------
    >>> import torch
    >>> from regimes.losses import MSE
    >>> model = nn.Sequential(MixtureOfExperts(nn.Linear(2, 1), 2, experts=4, top_k=2))
    >>> with torch.no_grad(): _ = model[0].router.weight.zero_()
    >>> batch = (torch.randn(5, 2), torch.randn(5, 1))
    >>> (LoadBalance(MSE(), weight=0.5)(model, batch).values - MSE()(model, batch).values).detach().round(decimals=4)
    tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000])
    """

    loss: Loss = fixed()
    weight: Knob = knob(0.01, low=0)

    separable = False
    card = Card(
        title="Equal load for experts",
        axes=("regime",),
        source="Fedus et al. 2022, arXiv:2101.03961",
        when="Training mixtures of experts, as `Upcycle` makes them.",
        shelf="atlas",
        defaults={"weight": "0.01, the paper's"},
        deviations=("Switch sends a token to one expert; with more, f counts each choice as a share of all.",),
    )

    @classmethod
    def example(cls) -> LoadBalance:
        """At a weight that shows."""
        return cls(NextToken(), weight=0.5)

    @property
    def asks(self) -> bool:
        """Whether the loss added to reads what data that ask the model are told."""
        return self.loss.asks

    def init(self) -> State:
        """Return the memory of the loss added to."""
        return {"loss": self.loss.init()}

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """Listen to the routers during one forward, and add their imbalance to each unit."""
        layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
        if not layers:
            raise DeclarationError("the model has no layer of experts; Upcycle makes them on entering a phase", "loss")
        found: list[Tensor] = []
        with contextlib.ExitStack() as listening:
            for layer in layers:
                handle = layer.router.register_forward_hook(_into(found, layer))
                listening.callback(handle.remove)
            units = self.loss.units(state["loss"], model, batch)
        imbalance = sum(found, start=units.values.new_zeros(()))
        values = units.values + self.weight * imbalance.to(units.values.dtype)
        return UnitLosses(values, units.weights, units.examples)


def _into(found: list[Tensor], layer: MixtureOfExperts) -> Any:
    def hook(router: nn.Module, inputs: Any, logits: Tensor) -> None:
        if heard():
            found.append(layer.imbalance(logits))

    return hook
