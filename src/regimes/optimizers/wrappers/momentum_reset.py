"""A rule that forgets its momentum every so often, or after a spike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core import fields
from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register
from regimes.grad_transforms.detector import Detector, length
from regimes.grad_transforms.modified_z_score import ModifiedZScore
from regimes.optimizers.given import Given, refuse_several
from regimes.optimizers.groups import Groups
from regimes.optimizers.tensorwise.rule import Tensorwise
from regimes.optimizers.tensorwise.sgd import SGD
from regimes.optimizers.tensorwise.warmth import warmth


@register
class MomentumReset(Optimizer):
    r"""Let the base rule begin some updates with slots of zero, and at a small rate that rises again.

    An update begins so if its number t is a multiple of `every`, or if the gradient before it was a spike: what the spike
    has left in the momentum is then gone. With c updates since the last such one

    .. math::
        m \leftarrow 0 \; (c = 0), \qquad
        \text{lr} \leftarrow \text{lr} \left(1 - \frac{0.99}{2} \left(1 + \cos \frac{\pi c}{N + 1}\right)\right) \; (c < N)

    Counts of updates go on, so that corrections of bias do not begin anew: after a reset a step of AdamW is longer by up to
    (1 - beta_1) / sqrt(1 - beta_2), which the small rate makes up for. The record holds ``momentum_reset`` where one was.

    Parameters
    ----------
    base : Optimizer
        A rule that updates every tensor by itself, or Groups of such.
    every : int or None
        Updates from reset to reset. Default 500, as `SPAM`; None for none but after spikes.
    detector : Detector or None
        Says which gradient's norm is a spike, as the base rule sees it: after gradient transforms. Default None.
    warmup_steps : int
        N. Default 150, as `SPAM`.
    slots : tuple of str
        Which slots are momentum. Default those of momentum and of second moments by torch's names.

    Notes
    -----
    `SPAM` is this around `AdamW` without decay, with entries clipped besides.

    Raises
    ------
    DeclarationError
        If the base rule is no such rule, or has no rate ``lr``; if nothing would ever reset it; on meeting a model, if it
        keeps none of the slots.

    References
    ----------
    T. Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training, ICLR 2025, arXiv:2501.06842.

    Examples
    --------
    >>> MomentumReset(SGD(lr=0.1, momentum=0.9), every=None, detector=ModifiedZScore(), warmup_steps=0)
    MomentumReset(SGD(lr=0.1, momentum=0.9), every=None, detector=ModifiedZScore(), warmup_steps=0)
    """

    base: Optimizer = fixed()
    every: int | None = fixed(500, low=1)
    detector: Detector | None = fixed(None)
    warmup_steps: int = fixed(150, low=0)
    slots: tuple[str, ...] = fixed(("momentum_buffer", "second_momentum_buffer", "exp_avg", "exp_avg_sq"))

    card = Card(
        title="Momentum that is forgotten every so often, or after a spike",
        axes=("rates", "phases"),
        source="Huang et al. 2025, arXiv:2501.06842",
        when="A spike stays in the momentum for long after its batch.",
        cost="free; with a detector one pass over the gradients",
        shelf="atlas",
        rows=("stable-spam",),
        defaults={"every": "500, as SPAM", "warmup_steps": "150, the authors' code", "slots": "ours"},
        deviations=(
            "Resets after spikes are ours; the paper resets by the clock.",
            "Decay, too, goes at the small rate; in the authors' code it does not.",
        ),
        claims=(
            Claim(
                "AdamW whose gradient is a thousand times as large on one step in a hundred ends at a loss lower by 0.05 nats "
                "where each spike resets its moments than alone, each at the best of three rates.",
                {"seeds": 6, "margin": 0.05, "scale": "char_lm, 2 layers of width 32, 300 steps of 16 windows of 32"},
                paper_scale="LLaMA of 60 M to 1 B parameters, resets every 500 steps",
                measure="regimes.claims.spikes:resetting",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[MomentumReset]:
        """Every third update; after spikes; and inside Groups of one."""
        momentum = SGD(lr=0.05, momentum=0.9)
        return [
            cls(momentum, every=3, warmup_steps=2),
            cls(momentum, every=None, detector=ModifiedZScore(0.5, window=4, warmup=2), warmup_steps=0),
        ]

    def validate(self) -> None:
        """Refuse rules whose slots or rates are not where this looks for them, and a reset that never comes."""
        refuse_several(self.base, "MomentumReset", "base")
        for rule in rules_of(self.base):
            if not isinstance(rule, Tensorwise) or "lr" not in fields.table(type(rule)):
                raise DeclarationError(
                    f"got {rule!r}; allowed: a rule that updates every tensor by itself at a rate lr, for example AdamW(), or "
                    "Groups of such",
                    "base",
                )
        if self.every is None and self.detector is None:
            raise DeclarationError("got None, and no detector: nothing would ever be reset; allowed: a number", "every")

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The base rule's state; updates made, and since the last reset; whether the next begins with one."""
        base = self.base.init(parameters)
        if not any(name in slot for slot in slots_of(base) for name in self.slots):
            kept = sorted({name for slot in slots_of(base) for name in slot if name != "step"})
            raise DeclarationError(
                f"got {list(self.slots)}, but {self.base!r} keeps {', '.join(kept) or 'nothing'}; allowed: slots that it keeps",
                "slots",
            )
        memory = {} if self.detector is None else {"detector": self.detector.init()}
        return {"base": base, "step": 0, "since": None, "due": False} | memory

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, reset where it is due, then let the base rule make its update."""
        evaluation = evaluate()
        state["step"] += 1
        if state["due"] or (self.every is not None and state["step"] % self.every == 0):
            self._reset(state, evaluate)
        elif state["since"] is not None:
            state["since"] += 1
        share = 1.0 if state["since"] is None else warmth(state["since"], self.warmup_steps)
        rule = self.base if share == 1.0 else at_share(self.base, share)
        if self.detector is not None:
            norm = length(evaluation.gradients)
            state["due"] = self.detector.spikes(state["detector"], norm)
            state["detector"] = self.detector.learn(state["detector"], norm)
        state["base"] = rule.step(state["base"], parameters, Given(evaluate, evaluation, "base"))
        return state

    def _reset(self, state: State, evaluate: Any) -> None:
        with torch.no_grad():
            for slot in slots_of(state["base"]):
                for name in self.slots:
                    if name in slot:
                        slot[name].zero_()
        state["since"], state["due"] = 0, False
        evaluate.log("momentum_reset", 1.0)

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()


def rules_of(rule: Optimizer) -> Iterator[Optimizer]:
    """Yield the rules that make the updates: those of Groups, the base of a wrapper, or the rule itself."""
    inner = [part for _, part in rule.parts() if isinstance(part, Optimizer)]
    if not inner:
        yield rule
    for part in inner:
        yield from rules_of(part)


def slots_of(state: State) -> Iterator[dict[str, Any]]:
    """Yield the slots of every parameter in a rule's state, those of its parts included."""
    for name, value in state.items():
        if name == "slots":
            yield from value.values()
        elif isinstance(value, dict):
            yield from slots_of(value)


def at_share(rule: Any, share: float) -> Any:
    """Return a rule with all its rates, those of its parts included, times a number.

    Examples
    --------
    >>> at_share(SGD(lr=0.5), 0.1).lr
    0.05
    """
    if isinstance(rule, Groups):
        groups = tuple(group.with_values({"rule": at_share(group.rule, share)}) for group in rule.groups)
        return rule.with_values({"groups": groups})
    changed = {name: at_share(part, share) for name, part in rule.parts() if isinstance(part, Optimizer)}
    return rule.with_values(changed | ({"lr": rule.lr * share} if "lr" in fields.table(type(rule)) else {}))
