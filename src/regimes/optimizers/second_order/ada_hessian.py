"""AdaHessian: Adam with the Hessian's diagonal in the place of the gradient in the second moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.second_order.diagonals import DiagonalCurvature


@register
class AdaHessian(DiagonalCurvature):
    r"""Adam whose second moment is that of a spatially averaged Hessian diagonal.

    With d = z * Hz for signs z, averaged over the places of one row or kernel to D, and Hessian power k

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) D_t^2 \\
        \theta &\leftarrow (1 - \text{lr}\,\lambda)\,\theta - \text{lr}\;
            \frac{m_t / (1 - \beta_1^t)}{\bigl(v_t / (1 - \beta_2^t)\bigr)^{k/2} + \epsilon}

    The average runs over the inputs of a matrix's row, over a kernel's height and width, over the last axis of a tensor of
    three; biases and other vectors are left as they are.

    Parameters
    ----------
    lr : knob
        Learning rate. Default 0.15, the authors' code.
    betas : two knobs
        Default (0.9, 0.999) (authors' code).
    eps : knob
        epsilon, above 0: where loss and curvature do not know an element, 0 / epsilon is no step. Default 1e-4 (authors'
        code).
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0.
    hessian_power : knob
        k in [0, 1]: 0 is momentum alone, 1 a full division. Default 1.
    update_every : int
        Updates between two estimates, in which D stays. Default 1.
    samples : int
        Vectors z of an estimate. Default 1.
    signed_average : bool
        Average z * Hz itself, as the paper's formula does; default False: its absolute value, as the authors' code does.

    References
    ----------
    Z. Yao et al., ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning, AAAI 2021, arXiv:2006.00719,
    algorithm 1; code: github.com/amirgholami/adahessian.

    Examples
    --------
    >>> p = torch.tensor([1.0, 1.0]); rule = AdaHessian(lr=1.0, betas=(0.0, 0.0), eps=1e-30); slot = rule.slots(p)
    >>> rule.refresh(p, torch.tensor([4.0, -2.0]), slot)
    >>> rule.update(p, torch.tensor([2.0, 1.0]), slot, 1)  # Newton's step, by the absolute curvature
    >>> p.tolist()
    [0.5, 0.5]
    """

    lr: Knob = knob(0.15, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.999), low=0, below=1)
    eps: Knob = knob(1e-4, above=0)
    weight_decay: Knob = knob(0.0, low=0)
    hessian_power: Knob = knob(1.0, low=0, high=1)
    update_every: int = fixed(1, low=1)
    samples: int = fixed(1, low=1)
    signed_average: bool = fixed(False)

    elementwise = True
    card = Card(
        title="Adam with the Hessian's diagonal",
        axes=("rates", "order"),
        source="Yao et al. 2021, arXiv:2006.00719",
        when="Badly scaled problems; rates that are hard to tune.",
        cost="three slots per parameter; a product with the Hessian every step",
        shelf="atlas",
        rows=("adahessian",),
        defaults={
            "lr": "0.15, the authors' code",
            "betas": "(0.9, 0.999), the authors' code",
            "eps": "1e-4, the authors' code",
        },
        deviations=(
            "Of an estimate on every k-th update only, D is kept and enters the second moment on every update.",
            "The average is over what is declared, of absolute values, as in the authors' code; `signed_average` is the paper's.",
        ),
        claims=(
            Claim(
                "Where inputs are rescaled by up to ten either way, its validation loss is no higher than Adam's after as many "
                "steps, each at the best of five rates.",
                {"seeds": 6, "margin": 0.02, "scale": "digits, ill-conditioned, 2,410 parameters, 300 steps"},
                paper_scale="ResNet20 and 32 on CIFAR-10, ImageNet, IWSLT14, PTB",
                says="not worse",
                measure="regimes.claims.second_order:ada_hessian_loss",
            ),
            Claim(
                "There its loss depends less on the rate: log2 of worst over best within a factor four of the best rate.",
                {"seeds": 6, "margin": 0.2, "scale": "digits, ill-conditioned, 2,410 parameters, 300 steps"},
                paper_scale="IWSLT14 and CIFAR-10, rates scaled by 0.5 to 10",
                measure="regimes.claims.second_order:ada_hessian_sensitivity",
            ),
        ),
    )

    @classmethod
    def example(cls) -> AdaHessian:
        """At a rate for few steps."""
        return cls(lr=0.01)

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """Momentum, second moment and the present diagonal, zero."""
        return {
            "exp_avg": torch.zeros_like(p),
            "exp_hessian_diag_sq": torch.zeros_like(p),
            "hessian": torch.zeros_like(p),
        }

    def refresh(self, p: Tensor, estimate: Tensor, slot: dict[str, Any]) -> None:
        """D becomes the estimate, averaged in space."""
        slot["hessian"].copy_(spatial_average(estimate if self.signed_average else estimate.abs()))

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        beta1, beta2 = self.betas
        m, v, d = slot["exp_avg"], slot["exp_hessian_diag_sq"], slot["hessian"]
        if self.weight_decay != 0.0:
            p.mul_(1.0 - self.lr * self.weight_decay)
        m.lerp_(g, 1.0 - beta1)
        v.mul_(beta2).addcmul_(d, d, value=1.0 - beta2)
        denominator = (v / (1.0 - beta2**t)).pow_(0.5 * self.hessian_power).add_(self.eps)
        p.addcdiv_(m, denominator, value=-self.lr / (1.0 - beta1**t))


def spatial_average(diagonal: Tensor) -> Tensor:
    """Return the mean over the places that share a row or a kernel, in the shape of `diagonal`.

    Examples
    --------
    >>> spatial_average(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
    tensor([[2., 2.],
            [2., 2.]])
    """
    if diagonal.ndim < 2:
        return diagonal
    axes = (-1,) if diagonal.ndim < 4 else tuple(range(2, diagonal.ndim))
    return diagonal.mean(axes, keepdim=True).expand_as(diagonal)
