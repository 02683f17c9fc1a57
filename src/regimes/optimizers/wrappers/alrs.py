"""ALRS: how much each bit width has to say about the step that all widths share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob, Optimizer, State
from regimes.core.registry import register
from regimes.optimizers.given import Given, refuse_several

_STEP, _TAPS = "step_size", "step_taps"
_SCALE = (
    "digits, MLP 64-64-10, widths 8, 4, 3 and 2, 300 joint steps after 300 in full precision, nine pairs of rates each"
)


@register
class ALRS(Optimizer):
    r"""The base rule, with gradients of quantization steps weighed by bit width: less where they are large.

    With g_{b,i} the gradient of the step of layer i of L at b bits, h the highest width

    .. math::
        \lambda_b &= d^{(h - b) / 2} \Bigl(1 - \frac{1}{L} \sum_i \min(|g_{b,i}|, 1)\Bigr) \\
        g_i &= \sum_b \lambda_b \, g_{b,i}

    is the gradient of step i that the base rule is given: under plain gradient descent each width moves it at lambda_b times
    the rate. All other gradients stay. The record holds ``factor_b`` for each width.

    Parameters
    ----------
    base : Optimizer
        The rule that makes the step, from gradients alone.
    decay : knob
        d, what two bits less are worth. Default 0.1: 1, 0.1, 0.01 at 8, 6 and 4 bits, as recalled from the paper.
    bits : tuple of int
        b, as they were declared in `DoubleRounding`, with ``by_width=True``. Default (8, 6, 4, 2).

    Raises
    ------
    DeclarationError
        If the base rule asks for more than gradients; on meeting a model, if it has no steps by width, or not as many widths.

    References
    ----------
    H. Huang, Z. Liu, T. Xia, W. Zhao and P. Ren, Nearly Lossless Adaptive Bit Switching, 2025, arXiv:2502.01199.

    Examples
    --------
    >>> from regimes.optimizers import SGD
    >>> taps = torch.tensor([[0.5, 4.0], [0.1, -0.4]])  # two layers, at 8 and 2 bits
    >>> [round(factor, 6) for factor in ALRS(SGD(lr=0.1), bits=(8, 2)).factors(taps)]
    [0.7, 0.0003]
    """

    base: Optimizer = fixed()
    decay: Knob = knob(0.1, above=0, high=1)
    bits: tuple[int, ...] = fixed((8, 6, 4, 2), low=2, high=16)

    card = Card(
        title="Gradients of quantization steps weighed by bit width",
        axes=("rates",),
        source="Huang et al. 2025, arXiv:2502.01199",
        when="Several bit widths share a quantization step, and the lowest pulls it hardest.",
        cost="one number per layer and width",
        shelf="atlas",
        rows=("double-rounding-alrs",),
        defaults={"decay": "0.1 for two bits, as recalled from the paper", "bits": "the paper's"},
        deviations=(
            "The formula is recalled, not read: neither the paper nor the authors' code could be looked up.",
            "The factor of widths between those of the paper, and of 2 bits, continues its powers of ten.",
            "A clip of the whole gradient's norm sees the gradients by width beside their sum.",
        ),
        claims=(
            Claim(
                "At 2 and 3 bits the jointly trained network is right at least 1 point more often than with one rate of steps for "
                "all widths.",
                {"seeds": 5, "margin": 0.01, "scale": _SCALE},
                paper_scale="ResNet and MobileNet on ImageNet, widths 8, 6, 4 and 2",
                measure="regimes.claims.bit_widths:low_widths",
            ),
            Claim(
                "At 8 bits it is right at most half a point less often.",
                {"seeds": 5, "margin": 0.005, "scale": _SCALE},
                paper_scale="ResNet and MobileNet on ImageNet, widths 8, 6, 4 and 2",
                says="not worse",
                measure="regimes.claims.bit_widths:highest_width",
            ),
        ),
    )

    @classmethod
    def example(cls) -> ALRS:
        """Of the widths that the conformance suite's network has; at higher rates its steps amplify rounding."""
        from regimes.optimizers.tensorwise.sgd import SGD

        return cls(SGD(lr=0.005, momentum=0.9), bits=(8, 4))

    def validate(self) -> None:
        """Refuse a base rule that makes more of an evaluation than its gradients."""
        refuse_several(self.base, "ALRS", "base")
        if not self.base.uses_gradients:
            raise DeclarationError(f"got {self.base!r}, which makes no gradient; allowed: for example SGD()", "base")

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The base rule's state."""
        taps = [p for name, p in parameters.items() if name.endswith(f".{_TAPS}")]
        if not taps:
            raise DeclarationError(
                "no weight of the model has steps by width; allowed: after DoubleRounding(..., by_width=True) in on_entry"
            )
        for p in taps:
            if len(p) != len(self.bits):
                raise DeclarationError(f"got {list(self.bits)}, but the weights have {len(p)} widths", "bits")
        return super().init(parameters)

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, weigh, and let the base rule step."""
        evaluation = evaluate()
        gradients = dict(zip(parameters, evaluation.gradients))
        places = [name.removesuffix(_TAPS) for name in parameters if name.endswith(f".{_TAPS}")]
        with torch.no_grad():
            by_width = torch.stack([gradients[place + _TAPS].double() for place in places])  # (L, widths)
            factors = self.factors(by_width)
            weighed = by_width @ torch.tensor(factors, dtype=torch.float64, device=by_width.device)
            for place, g in zip(places, weighed):
                gradients[place + _STEP] = g.to(gradients[place + _STEP])
                gradients[place + _TAPS] = torch.zeros_like(gradients[place + _TAPS])
        for bits, factor in zip(self.bits, factors):
            evaluate.log(f"factor_{bits}", factor)
        given = Given(evaluate, evaluation._replace(gradients=tuple(gradients.values())), "base")
        state["base"] = self.base.step(state["base"], parameters, given)
        return state

    def factors(self, by_width: Tensor) -> Sequence[float]:
        """Return lambda of each width.

        Parameters
        ----------
        by_width : Tensor, shape (L, widths)
            g.
        """
        sizes = by_width.double().abs().clamp(max=1.0).mean(0).tolist()
        return [self.decay ** ((self.bits[0] - bits) / 2) * (1.0 - size) for bits, size in zip(self.bits, sizes)]

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()
