"""Spikes above the median, in units of the median distance from it."""

from __future__ import annotations

import math
from statistics import median

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob, State
from regimes.core.registry import register
from regimes.grad_transforms.detector import Detector, Level

#: Of a normal distribution, the standard deviation over the median distance from the median.
_NORMAL = 1.4826
#: A spike rises by more than k times this share of the level, however quiet it was before.
FLOOR = 0.01


@register
class ModifiedZScore(Detector):
    r"""A spike is far above the median of the last values, in units of their median distance from it.

    With m the median of the last w values before x

    .. math::
        z = \frac{x - m}{\sigma + 10^{-6}}, \qquad
        \sigma = \max\left(1.4826 \operatorname{median}_i |x_i - m|,\; 0.01\, |m|\right)

    so that sigma is the standard deviation where values are normal. Every value enters the window, spikes too: below half
    of it they move neither m nor sigma much, and a level that has changed for good is the level after w / 2 values. Values
    that are not finite are left out.

    Parameters
    ----------
    threshold : knob
        k. Default 6: of 100,000 normal values not one was taken for a spike (at 3.5, Iglewicz and Hoaglin's, about one in
        1,900).
    window : int
        w. Default 100, as many steps as PaLM went back before a spike.
    warmup : int
        Values before the first of which something is said, at most w. Default 25, ZClip's.

    Raises
    ------
    DeclarationError
        If the warm-up is longer than the window.

    References
    ----------
    B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, 1993; A. Chowdhery et al., PaLM, 2022,
    arXiv:2204.02311, section 5.1 (spikes of the loss, and how long before them to start anew).

    Examples
    --------
    >>> detector = ModifiedZScore(window=5, warmup=5); state = detector.init()
    >>> for loss in (2.0, 2.2, 1.8, 2.1, 1.9): state = detector.learn(state, loss)
    >>> [round(x, 5) for x in detector.level(state)], round(detector.height(state, 4.0), 2), detector.spikes(state, 2.8)
    ([2.0, 0.14826], 13.49, False)
    """

    threshold: Knob = knob(6.0, above=0)
    window: int = fixed(100, low=2)
    warmup: int = fixed(25, low=2)

    card = Card(
        title="Spikes above a running median",
        axes=("rates",),
        source="Iglewicz and Hoaglin 1993; Chowdhery et al. 2022, arXiv:2204.02311",
        when="A guard is to be told what a spike is, and false alarms cost more than a small spike that is missed.",
        cost="two sorts of the window a step",
        shelf="atlas",
        defaults={"threshold": "6, ours", "window": "100, PaLM's distance", "warmup": "25, ZClip's"},
        deviations=("The scale has a floor, a hundredth of the median: a constant series has no median distance.",),
    )

    def validate(self) -> None:
        """Refuse a warm-up that the window cannot hold."""
        if self.warmup > self.window:
            raise DeclarationError(f"got {self.warmup}; allowed: at most the window ({self.window})", "warmup")

    def init(self) -> State:
        """An empty window."""
        return {"window": []}

    def level(self, state: State) -> Level | None:
        """Median and scaled median distance."""
        values = state["window"]
        if len(values) < self.warmup:
            return None
        center = median(values)
        return Level(center, max(_NORMAL * median([abs(value - center) for value in values]), FLOOR * abs(center)))

    def learn(self, state: State, value: float) -> State:
        """Move the window on."""
        if not math.isfinite(value):
            return state
        return {"window": [*state["window"][-(self.window - 1) :], float(value)]}
