"""Spikes above a running mean, in units of a running deviation: ZClip's."""

from __future__ import annotations

import math

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob, State
from regimes.core.registry import register
from regimes.grad_transforms.detector import Detector, Level


@register
class ZScore(Detector):
    r"""A spike is far above a running mean, in units of a running standard deviation.

    The first n values give their mean mu and variance s. After them, with x* the value, or mu + k^2 sqrt(s) / z in place of
    a spike,

    .. math::
        z = \frac{x - \mu}{\sqrt{s} + 10^{-6}}, \qquad
        \mu \leftarrow \alpha \mu + (1 - \alpha)\, x^*, \quad s \leftarrow \alpha s + (1 - \alpha)(x^* - \mu)^2

    the last with the new mu. A spike enters with what is left of it, so that one does not hide the next; after n values
    that are exactly equal nothing else ever enters. Values that are not finite are left out.

    Parameters
    ----------
    threshold : knob
        k. Default 2.5 (paper): of normal values about one in a hundred is then taken for a spike, which clipping can bear.
    decay : knob
        alpha. Default 0.97 (paper).
    warmup : int
        n. Default 25 (paper).

    References
    ----------
    A. Kumar, L. Owen, N. Roy Chowdhury and F. Güra, ZClip: Adaptive Spike Mitigation for LLM Pre-Training, 2025,
    arXiv:2504.02507; its code.

    Examples
    --------
    >>> detector = ZScore(decay=0.5, warmup=2); state = detector.init()
    >>> for norm in (1.0, 3.0): state = detector.learn(state, norm)
    >>> detector.level(state), detector.height(state, 12.0) > 9.99, round(detector.tamed(state, 12.0), 4)
    (Level(center=2.0, scale=1.0), True, 2.625)
    """

    threshold: Knob = knob(2.5, above=0)
    decay: Knob = knob(0.97, low=0, below=1)
    warmup: int = fixed(25, low=2)

    card = Card(
        title="Spikes above a running mean",
        axes=("rates",),
        source="Kumar et al. 2025, arXiv:2504.02507; its code",
        when="What is above the usual is to be clipped, as ZClip does; for guards that take more than that, ModifiedZScore.",
        shelf="atlas",
        defaults={"threshold": "2.5, paper", "decay": "0.97, paper", "warmup": "25, paper"},
    )

    def init(self) -> State:
        """No value yet."""
        return {"first": [], "mean": 0.0, "variance": 0.0}

    def level(self, state: State) -> Level | None:
        """Running mean and deviation."""
        return Level(state["mean"], math.sqrt(state["variance"])) if len(state["first"]) == self.warmup else None

    def learn(self, state: State, value: float) -> State:
        """Take in a value, or what is left of a spike."""
        if not math.isfinite(value):
            return state
        first, value = state["first"], self.tamed(state, float(value))
        if len(first) < self.warmup:
            first = [*first, value]
            mean = math.fsum(first) / len(first)
            variance = math.fsum((x - mean) ** 2 for x in first) / len(first)
        else:
            mean = self.decay * state["mean"] + (1.0 - self.decay) * value
            variance = self.decay * state["variance"] + (1.0 - self.decay) * (value - mean) ** 2
        return {"first": first, "mean": mean, "variance": variance}
