"""Distance over gradients: SGD whose rate is told by how far it has come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob, Optimizer, State
from regimes.core.registry import register
from regimes.grad_transforms.detector import length


@register
class DoG(Optimizer):
    r"""SGD at the rate that is the largest distance from the start over the root of all squared gradient lengths.

    .. math::
        \bar r_t = \max\left(r_\epsilon (1 + \lVert \theta_0 \rVert),\; \max_{i \le t} \lVert \theta_i - \theta_0 \rVert\right),
        \qquad
        \theta_{t+1} = \theta_t - \text{lr}\, \frac{\bar r_t}{\sqrt{\sum_{i \le t} \lVert g_i \rVert^2 + \epsilon}}\, g_t

    with lengths over all parameters of the rule (inside Groups, of the group), and g the gradient with weight_decay times the
    weight added. The authors judge the average `PolynomialDecay` of the weights, as no rate decays.

    Parameters
    ----------
    lr : knob
        A factor, which the authors leave at 1.
    r_eps : float
        First distance, relative. Default 1e-6; 1e-4 is theirs for batch norms.
    eps : knob
        epsilon. Default 1e-8.
    weight_decay : knob
        Default 0.

    References
    ----------
    M. Ivgi, O. Hinder and Y. Carmon, DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule, ICML 2023,
    arXiv:2302.12022; their code.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> p = {"w": torch.tensor([3.0])}; rule = DoG(r_eps=0.5, eps=0.0); state = rule.init(p)
    >>> for g in (2.0, 4.0):
    ...     state = rule.step(state, p, lambda: SimpleNamespace(gradients=(torch.tensor([g]),)))
    ...     round(p["w"].item(), 4)  # 3 - 2 * 2 / 2, then 1 - 2 * 4 / sqrt(20)
    1.0
    -0.7889
    """

    lr: Knob = knob(1.0, low=0)
    r_eps: float = fixed(1e-6, above=0)
    eps: Knob = knob(1e-8, low=0)
    weight_decay: Knob = knob(0.0, low=0)

    weight_slots = ("initial",)
    card = Card(
        title="SGD whose rate is told by how far it has come",
        axes=("rates",),
        source="Ivgi, Hinder and Carmon 2023, arXiv:2302.12022; their code",
        when="No rate is known, and none is to be tuned.",
        cost="one copy of the weights, two passes a step",
        shelf="atlas",
        rows=("hyperparameter-free-how-far",),
        defaults={
            "lr": "1, paper",
            "r_eps": "1e-6, paper",
            "eps": "1e-8, authors' code",
            "weight_decay": "0, authors' code",
        },
        deviations=("Layerwise, the authors' L-DoG, is Groups of one rule for each parameter.",),
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The first weights, the first distance, and no gradient."""
        with torch.no_grad():
            distance = self.r_eps * (1.0 + length(list(parameters.values())))
        slots = {name: {"initial": p.detach().clone()} for name, p in parameters.items()}
        return {"slots": slots, "distance": distance, "sum": 0.0}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Apply the formula above."""
        gradients, tensors = list(evaluate().gradients), list(parameters.values())
        with torch.no_grad():
            if self.weight_decay:
                gradients = list(torch._foreach_add(gradients, tensors, alpha=self.weight_decay))
            moved = torch._foreach_sub(tensors, [state["slots"][name]["initial"] for name in parameters])
            distance = max(state["distance"], length(moved))
            total = state["sum"] + length(gradients) ** 2
            if total + self.eps > 0.0:
                rate = self.lr * distance / math.sqrt(total + self.eps)
                torch._foreach_add_(tensors, gradients, alpha=-rate)
        return state | {"distance": distance, "sum": total}
