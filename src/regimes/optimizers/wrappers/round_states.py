"""States of a rule in a format of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed, keeper_of_weights
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register
from regimes.model_transforms.float_format import FloatFormat, Format, format_of
from regimes.optimizers.tensorwise.adamw import AdamW
from regimes.optimizers.tensorwise.rule import Tensorwise
from regimes.optimizers.tensorwise.sgd import SGD


@register
class RoundStates(Optimizer):
    r"""Let the base rule make its step, then round what it keeps of every parameter.

    .. math:: (\theta, s) \leftarrow \text{base}(\theta, s), \qquad s \leftarrow R(s)

    The step itself is made in full precision, from states that lie in the format: what a rule does that keeps its moments
    in 8 bits.

    Parameters
    ----------
    base : Optimizer
        A rule that updates every tensor by itself, such as AdamW or SGD with momentum.
    format : FloatFormat or its name
        R. Second moments need a wide range: ``FloatFormat(5, 2, scaled=True)``, or bfloat16.
    keys : tuple of str
        Names of the states that are rounded (AdamW's are ``exp_avg`` and ``exp_avg_sq``). Default: all tensors. Numbers of a
        parameter as a whole stay as they are.

    Raises
    ------
    DeclarationError
        If the base rule is of another kind, or keeps weights in its state; on meeting a model, if it has no such state.

    References
    ----------
    H. Peng et al., FP8-LM: Training FP8 Large Language Models, 2023, arXiv:2310.18313.

    Examples
    --------
    >>> RoundStates(AdamW(), FloatFormat(4, 3, finite=True, scaled=True), keys="exp_avg")
    RoundStates(AdamW(), format=FloatFormat(4, mantissa=3, finite=True, scaled=True), keys=['exp_avg'])
    """

    base: Optimizer = fixed()
    format: Format = fixed()
    keys: tuple[str, ...] = fixed(())

    card = Card(
        title="States of a rule in few bits",
        axes=("regime",),
        source="Peng et al. 2023, arXiv:2310.18313; Lee et al. 2024, arXiv:2405.18710",
        when="To see whether a rule's moments can be kept in 8 bits.",
        cost="a dozen passes over the states",
        shelf="atlas",
        rows=("fp8-stability",),
        deviations=("States lie in the format but are stored as before: no memory is saved.",),
    )

    @classmethod
    def example(cls) -> list[RoundStates]:
        """Of AdamW, and by chance of a momentum."""
        drawn = FloatFormat(8, 2, rounding="stochastic")
        return [cls(AdamW(lr=0.01), "bfloat16"), cls(SGD(lr=0.05, momentum=0.9), drawn, "momentum_buffer")]

    def validate(self) -> None:
        """Refuse a base rule whose state is not one of tensors beside parameters."""
        if not isinstance(self.base, Tensorwise):
            raise DeclarationError(
                f"got {self.base!r}; allowed: a rule that updates every tensor by itself, for example AdamW() (inside Groups, "
                "around the rule of a group)",
                "base",
            )
        if keeper_of_weights(self.base) is not None:
            raise DeclarationError(
                f"got {self.base!r}, which keeps weights in its state; allowed: a rule that keeps moments alone", "base"
            )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The state of the base rule."""
        state = super().init(parameters)
        known = {key for slot in state["base"]["slots"].values() for key, value in slot.items() if _rounds(value)}
        for place, key in enumerate(self.keys):
            if known and key not in known:
                raise DeclarationError(f"got '{key}'; allowed: {', '.join(sorted(known))}", f"keys.{place}")
        if not known:
            raise DeclarationError(f"got {self.base!r}, which keeps no tensor beside a parameter", "base")
        return state

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Let the base rule step, then round."""
        state["base"] = self.base.step(state["base"], parameters, evaluate)
        precision = format_of(self.format)
        generator = evaluate.rng("round") if precision.rounding == "stochastic" else None
        with torch.no_grad():
            for name in parameters:
                for key, value in state["base"]["slots"][name].items():
                    if _rounds(value) and (not self.keys or key in self.keys):
                        value.copy_(precision.round(value, precision.uniform(value, generator)))
        return state

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()


def _rounds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0
