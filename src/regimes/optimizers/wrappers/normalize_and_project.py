"""Weights that go back to their first length after every step of any rule."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, nearest_pattern
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register

_SCALE = "digits, MLP 64-128-128-10 with layer norm, 20 tasks of 300 steps, Adam at 0.001"


@register
class NormalizeAndProject(Optimizer):
    r"""Let the base rule make its step, then give every layer's weight the length that it began with.

    With rho = ||W||_F when the rule met the model (at a phase's beginning)

    .. math:: W \leftarrow \text{base}(W), \qquad W \leftarrow \rho \frac{W}{\lVert W \rVert_F}

    Where a norm follows the layer, the length of W changes nothing that the network computes, and its gradient is
    orthogonal to W and grows as 1 / ||W||. What a step turns W by is then that of the rate lr / ||W||^2 (SGD) or lr /
    ||W|| (Adam), which falls while W grows: a decay that nobody declared. At a fixed length the declared rate is the
    effective one; decay of these weights is without effect but for the rate. `EffectiveLearningRate` shows what a run
    without this would have had, and `regimes.effective_schedule` makes it a schedule for one with this.

    Parameters
    ----------
    base : Optimizer
        The rule, or Groups, that makes the step. Its moments are left as they are.
    skip : tuple of str
        Patterns of weights that are left to the base rule: those that no norm follows, as a head. Default none.

    Notes
    -----
    The model has to have the norms: with them before each nonlinearity every weight but the head's is free of scale. A
    bias before a norm is not, unless it is a batch norm; the paper's normalized layers need none. Which weights belong
    to a layer says ``parameters.layers`` (`regimes.optimizers.layers.layers_of`); of all others none is projected. A
    weight that begins as zeros stays so, and has to be skipped where it is to be trained.

    Raises
    ------
    DeclarationError
        If the base rule makes no gradient or evaluates at weights of its own (which nobody would project); on meeting
        a model, if it has no such layer, or a pattern matches nothing.

    References
    ----------
    C. Lyle, Z. Zheng, K. Khetarpal, J. Martens, H. van Hasselt, R. Pascanu and W. Dabney, Normalization and effective
    learning rates in reinforcement learning, NeurIPS 2024, arXiv:2407.01800.

    Examples
    --------
    >>> from regimes.optimizers import AdamW
    >>> NormalizeAndProject(AdamW(lr=0.001), skip="4.weight")
    NormalizeAndProject(AdamW(), skip=['4.weight'])
    """

    base: Optimizer = fixed()
    skip: tuple[str, ...] = fixed(())

    single_evaluation = False
    card = Card(
        title="Weights of a fixed length",
        axes=("rates", "phases"),
        source="Lyle et al. 2024, arXiv:2407.01800",
        when="A normalized network trains for long, or on tasks that change, and its rate should stay what was declared.",
        cost="one pass over the weights",
        shelf="atlas",
        rows=("normalize-and-project",),
        deviations=(
            "Norms are not inserted: the model has to have them.",
            "Gains and offsets of norms, which are not free of scale, are left to the base rule; the paper drops them, decays "
            "them to their first values or keeps their joint length.",
            "Only linear layers and convolutions are projected, not embeddings.",
        ),
        claims=(
            Claim(
                "Over 20 tasks with freshly permuted labels, accuracy at the end of a task falls by at least 3 points less (last "
                "five tasks against first five) than with layer norm alone.",
                {"seeds": 5, "margin": 0.03, "scale": _SCALE},
                paper_scale="synthetic plasticity benchmarks; sequential Atari",
                measure="regimes.claims.label_permutations:late_minus_early",
            ),
            Claim(
                "Without it the layers before norms at least double their length there.",
                {"seeds": 5, "margin": 1.0, "scale": _SCALE + ", log2"},
                paper_scale="synthetic plasticity benchmarks; sequential Atari",
                measure="regimes.claims.label_permutations:growth",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse a base rule whose steps a projection would make something else of."""
        if not self.base.uses_gradients or not self.base.shared_evaluation_weights():
            what = "evaluates at weights of its own" if self.base.uses_gradients else "makes no gradient"
            raise DeclarationError(
                f"got {self.base!r}, which {what}; allowed: a rule that trains the parameters themselves by gradients, for "
                "example AdamW()",
                "base",
            )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Lengths under the names of the layers' weights."""
        layers = getattr(parameters, "layers", ())
        weights = [layer.weight for layer in layers if layer.weight in parameters]
        for place, pattern in enumerate(self.skip):
            if not fnmatch.filter(weights, pattern):
                raise DeclarationError(
                    f"got '{pattern}', which matches no layer's weight; {nearest_pattern(pattern, weights)}",
                    f"skip.{place}",
                )
        kept = [name for name in weights if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.skip)]
        if not kept:
            raise DeclarationError(
                "NormalizeAndProject projects linear layers and convolutions, and none is left here; allowed: its base rule "
                "alone"
            )
        with torch.no_grad():
            slots = {name: {"length": torch.linalg.vector_norm(parameters[name])} for name in kept}
        return super().init(parameters) | {"slots": slots}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Let the base rule step, then project."""
        state["base"] = self.base.step(state["base"], parameters, evaluate)
        with torch.no_grad():
            for name, slot in state["slots"].items():
                length = torch.linalg.vector_norm(parameters[name])
                parameters[name].mul_(torch.where(length > 0, slot["length"] / length, 1.0))
        return state
