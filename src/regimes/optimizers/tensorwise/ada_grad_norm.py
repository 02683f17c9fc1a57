"""AdaGrad with one number for all coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Knob, Optimizer, State
from regimes.core.registry import register


@register
class AdaGradNorm(Optimizer):
    r"""Divide the rate by the root of all squared gradient lengths so far.

    .. math::
        s_t = s_{t-1} + \lVert g_t \rVert^2, \qquad
        \theta_t = \theta_{t-1} - \frac{\text{lr}}{\sqrt{s_t}}\, g_t

    with the length over all parameters of the rule (inside Groups, of the group).

    Parameters
    ----------
    lr : knob
        Learning rate, about the distance to go. Default 1.
    initial : knob
        s_0, above 0. Default 1e-8.

    References
    ----------
    R. Ward, X. Wu and L. Bottou, AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes, JMLR 2020,
    arXiv:1806.01811; T. T.-K. Lau, H. Liu and M. Kolar, AdAdaGrad, 2024, arXiv:2402.11215.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> p = {"w": torch.tensor([1.0, 1.0])}; rule = AdaGradNorm(lr=1.0, initial=16.0)
    >>> _ = rule.step(rule.init(p), p, lambda: SimpleNamespace(gradients=(torch.tensor([3.0, 0.0]),)))
    >>> [round(v, 6) for v in p["w"].tolist()]  # 3 / sqrt(16 + 9)
    [0.4, 1.0]
    """

    lr: Knob = knob(1.0, low=0)
    initial: Knob = knob(1e-8, above=0)

    card = Card(
        title="AdaGrad with one number for all coordinates",
        axes=("rates",),
        source="Ward, Wu and Bottou 2020, arXiv:1806.01811",
        when="Theory; a rate that need not be tuned to the smoothness.",
        cost="one number",
        shelf="atlas",
        rows=("adadagrad",),
        defaults={"lr": "ours", "initial": "ours"},
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """No gradient seen."""
        return super().init(parameters) | {"sum": 0.0}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Apply the formula above."""
        gradients = evaluate().gradients
        with torch.no_grad():
            total = state["sum"] + sum(float(norm) ** 2 for norm in torch._foreach_norm(list(gradients)))
            scale = -self.lr / (self.initial + total) ** 0.5
            torch._foreach_add_(list(parameters.values()), list(gradients), alpha=scale)
        return state | {"sum": total}
