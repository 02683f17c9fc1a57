"""A rule that goes back to where it was before a spike, and on with other data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register
from regimes.grad_transforms.detector import Detector, length
from regimes.grad_transforms.modified_z_score import ModifiedZScore
from regimes.optimizers.tensorwise.sgd import SGD
from regimes.optimizers.watched import Watched


class _Spike(Exception):
    """Breaks off the base rule's step."""


@register
class Rewind(Optimizer):
    """Where the loss spikes, put back weights and memory of `back` updates before, and go on with the data that follow.

    Every `back` updates the weights, the model's buffers and the base rule's state are copied, and the last two copies are
    kept. Where a step's loss is a spike, the step is not made; the older copy is put back, so that all of the last `back`
    updates, at most 2 `back` - 1, are as if they had never been, and none of their batches is drawn again. Position,
    schedules and budget go on: those steps are spent, as skipped ones are, and their work counts. The record of the step
    holds ``rewound``, how many updates are gone. The detector begins anew: during its warm-up nothing is put back.

    Parameters
    ----------
    base : Optimizer
        Any rule, or Groups.
    detector : Detector
        Says what a spike is. Default ``ModifiedZScore()``.
    watch : "loss" or "gradient_norm"
        The loss of a step's first evaluation, or the norm of its gradient as the rule sees it, after gradient transforms.
        Default "loss".
    back : int
        Default 100, "roughly" PaLM's.

    Notes
    -----
    What others have learned from the steps that are gone (an average of the weights, a loss's or a sampler's memory, a
    controller) stays. A loss that is not finite is skipped by the run, and rewinds nothing.

    Raises
    ------
    DeclarationError
        If the gradient of a rule that makes none is to be watched.

    References
    ----------
    A. Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, arXiv:2204.02311, section 5.1.

    Examples
    --------
    >>> Rewind(SGD(lr=0.1), back=20)
    Rewind(SGD(lr=0.1), back=20)
    """

    base: Optimizer = fixed()
    detector: Detector = fixed(ModifiedZScore())
    watch: Literal["loss", "gradient_norm"] = fixed("loss")
    back: int = fixed(100, low=1)

    single_evaluation = False
    weight_slots = ("weight",)
    copies = ("older", "newer")
    card = Card(
        title="Go back before a spike, and on with other data",
        axes=("rates", "phases"),
        source="Chowdhery et al. 2022, arXiv:2204.02311, section 5.1",
        when="Spikes from which the loss does not come back by itself for long.",
        cost="two copies of weights and memory; where there is a spike, the updates that are gone",
        shelf="atlas",
        defaults={"back": "100, PaLM", "detector": "ours"},
        deviations=(
            "PaLM's step count went back with the weights; here the position goes on, and the updates that are gone are spent.",
            "PaLM left out 200 to 500 batches, some of them after the spike; here those of the updates that are gone.",
        ),
        claims=(
            Claim(
                "AdamW whose gradient is a thousand times as large on one step in a hundred ends at a loss lower by 0.05 nats "
                "with it, going back 10 updates, than alone, each at the best of three rates.",
                {"seeds": 6, "margin": 0.05, "scale": "char_lm, 2 layers of width 32, 300 steps of 16 windows of 32"},
                paper_scale="PaLM 540B: about 20 spikes of its own",
                measure="regimes.claims.spikes:rewinding",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[Rewind]:
        """Around momentum, with a threshold that small steps reach."""
        rule = SGD(lr=0.05, momentum=0.9)
        return [cls(rule, ModifiedZScore(0.5, window=4, warmup=2), back=2), cls(rule, watch="gradient_norm", back=3)]

    def validate(self) -> None:
        """Refuse a rule without gradients whose gradient is to be watched."""
        if self.watch == "gradient_norm" and not self.base.uses_gradients:
            raise DeclarationError(
                f"got 'gradient_norm', but {type(self.base).__name__} makes no gradient; allowed: 'loss'", "watch"
            )

    @property
    def uses_gradients(self) -> bool:  # type: ignore[override]
        """As the base rule."""
        return self.base.uses_gradients

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The base rule's state, the number of updates, the detector's memory, and two copies."""
        state: State = {"base": self.base.init(parameters), "step": 0, "detector": self.detector.init()}
        return state | {name: kept(state, parameters) for name in self.copies}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Let the base rule make its step, or put the older copy back."""
        seen: list[float] = []

        def look(evaluation: Any, final: bool) -> None:
            if not seen and (final or self.watch == "loss"):
                seen.append(evaluation.loss if self.watch == "loss" else length(evaluation.gradients))
                if self.detector.spikes(state["detector"], seen[0]):
                    raise _Spike

        try:
            state["base"] = self.base.step(state["base"], parameters, Watched(evaluate, look))
        except _Spike:
            evaluate.log("rewound", state["step"] - state["older"]["step"])
            return self._rewound(state, parameters)
        state["step"] += 1
        state["detector"] = self.detector.learn(state["detector"], seen[0])
        if state["step"] % self.back == 0:
            state["older"], state["newer"] = state["newer"], kept(state, parameters)
        return state

    def _rewound(self, state: State, parameters: Mapping[str, Tensor]) -> State:
        older = state["older"]
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(older["slots"][name]["weight"])
        places = getattr(parameters, "buffers", {})
        for name, value in older["buffers"].items():
            places[name].put(value)
        return {
            "base": copied(older["base"]),
            "step": older["step"],
            "detector": self.detector.init(),
            "older": older,
            "newer": copied(older),
        }

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()


def kept(state: State, parameters: Mapping[str, Tensor]) -> State:
    """Return a copy of weights, buffers and a rule's state."""
    places = getattr(parameters, "buffers", {})
    return {
        "base": copied(state["base"]),
        "step": state["step"],
        "slots": {name: {"weight": p.detach().clone()} for name, p in parameters.items()},
        "buffers": {name: b.detach().clone() for name, place in places.items() if (b := place.get()) is not None},
    }


def copied(state: Any) -> Any:
    """Return a deep copy of a state without its caches."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items() if not name.startswith("cache:")}
    return [copied(value) for value in state] if isinstance(state, list) else state
