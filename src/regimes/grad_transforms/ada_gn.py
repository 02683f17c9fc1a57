"""Bringing each tensor's gradient to its usual length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import GradTransform, Knob, State, TransformContext
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.grad_transforms.pending import PENDING, learned, number_like


def ada_gn(
    g: Tensor, means: tuple[Tensor, Tensor], gammas: tuple[float, float], eps: float, t: int
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Return the rescaled gradient as a new tensor, both means after it, and whether the gradient is not zero.

    A gradient of zero stays as it is, and so do the means; the formula is `AdaGN`'s.

    Parameters
    ----------
    g : Tensor
    means : two Tensors of no dimension
        a_{t-1} and q_{t-1}.
    gammas : two floats
    eps : float
    t : int
        Number of this gradient, from 1.
    """
    (mean, square), (gamma1, gamma2) = means, gammas
    norm = torch.linalg.vector_norm(g, dtype=mean.dtype)
    alive = norm > 0
    mean = torch.where(alive, mean.lerp(norm, 1.0 - gamma1), mean)
    square = torch.where(alive, square.lerp(norm.square(), 1.0 - gamma2), square)
    length = mean / (1.0 - gamma1**t) / ((square / (1.0 - gamma2**t)).sqrt() + eps)
    return g * torch.where(alive, length / norm, 1.0), (mean, square), alive


@register
class AdaGN(GradTransform):
    r"""Replace the length of each tensor's gradient by what its lengths so far say, about 1.

    With n_t the gradient's length, tensor by tensor

    .. math::
        a_t = \gamma_1 a_{t-1} + (1 - \gamma_1) n_t, \quad q_t = \gamma_2 q_{t-1} + (1 - \gamma_2) n_t^2, \qquad
        g \leftarrow \frac{g}{n_t} \cdot \frac{a_t / (1 - \gamma_1^t)}{\sqrt{q_t / (1 - \gamma_2^t)} + \epsilon}

    A gradient of zero stays zero and is left out of both means; it counts in t.

    Parameters
    ----------
    gammas : two knobs
        gamma_1 and gamma_2. Default (0.7, 0.9), the authors' code.
    eps : knob
        epsilon. Default 1e-8, the authors' code.

    References
    ----------
    T. Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam, 2025, arXiv:2502.17055.

    Examples
    --------
    >>> p = torch.zeros(2); rule = AdaGN(gammas=(0.5, 0.5)); state = rule.init({"w": p})
    >>> context = TransformContext(("w",), (p,), None, 1.0)
    >>> for g in ([3.0, 4.0], [30.0, 40.0]):
    ...     (g,) = rule.apply(state, (torch.tensor(g),), context); state = rule.observe(state, {}, None)
    ...     [round(v, 4) for v in g.tolist()]
    [0.6, 0.8]
    [0.5131, 0.6841]
    """

    gammas: tuple[Knob, Knob] = knob((0.7, 0.9), low=0, below=1)
    eps: Knob = knob(1e-8, low=0)

    card = Card(
        title="Bring each tensor's gradient to its usual length",
        axes=("rates",),
        source="Huang et al. 2025, arXiv:2502.17055",
        when="Lengths of gradients jump, and the rule is not invariant to them step by step.",
        cost="two passes over the gradients",
        shelf="atlas",
        rows=("stable-spam",),
        defaults={"gammas": "(0.7, 0.9), authors' code", "eps": "1e-8, authors' code"},
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Of each parameter, the mean length and mean squared length, and how many they are of."""
        names = ("norm_avg", "norm_avg_sq")
        return {"slots": {n: {"step": 0, **{key: number_like(p) for key in names}} for n, p in parameters.items()}}

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Rescale; what is to be learned waits for `observe`, as the step may still be skipped."""
        pending, scaled = {}, []
        for name, g in zip(ctx.names, gradients):
            slot = state["slots"][name]
            means = slot["norm_avg"], slot["norm_avg_sq"]
            g, (mean, square), _ = ada_gn(g, means, self.gammas, self.eps, slot["step"] + 1)
            pending[name] = {"norm_avg": mean, "norm_avg_sq": square}
            scaled.append(g)
        state[PENDING] = pending
        return tuple(scaled)

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Learn the lengths."""
        return learned(state)
