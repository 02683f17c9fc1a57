"""Sharpness-aware minimization around any rule."""

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
from regimes.optimizers.tensorwise.sgd import SGD


def _study(budget: str) -> dict[str, Any]:
    """A vision transformer on 500 digits, which 5.1e10 flops of AdamW see 40 times, and SAM around it."""
    rule = "AdamW(lr=Cosine(0.005, warmup='10%'), weight_decay=0.1)"
    return {
        "workload": "digits_vit",
        "compare": {
            "baseline": "adamw",
            "metric": "acc",
            "better": "higher",
            "margin": 0.01,
            "seeds": 8,
            "trials": 4,
        },
        "tune": {"*.lr.peak": "times(1/4, 4)"},
        "arms": {
            "adamw": {"optimizer": rule, "batch_size": 50, "budget": budget},
            "sam": {"like": "adamw", "optimizer": f"SAM({rule}, rho=0.1)"},
        },
    }


@register
class SAM(Optimizer):
    r"""Take the base rule's step with the gradient at the worst point of a small ball.

    With g = grad L(w) on the step's plan

    .. math:: \epsilon = \rho \frac{g}{\lVert g \rVert_2 + 10^{-12}}, \qquad
              w \leftarrow \text{base}(w, \nabla L(w + \epsilon))

    Both evaluations see the same examples and the same dropout masks; BatchNorm keeps the statistics of the first.

    Parameters
    ----------
    base : Optimizer
        The rule, or Groups, that makes the step.
    rho : knob
        Radius rho of the ball. Default 0.05 (paper, section 3.1).
    adaptive : bool
        Scale the ball by the weights elementwise (ASAM): epsilon = rho T^2 g / ||T g||_2 with T = |w| + eta; rho is then
        about ten times larger (Kwon et al.: 0.5 and 1). Default False.
    eta : knob
        What is added to |w|, so that a weight at 0 is moved, too; read with `adaptive` only. Default 0.01 (Kwon et al.).

    Notes
    -----
    The worst point is that of the whole batch. The papers' m-sharpness takes one for each group of m examples (those on
    one accelerator) and averages the gradients there; here m is the batch size.

    Raises
    ------
    DeclarationError
        If the base rule makes no gradient of which there could be a worst point (MeZO, RecursiveRidge).

    References
    ----------
    P. Foret et al., Sharpness-Aware Minimization, ICLR 2021, arXiv:2010.01412; J. Kwon et al., ASAM, ICML 2021,
    arXiv:2102.11600 (adaptive); X. Chen et al., When Vision Transformers Outperform ResNets, ICLR 2022,
    arXiv:2106.01548.

    Examples
    --------
    >>> from regimes.optimizers import SGD
    >>> SAM(SGD(lr=0.1), rho=0.05)
    SAM(SGD(lr=0.1))
    """

    base: Optimizer = fixed()
    rho: Knob = knob(0.05, low=0)
    adaptive: bool = fixed(False)
    eta: Knob = knob(0.01, low=0)

    single_evaluation = False
    card = Card(
        title="Sharpness-aware minimization",
        axes=("rates", "order"),
        source="Foret et al. 2021, arXiv:2010.01412",
        when="Generalization matters more than time; vision transformers without large data.",
        cost="two evaluations per step",
        rows=("sam-vit",),
        defaults={"rho": "0.05, section 3.1", "eta": "0.01, Kwon et al. 2021"},
        deviations=(
            "Adaptive, the ball is scaled for every parameter; in the code of ASAM's authors for those called weight only.",
            "One worst point for the whole batch: m-sharpness, a worst point for each accelerator's examples, is not built.",
        ),
        claims=(
            Claim(
                "A vision transformer that sees 500 images is more often right with it than with its base rule, after as many "
                "steps (twice the work).",
                _study("40 epochs"),
                paper_scale="ViT-B/16 on ImageNet from scratch: 5.3 points",
            ),
            Claim(
                "So it is after as many gradients, which are half as many steps.",
                _study("5.1e10 flops"),
                paper_scale="ViT-B/16 on ImageNet from scratch: 5.3 points, at twice the gradients",
            ),
            Claim(
                "A vision transformer gains from it no less test accuracy than a convolutional network of as many images: SAM "
                "at the best of four radii over AdamW at the best of four rates, within a point.",
                {"seeds": 5, "margin": 0.01, "scale": "digits, 500 images, networks of 0.03 M parameters, 400 steps"},
                paper_scale="ImageNet from scratch: ViT-B/16 5.3 points, ResNet-152 0.8",
                says="not worse",
                measure="regimes.claims.sharpness:gains",
            ),
            Claim(
                "The largest eigenvalue of the Hessian is at most half of what the base rule ends at.",
                {"seeds": 8, "margin": 1.0, "scale": "digits_vit, 0.03 M parameters, 400 steps, log2"},
                paper_scale="ViT-B/16 on ImageNet: 739 to 20.9",
                measure="regimes.claims.sharpness:curvature",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[SAM]:
        """Around SGD, and with a ball that is scaled by the weights."""
        base = SGD(lr=0.05, momentum=0.9)
        return [cls(base), cls(base, rho=0.5, adaptive=True)]

    def validate(self) -> None:
        """Refuse a base rule without gradients."""
        if not self.base.uses_gradients:
            raise DeclarationError(
                f"got {self.base!r}, which makes no gradient; allowed: a rule that does, for example SGD(lr=0.1)",
                "base",
            )

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Find the worst point, then let the base rule evaluate there."""
        if self.rho == 0.0:
            state["base"] = self.base.step(state["base"], parameters, evaluate)
            return state
        gradients = evaluate(final=False).gradients
        with torch.no_grad():
            direction = self._worst(tuple(parameters.values()), gradients)
        state["base"] = self.base.step(state["base"], parameters, evaluate.shifted(direction))
        return state

    def _worst(self, tensors: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """epsilon: rho g / |g|, or elementwise rho T (T g) / |T g| with T = |w| + eta."""
        sizes = torch._foreach_add(torch._foreach_abs(tensors), float(self.eta)) if self.adaptive else None
        scaled = gradients if sizes is None else torch._foreach_mul(sizes, gradients)
        norm = torch.stack(torch._foreach_norm(scaled)).norm()
        if sizes is not None:
            scaled = torch._foreach_mul(scaled, sizes)
        return torch._foreach_mul(scaled, float(self.rho / (norm + 1e-12)))

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()
