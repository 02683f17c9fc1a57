"""An average whose memory grows with the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Averager, Knob, State
from regimes.core.progress import Progress
from regimes.core.registry import register


@register
class PolynomialDecay(Averager):
    r"""Average of all weights so far, the later the more they count.

    .. math::
        \bar\theta_1 = \theta_1, \qquad
        \bar\theta_t = \left(1 - \frac{\gamma + 1}{\gamma + t}\right) \bar\theta_{t-1} + \frac{\gamma + 1}{\gamma + t} \theta_t

    so that theta_i counts in proportion to i (i + 1) ... (i + gamma - 1) for whole gamma, and the mean age is a share
    1 / (gamma + 2) of the run; 0 gives the plain mean.

    Parameters
    ----------
    gamma : knob
        Default 8 (DoG).

    References
    ----------
    O. Shamir and T. Zhang, Stochastic Gradient Descent for Non-smooth Optimization, ICML 2013, arXiv:1212.1824; M. Ivgi,
    O. Hinder and Y. Carmon, DoG is SGD's Best Friend, ICML 2023, arXiv:2302.12022.

    Examples
    --------
    >>> average = PolynomialDecay(gamma=1); state = average.init({"w": torch.zeros(1)})
    >>> for w in (3.0, 6.0, 9.0): state = average.observe(state, {"weights": {"w": torch.tensor([w])}}, Progress())
    >>> average.average(state)["w"].item()  # (1 * 3 + 2 * 6 + 3 * 9) / 6
    7.0
    """

    gamma: Knob = knob(8.0, low=0)

    card = Card(
        title="Average that forgets by a power of the step",
        axes=("phases",),
        source="Shamir and Zhang 2013, arXiv:1212.1824; Ivgi, Hinder and Carmon 2023, arXiv:2302.12022",
        when="A rule without a decaying rate (DoG), for a run whose length is open.",
        cost="one copy of the weights, one pass per step",
        shelf="atlas",
        rows=("hyperparameter-free-how-far",),
        defaults={"gamma": "8, DoG"},
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Nothing averaged yet; a parameter that joins a carried average starts at its own weights."""
        return {"count": 0, "slots": {name: p.detach().clone() for name, p in parameters.items()}}

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Move towards the step's weights."""
        weights = signals["weights"]
        state["count"] += 1
        averaged, share = [state["slots"][name] for name in weights], (self.gamma + 1.0) / (self.gamma + state["count"])
        with torch.no_grad():
            torch._foreach_lerp_(averaged, list(weights.values()), share)
        return state

    def average(self, state: State) -> Mapping[str, Tensor] | None:
        """The average, once there is one."""
        return state["slots"] if state["count"] else None
