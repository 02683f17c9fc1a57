"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Averager, Knob, State
from regimes.core.progress import Progress
from regimes.core.registry import register


@register
class EMA(Averager):
    r"""Exponential moving average, started at the first weights.

    .. math:: \bar\theta_1 = \theta_1, \qquad \bar\theta_t = d\,\bar\theta_{t-1} + (1 - d)\,\theta_t

    Parameters
    ----------
    decay : knob
        d, below 1: at 1 the average never moves; a schedule may end there. Default 0.999, torch's
        `get_ema_multi_avg_fn`.

    Raises
    ------
    DeclarationError
        If `decay` is 1.

    References
    ----------
    B. Polyak and A. Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; torch.optim.swa_utils.

    Examples
    --------
    >>> ema = EMA(0.5); state = ema.init({"w": torch.zeros(1)})
    >>> for w in (1.0, 2.0): state = ema.observe(state, {"weights": {"w": torch.tensor([w])}}, Progress())
    >>> ema.average(state)["w"].item()
    1.5
    """

    decay: Knob = knob(0.999, low=0, high=1)

    card = Card(
        title="Exponential moving average of weights",
        axes=("phases",),
        source="Polyak and Juditsky 1992; torch.optim.swa_utils",
        when="Evaluation weights smoother than the last step's.",
        cost="one copy of the weights, one pass per step",
        defaults={"decay": "0.999, torch"},
    )

    def validate(self) -> None:
        """Refuse an average that never leaves the first weights."""
        if self.decay == 1.0:
            raise DeclarationError(
                "got 1.0, with which the average stays at the first weights; allowed: a finite number >= 0 and < 1, or a "
                "schedule that ends at 1",
                "decay",
            )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Nothing averaged yet; a parameter that joins a carried average starts at its own weights."""
        return {"count": 0, "slots": {name: p.detach().clone() for name, p in parameters.items()}}

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Move towards the step's weights."""
        weights = signals["weights"]
        averaged = [state["slots"][name] for name in weights]
        with torch.no_grad():
            if state["count"] == 0:
                torch._foreach_copy_(averaged, list(weights.values()))
            else:
                torch._foreach_lerp_(averaged, list(weights.values()), 1.0 - self.decay)
        state["count"] += 1
        return state

    def average(self, state: State) -> Mapping[str, Tensor] | None:
        """The average, once there is one."""
        return state["slots"] if state["count"] else None
