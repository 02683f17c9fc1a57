"""LANTON: rates by layer from the noise of each layer's gradient, around a rule for single tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from regimes.core import fields
from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob, Optimizer, State
from regimes.core.registry import register
from regimes.optimizers.orthogonal.newton_schulz import newton_schulz
from regimes.optimizers.tensorwise.rule import Tensorwise
from regimes.optimizers.tensorwise.sgd import SGD


@register
class LANTON(Optimizer):
    r"""The base rule, with a rate for each tensor that is lower the noisier the tensor's gradient is.

    With gradient g_t of tensor l, and the dual of the norm in which the base rule steps

    .. math::
        H_t^l &= \beta_2 H_{t-1}^l + (1 - \beta_2)\, \lVert g_t^l - g_{t-1}^l \rVert_*^2 \\
        a_t^l &= \alpha / \sqrt{\alpha^2 + H_t^l} \\
        \text{lr}_t^l &= \text{lr}\, \sqrt{a_t^l / \textstyle\max_k a_t^k}

    over the tensors k that the base rule owns: the quietest keeps its rate, with all that is multiplied by it (decoupled
    decay). On a tensor's first update there is no gradient before, and H stays 0. The record holds, as ``least_factor``,
    the least of the roots: while it is 1, alpha is too large for these gradients to matter.

    Parameters
    ----------
    base : Optimizer
        A rule for single tensors, such as `Muon`. One with Groups stands inside them, so that every group has a largest a
        and a norm of its own: ``rg.groups.muon(LANTON(Muon()), rest=LANTON(Lion(), norm="l1"))``.
    alpha : knob
        alpha, a length of gradients: what noise is small. Default 1, not the paper's, which is unknown here.
    beta2 : knob
        beta_2. Default 0.9, not the paper's, which is unknown here.
    norm : "nuclear", "l1" or "l2"
        The dual norm: nuclear for rules that orthogonalize (`Muon`), l1 for those that take signs (`Lion`, nearly
        `AdamW`), l2 for those along the gradient (`SGD`). The nuclear norm of a matrix D (a kernel counts as (out, rest), a
        vector as one column) is estimated as <D, NS(D)> with five steps of `newton_schulz`: between 0.68 and 1.14 of it
        where singular values exceed a hundredth of ||D||_F.

    Raises
    ------
    DeclarationError
        If the base rule has no rate ``lr``, or does more than update every tensor by itself.

    References
    ----------
    J. Hao, X. Gong, J. Xu, Z. Wang and M. Liu, Noise-Adaptive Layerwise Learning Rates: Accelerating Geometry-Aware
    Optimization for Deep Neural Network Training, 2025, arXiv:2510.14009, algorithm 1.

    Examples
    --------
    >>> from regimes.optimizers import SGD
    >>> rule = LANTON(SGD(lr=0.1), norm="l2")
    >>> slots = {"quiet": {"noise": 0.0}, "noisy": {"noise": 15.0}}
    >>> rule.factors(slots)
    {'quiet': 1.0, 'noisy': 0.5}
    """

    base: Optimizer = fixed()
    alpha: Knob = knob(1.0, above=0)
    beta2: Knob = knob(0.9, low=0, below=1)
    norm: Literal["nuclear", "l1", "l2"] = fixed("nuclear")

    card = Card(
        title="Rates by layer from the noise of its gradient",
        axes=("rates",),
        source="Hao et al. 2025, arXiv:2510.14009",
        when="Layers under one rule whose gradients are unlike in noise.",
        cost="one more slot per parameter, its last gradient; with the nuclear norm, 15 more products per weight and step",
        shelf="atlas",
        rows=("lanton",),
        defaults={"alpha": "1, ours", "beta2": "0.9, ours"},
        deviations=(
            "alpha and beta2 of the paper are not known here.",
            "The gradient of an independent batch, which the paper also allows for the one before, is not built: a step has "
            "one batch.",
            "The dual norm has no factor of the layer's shape; that of the paper's norm for hidden layers (from root mean "
            "square to root mean square) would have one.",
            "The nuclear norm is estimated by the iteration of Muon; how the paper computes it is not known here.",
            "No noise is counted on the first update, which has no gradient before it.",
            "What else a layer has (decay) goes at the layer's rate, too.",
        ),
        claims=(
            Claim(
                "The rate of a layer whose gradient is drowned in noise (five times as large) ends at no more than 0.5 over 0.8 "
                "of that of any quiet layer.",
                {
                    "seeds": 6,
                    "margin": 0.6781,
                    "scale": "digits, a fifth of labels wrong, 13,130 parameters, 400 steps, log2",
                },
                paper_scale="GPT-2 and LLaMA of up to 1.1 B parameters, noise of their own",
                measure="regimes.claims.noisy_layer:rates",
            ),
            Claim(
                "Under that noise it takes at most 0.9 of the steps that Muon takes to Muon's final loss, each at the best of "
                "five rates.",
                {
                    "seeds": 6,
                    "margin": 0.152,
                    "scale": "digits, a fifth of labels wrong, 13,130 parameters, 400 steps, log2 of steps",
                },
                paper_scale="LLaMA of 1.1 B parameters: two thirds of the tokens of D-Muon",
                measure="regimes.claims.noisy_layer:steps_under_noise",
            ),
            Claim(
                "Without that noise it takes at most 1.05 of Muon's steps.",
                {
                    "seeds": 6,
                    "margin": 0.0704,
                    "scale": "digits, a fifth of labels wrong, 13,130 parameters, 400 steps, log2 of steps",
                },
                paper_scale="LLaMA of 1.1 B parameters: two thirds of the tokens of D-Muon",
                says="not worse",
                measure="regimes.claims.noisy_layer:steps_without",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse a base rule that has no rate, or whose tensors know of each other."""
        kind = type(self.base)
        plain = (
            issubclass(kind, Tensorwise)
            and "lr" in fields.table(kind)
            and (kind.step, kind.advance) == (Tensorwise.step, Tensorwise.advance)
        )
        if not plain:
            raise DeclarationError(
                f"got {self.base!r}; allowed: a rule that updates every tensor by itself at a rate lr, for example Muon() "
                "(inside Groups, around the rule of a group)",
                "base",
            )

    @classmethod
    def example(cls) -> list[LANTON]:
        """Around SGD, where the noise counts."""
        return [cls(SGD(lr=0.05, momentum=0.9), alpha=0.05, norm=norm) for norm in ("nuclear", "l1", "l2")]

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The base rule's state; of every tensor its last gradient, H and the number of updates."""
        slots = {name: {"step": 0, "previous": torch.zeros_like(p), "noise": 0.0} for name, p in parameters.items()}
        return super().init(parameters) | {"slots": slots}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, measure the noise, then let the base rule update every tensor at its rate."""
        gradients = evaluate().gradients
        base: Any = self.base
        with torch.no_grad():
            self._measure([state["slots"][name] for name in parameters], gradients)
            factors = self.factors({name: state["slots"][name] for name in parameters})
            for (name, p), g in zip(parameters.items(), gradients):
                rule = base.with_values({"lr": base.lr * factors[name]})
                rule.advance((p,), (g,), (state["base"]["slots"][name],), evaluate.compiled)
        evaluate.log("least_factor", min(factors.values()))
        return state

    def _measure(self, slots: list[dict[str, Any]], gradients: tuple[Tensor, ...]) -> None:
        """Move H of every tensor, and keep its gradient."""
        lengths = [self._dual(g - slot["previous"]) for g, slot in zip(gradients, slots)]
        for slot, g, length in zip(slots, gradients, lengths):
            if slot["step"] > 0:
                slot["noise"] = self.beta2 * slot["noise"] + (1.0 - self.beta2) * length.item() ** 2
            slot["previous"].copy_(g)
            slot["step"] += 1

    def factors(self, slots: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Return what the rate of each tensor is multiplied by, in (0, 1].

        Parameters
        ----------
        slots : mapping of str to mapping
            ``noise`` of every tensor: ``state["slots"]``.
        """
        found = {name: self.alpha / math.hypot(self.alpha, math.sqrt(slot["noise"])) for name, slot in slots.items()}
        largest = max(found.values())
        return {name: math.sqrt(a / largest) for name, a in found.items()}

    def _dual(self, difference: Tensor) -> Tensor:
        wide = torch.promote_types(difference.dtype, torch.float32)
        if self.norm == "l1":
            return difference.abs().sum(dtype=wide)
        if self.norm == "l2":
            return torch.linalg.vector_norm(difference, dtype=wide)
        matrix = difference.reshape(len(difference) if difference.ndim else 1, -1)
        dtype = wide if matrix.device.type == "cpu" else torch.bfloat16
        return (matrix * newton_schulz(matrix, dtype=dtype)).sum(dtype=wide)

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()
