"""MKOR: inverses of Kronecker factors, moved by one vector at a time, around any rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob, Optimizer, State
from regimes.core.registry import register
from regimes.optimizers.given import Given, refuse_several
from regimes.optimizers.kronecker.layerwise import as_matrix, as_parts, checked, chosen, sides, trained_names
from regimes.optimizers.kronecker.sherman_morrison import rank_one_inverse
from regimes.optimizers.layers import Layer


@register
class MKOR(Optimizer):
    r"""Precondition each layer's gradient from both sides, keep its length, and hand it to the base rule.

    For a layer with inputs A (rows, in) and per-unit gradients of its outputs G (rows, out), of which
    a = mean of A's rows (with a 1 behind where there is a bias) and g = mean of G's rows, on every `every`-th step

    .. math::
        L &\leftarrow \gamma L + (1 - \gamma) g g^\top, \qquad R \leftarrow \gamma R + (1 - \gamma) a a^\top \\
        \Delta &= L^{-1}\, \nabla_W \mathcal L \; R^{-1}, \qquad
        \nabla_W \leftarrow \frac{\lVert \nabla_W \mathcal L \rVert_F}{\lVert \Delta \rVert_F} \Delta

    with the inverses alone kept, from the identity on (`rank_one_inverse`). Before that, an inverse whose largest
    entry exceeds epsilon is stabilized: L^-1 <- (1 - s) L^-1 + s I. The gradient of the bias is the last column of
    the layer's. A kernel counts as (out, in * height * width) and every place of the image as a row.

    Parameters
    ----------
    base : Optimizer
        The rule, or Groups, that makes the step; it evaluates once.
    decay : knob
        gamma. Default 0.95, the reference code's; at 1 the inverses stay the identity and the base rule is alone.
    every : int
        Steps between two updates of the inverses, the first step being one. Default 10, the reference code's.
    stabilize : knob
        s, the paper's 1 - zeta. Default 0.1, the reference code's. Directions that no vector visits keep growing by
        1 / gamma an update: entries stay near epsilon while s > 1 - gamma.
    threshold : knob
        epsilon, the largest entry of an inverse that is left alone. Default 2, the reference code's.
    skip : tuple of str
        Patterns of weights whose layers keep their gradient (a head over a large vocabulary: cost and memory are
        quadratic in a layer's width).
    hybrid : float or None
        MKOR-H: go on with the base rule alone, for good, once the training loss falls by less than this share of
        the fastest fall so far, both between the means of two successive windows. Default None: never. Ours; the
        paper switches by the rate of loss decrease and gives no number.
    window : int
        Steps of a window of `hybrid`. Default 100, ours.

    Notes
    -----
    Which parameters belong to a layer, and to which module, says ``parameters.layers``
    (`regimes.optimizers.layers.layers_of`); all others, and layers whose module was not called, keep their gradient.
    Gradient transforms come first: a clipped length stays.

    Raises
    ------
    DeclarationError
        If the base rule does more than one plain evaluation; on meeting a model, if it has no such layer, or a pattern
        matches nothing.

    References
    ----------
    M. Mozaffari, S. Li, Z. Zhang and M. Mehri Dehnavi, MKOR: Momentum-Enabled Kronecker-Factor-Based Optimizer Using
    Rank-1 Updates, NeurIPS 2023, arXiv:2306.01685.

    Examples
    --------
    >>> from regimes.optimizers import SGD
    >>> MKOR(SGD(lr=0.1, momentum=0.9), every=1, threshold=1.1)
    MKOR(SGD(lr=0.1, momentum=0.9), every=1, threshold=1.1)
    >>> MKOR(SGD(lr=0.1), hybrid=0.5, window=8)  # MKOR-H, for a run of few steps
    MKOR(SGD(lr=0.1), hybrid=0.5, window=8)
    """

    base: Optimizer = fixed()
    decay: Knob = knob(0.95, above=0, high=1)
    every: int = fixed(10, low=1)
    stabilize: Knob = knob(0.1, low=0, high=1)
    threshold: Knob = knob(2.0, above=0)
    skip: tuple[str, ...] = fixed(())
    hybrid: float | None = fixed(None, low=0, below=1)
    window: int = fixed(100, low=1)

    single_evaluation = False
    needs = ("loss",)
    card = Card(
        title="Kronecker factors inverted one vector at a time",
        axes=("rates",),
        source="Mozaffari et al. 2023, arXiv:2306.01685",
        when="Layers with ill-conditioned inputs, of moderate width.",
        cost="two matrices and four products with them per layer and step; captured inputs on every tenth",
        shelf="atlas",
        rows=("mkor",),
        defaults={
            "decay": "0.95, the reference code",
            "every": "10, the reference code",
            "stabilize": "0.1, the reference code",
            "threshold": "2, the reference code",
        },
        deviations=(
            "The inverse is exactly that of the decayed factor; the paper prints, and the code computes, other scalars.",
            "Stabilizing blends towards the identity as the paper says; the code always lands on the identity itself.",
            "Factors stay in float32 at least, and the vectors are not clamped (code: half precision, 100).",
            "The length is that of weight and bias together; the code divides sums of their two norms.",
            "When MKOR-H switches is ours: the paper names the criterion without its numbers.",
        ),
        claims=(
            Claim(
                "A lower loss after two epochs than momentum alone, rates tuned alike.",
                {
                    "workload": "digits_mlp",
                    "compare": {
                        "baseline": "sgd",
                        "metric": "val/loss",
                        "better": "lower",
                        "margin": 0.02,
                        "seeds": 12,
                        "trials": 8,
                    },
                    "tune": {"*.lr": "times(1/8, 8)"},
                    "arms": {
                        "sgd": {"optimizer": "SGD(lr=0.15, momentum=0.9)", "batch_size": 64, "budget": "2 epochs"},
                        "mkor": {"like": "sgd", "optimizer": "MKOR(SGD(lr=0.15, momentum=0.9))"},
                    },
                },
                paper_scale="BERT-Large pre-training on 64 GPUs, ResNet-50",
            ),
            Claim(
                "Where inputs are rescaled by up to ten either way it takes at most 0.7 of the steps that momentum takes to a "
                "training loss of 0.3, each at the best of five rates.",
                {
                    "seeds": 8,
                    "margin": 0.5146,
                    "scale": "digits, ill-conditioned, 4,810 parameters, 300 steps, log2 of steps",
                },
                paper_scale="BERT-Large pre-training: 2.57 times as fast as LAMB",
                measure="regimes.claims.ill_conditioned:steps_to_target",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse a base rule that evaluates more than once."""
        refuse_several(self.base, "MKOR", "base")

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Inverses, the identity, under the names of the layers' weights; what `hybrid` watches."""
        layers = checked(parameters, self.skip, "MKOR")
        slots = {layer.weight: _identities(parameters, layer) for layer in layers}
        watch = {"sum": 0.0, "count": 0, "last": None, "fastest": None}
        return super().init(parameters) | {"slots": slots, "step": 0, "watch": watch, "switched": False}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, move the inverses where it is time, and let the base rule see the new directions."""
        if state["switched"]:
            state["base"] = self.base.step(state["base"], parameters, evaluate)
            return state
        layers = chosen(parameters, self.skip)
        due = layers if state["step"] % self.every == 0 else []
        wanted = [f"{what}:{layer.module}" for layer in due for what in ("input", "output_gradient")]
        evaluation = evaluate(capture=wanted)
        found = dict(zip(parameters, evaluation.gradients))
        with torch.no_grad():
            for layer in due:
                self._refresh(state["slots"][layer.weight], layer, evaluation.captured)
            for layer in layers:
                found |= _directions(state["slots"][layer.weight], trained_names(layer, parameters), found)
        state["step"] += 1
        given = Given(evaluate, evaluation._replace(gradients=tuple(found.values())), "base")
        state["base"] = self.base.step(state["base"], parameters, given)
        return state

    def _refresh(self, slot: dict[str, Tensor], layer: Layer, captured: Mapping[str, Sequence[Tensor]]) -> None:
        inputs = [layer.inputs(x) for x in captured[f"input:{layer.module}"]]
        outputs = [layer.outputs(g) for g in captured[f"output_gradient:{layer.module}"]]
        if not inputs:
            return
        left, right = slot["left_inverse"], slot["right_inverse"]
        a = _mean(inputs, right)
        if len(a) < len(right):
            a = torch.cat([a, a.new_ones(1)])
        slot["left_inverse"] = rank_one_inverse(self._stabilized(left), _mean(outputs, left), self.decay)
        slot["right_inverse"] = rank_one_inverse(self._stabilized(right), a, self.decay)

    def _stabilized(self, inverse: Tensor) -> Tensor:
        """The inverse, moved towards the identity where an entry is too large."""
        identity = torch.eye(len(inverse), dtype=inverse.dtype, device=inverse.device)
        return torch.where(inverse.abs().max() > self.threshold, inverse.lerp(identity, self.stabilize), inverse)

    def observe(self, state: State, signals: Any, at: Any) -> State:
        """Watch how fast the loss falls, and leave the inverses for good where it does no longer."""
        state = super().observe(state, signals, at)
        watch = state["watch"]
        if self.hybrid is None or state["switched"]:
            return state
        watch["sum"] += signals["loss"]
        watch["count"] += 1
        if watch["count"] < self.window:
            return state
        mean, last = watch["sum"] / watch["count"], watch["last"]
        watch |= {"sum": 0.0, "count": 0, "last": mean}
        if last is not None:
            fall, fastest = last - mean, watch["fastest"]
            watch["fastest"] = fall if fastest is None else max(fall, fastest)
            if fall < self.hybrid * watch["fastest"] or fall <= 0.0:
                state |= {"switched": True, "slots": {}}
        return state

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()


def _identities(parameters: Mapping[str, Tensor], layer: Layer) -> dict[str, Tensor]:
    weight, (out, columns) = parameters[layer.weight], sides(layer, parameters)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return {
        name: torch.eye(size, dtype=dtype, device=weight.device)
        for name, size in (("left_inverse", out), ("right_inverse", columns))
    }


def _mean(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    """Mean of all rows of all micro-batches, in the type of `like`."""
    total = torch.stack([part.to(like.dtype).sum(0) for part in rows]).sum(0)
    return total / sum(len(part) for part in rows)


def _directions(slot: Mapping[str, Tensor], names: Sequence[str], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layer's gradients, preconditioned, as long as before; as they are where that is not finite."""
    left, right = slot["left_inverse"], slot["right_inverse"]
    parts = [gradients[name] for name in names]
    whole = as_matrix(parts, left.dtype)
    made = left @ whole @ right
    scaled = made * (whole.norm() / made.norm())
    return as_parts(torch.where(scaled.isfinite().all(), scaled, whole), names, parts)
