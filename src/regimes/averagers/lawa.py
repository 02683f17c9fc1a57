"""Latest weight averaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.averagers import cadence
from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.kinds import Averager, Span, State
from regimes.core.progress import Progress
from regimes.core.registry import register


@register
class LAWA(Averager):
    r"""Equal average of the latest k weights, taken once every so often.

    With theta_n the n-th weights taken and k the window

    .. math:: \bar\theta_n = \frac{1}{\min(n, k)} \sum_{i = \max(1, n - k + 1)}^{n} \theta_i

    Parameters
    ----------
    window : int
        k. Default 6; the paper averages a handful.
    every : Duration
        Weights are taken after the first step of the phase, and then after each first one that begins at or past
        another whole `every`. Default "1%"; the paper takes them at the end of each epoch.

    Raises
    ------
    DeclarationError
        If `every` is in epochs or FLOPs, which a position does not show, is nothing, or is the whole phase or more.

    References
    ----------
    J. Kaddour, Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging, 2022,
    arXiv:2209.14981.

    Examples
    --------
    >>> lawa = LAWA(window=2, every="1 steps"); state = lawa.init({"w": torch.zeros(1)})
    >>> for n, w in enumerate((8.0, 1.0, 2.0)):
    ...     state = lawa.observe(state, {"weights": {"w": torch.tensor([w])}}, Progress(step=n, phase_step=n))
    >>> lawa.average(state)["w"].item()
    1.5
    """

    window: int = fixed(6, low=1)
    every: Duration = fixed(Duration(1.0, "%"))

    card = Card(
        title="Latest weight averaging",
        axes=("phases",),
        source="Kaddour 2022, arXiv:2209.14981",
        when="Good weights in the middle of training, before the rate has fallen.",
        cost="a window of copies of the weights; their mean is made anew for each validation",
        defaults={"window": "6, ours", "every": "1%; the paper's epoch depends on the data"},
    )

    def validate(self) -> None:
        """Refuse units that a position does not show."""
        cadence.check(self.every, "every", more_than_nothing=True)

    def check(self, span: Span) -> None:
        """Refuse a period of which only the first weights would be taken."""
        cadence.refuse_never(self.every, "every", span)

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Nothing taken yet; a parameter that joins a carried average has been at its own weights all along."""
        slots = {name: torch.stack([p.detach()] * self.window) for name, p in parameters.items()}  # (k, *shape)
        return {"count": 0, **cadence.fresh(), "slots": slots}

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Take the step's weights in place of the oldest, where they are due."""
        if not cadence.due(state, at, Duration(0.0, "%"), self.every):
            return state
        place = state["count"] % self.window
        with torch.no_grad():
            for name, weights in signals["weights"].items():
                state["slots"][name][place].copy_(weights)
        state["count"] += 1
        return state

    def average(self, state: State) -> Mapping[str, Tensor] | None:
        """The mean of what the window holds, once it holds something."""
        filled = min(state["count"], self.window)
        return {name: slot[:filled].mean(0) for name, slot in state["slots"].items()} if filled else None
