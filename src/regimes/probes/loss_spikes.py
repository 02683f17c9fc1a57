"""How often has the loss jumped?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.kinds import State
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.grad_transforms.detector import Detector
from regimes.grad_transforms.modified_z_score import ModifiedZScore
from regimes.probes.base import ViewProbe
from regimes.probes.view import View


@register
class LossSpikes(ViewProbe):
    """Spikes of the training loss so far.

    Values: ``count`` of the steps whose loss was a spike; once there is one, the ``step`` of the last and its ``height``,
    in units of the detector's scale. It hears the loss of every step, whatever its cadence; skipped steps have none.

    Parameters
    ----------
    detector : Detector
        Says what a spike is. Default ``ModifiedZScore()``.
    every : Duration
        Cadence of the values. Default 5% of the phase.

    Examples
    --------
    >>> probe = LossSpikes(ModifiedZScore(window=4, warmup=3)); memory = probe.init()
    >>> for step, loss in enumerate((1.0, 1.2, 0.9, 9.0, 1.1)):
    ...     memory = probe.observe(memory, {"loss": loss}, Progress(step=step))
    >>> {name: round(value, 2) for name, value in probe.found(memory).items()}
    {'count': 1.0, 'step': 3.0, 'height': 53.96}
    """

    detector: Detector = fixed(ModifiedZScore())

    card = Card(
        title="Spikes of the loss",
        axes=("rates",),
        source="Chowdhery et al. 2022, arXiv:2204.02311; Iglewicz and Hoaglin 1993",
        when="Does a run need a guard, and did one help? It only looks, so there is no claim to re-test.",
        cost="two sorts of a window a step",
        shelf="atlas",
    )

    def init(self) -> State:
        """The detector's memory, and no spike."""
        return {"detector": self.detector.init(), "count": 0, "step": 0, "height": 0.0}

    def observe(self, state: State, signals: Mapping[str, Any], at: Progress) -> State:
        """Judge the loss of a step, then learn it."""
        loss = signals.get("loss")
        if loss is None:
            return state
        if self.detector.spikes(state["detector"], loss):
            height = self.detector.height(state["detector"], loss)
            state = state | {"count": state["count"] + 1, "step": at.step, "height": height}
        return state | {"detector": self.detector.learn(state["detector"], loss)}

    def found(self, memory: State) -> dict[str, float]:
        """Return the values that a memory holds."""
        last = {"step": float(memory["step"]), "height": float(memory["height"])} if memory["count"] else {}
        return {"count": float(memory["count"]), **last}

    def measure(self, view: View) -> dict[str, float]:
        """Return the spikes so far; outside a run there are none."""
        return self.found(self.init() if view.memory is None else dict(view.memory))
