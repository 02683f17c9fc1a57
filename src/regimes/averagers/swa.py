"""Stochastic weight averaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.averagers import cadence
from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Averager, Span, State
from regimes.core.progress import Progress
from regimes.core.registry import register


@register
class SWA(Averager):
    r"""Equal average of all weights taken from `start` on.

    With theta_n the n-th weights taken

    .. math:: \bar\theta_1 = \theta_1, \qquad
              \bar\theta_{n+1} = \bar\theta_n + \frac{\theta_{n+1} - \bar\theta_n}{n + 1}

    Before `start` there is no average, and the raw weights are evaluated.

    Parameters
    ----------
    start : Duration
        Weights are taken after the first step that begins at or past it. Default "75%" (Izmailov et al.: after 75% of
        the usual budget).
    every : Duration
        How often from there on. Default "1%"; the paper takes them once an epoch, or at the end of each cycle of a
        cyclic rate.

    Raises
    ------
    DeclarationError
        If a Duration is in epochs or FLOPs, which a position does not show, `every` is nothing, or `start` is the end; on
        meeting a phase, if one is as long as the phase or longer (where its unit and the budget's compare; else the result
        says when nothing was taken).

    References
    ----------
    P. Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018,
    arXiv:1803.05407; torch.optim.swa_utils.AveragedModel.

    Examples
    --------
    >>> swa = SWA(start="50%", every="1 steps"); state = swa.init({"w": torch.zeros(1)})
    >>> for n, w in enumerate((8.0, 1.0, 2.0, 6.0)):
    ...     at = Progress(step=n, phase_step=n, fraction=n / 4)
    ...     state = swa.observe(state, {"weights": {"w": torch.tensor([w])}}, at)
    >>> swa.average(state)["w"].item()
    4.0
    """

    start: Duration = fixed(Duration(75.0, "%"))
    every: Duration = fixed(Duration(1.0, "%"))

    card = Card(
        title="Stochastic weight averaging",
        axes=("phases",),
        source="Izmailov et al. 2018, arXiv:1803.05407; torch.optim.swa_utils",
        when="The end of training at a constant, high or cyclic rate.",
        cost="one copy of the weights",
        defaults={"start": "75%, paper", "every": "1%; the paper's epoch depends on the data"},
        deviations=("BatchNorm's statistics stay those of the trained weights; the paper measures them anew.",),
    )

    def validate(self) -> None:
        """Refuse units that a position does not show."""
        cadence.check(self.start, "start")
        if self.start.unit == "%" and self.start.value >= 100.0:
            raise DeclarationError(f"got '{self.start}', where no step begins; allowed: less than 100%", "start")
        cadence.check(self.every, "every", more_than_nothing=True)

    def check(self, span: Span) -> None:
        """Refuse a start that is never reached, and a period of which only the first weights would be taken."""
        cadence.refuse_never(self.start, "start", span)
        cadence.refuse_never(self.every, "every", span)

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Nothing averaged yet; a parameter that joins a carried average starts at its own weights."""
        slots = {name: p.detach().clone() for name, p in parameters.items()}
        return {"count": 0, **cadence.fresh(), "slots": slots}

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Take the step's weights, where they are due."""
        if not cadence.due(state, at, self.start, self.every):
            return state
        weights = signals["weights"]
        averaged = [state["slots"][name] for name in weights]
        with torch.no_grad():
            if state["count"] == 0:
                torch._foreach_copy_(averaged, list(weights.values()))
            else:
                torch._foreach_lerp_(averaged, list(weights.values()), 1.0 / (state["count"] + 1))
        state["count"] += 1
        return state

    def average(self, state: State) -> Mapping[str, Tensor] | None:
        """The average, once there is one."""
        return state["slots"] if state["count"] else None
