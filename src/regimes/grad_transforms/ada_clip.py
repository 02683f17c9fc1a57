"""Clipping single entries at the tensor's usual maximum."""

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


def ada_clip(g: Tensor, largest: Tensor, theta: float, t: int) -> tuple[Tensor, Tensor]:
    """Return the clipped gradient as a new tensor, and the mean maximum after it; the formula is `AdaClip`'s.

    Parameters
    ----------
    g : Tensor
    largest : Tensor of no dimension
        c_{t-1}.
    theta : float
    t : int
        Number of this gradient, from 1.
    """
    size = g.abs()
    peak = size.max() if size.numel() > 0 else size.sum()
    largest = largest.lerp(peak.to(largest.dtype), 1.0 - theta)
    bound = largest / (1.0 - theta**t)
    return torch.where(size > bound, g * (bound / peak), g), largest


@register
class AdaClip(GradTransform):
    r"""Scale entries down that exceed the mean of the tensor's maxima so far, tensor by tensor.

    .. math::
        c_t = \theta c_{t-1} + (1 - \theta) \max |g_t|, \quad \hat c = \frac{c_t}{1 - \theta^t}, \qquad
        g_i \leftarrow g_i \frac{\hat c}{\max |g_t|} \text{ where } |g_i| > \hat c

    Parameters
    ----------
    theta : knob
        Decay of the maximum. Default 0.999, the authors' code.

    References
    ----------
    T. Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam, 2025, arXiv:2502.17055.

    Examples
    --------
    >>> p = torch.zeros(2); clip = AdaClip(theta=0.5); state = clip.init({"w": p})
    >>> context = TransformContext(("w",), (p,), None, 1.0)
    >>> for g in ([1.0, 2.0], [1.0, 8.0]):
    ...     (g,) = clip.apply(state, (torch.tensor(g),), context); state = clip.observe(state, {}, None)
    ...     [round(v, 4) for v in g.tolist()]
    [1.0, 2.0]
    [1.0, 6.0]
    """

    theta: Knob = knob(0.999, low=0, below=1)

    card = Card(
        title="Clip entries at the tensor's usual maximum",
        axes=("rates",),
        source="Huang et al. 2025, arXiv:2502.17055",
        when="Single entries spike, and what a spike is differs between tensors.",
        cost="two passes over the gradients",
        shelf="atlas",
        rows=("stable-spam",),
        defaults={"theta": "0.999, authors' code"},
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Of each parameter, the mean maximum, and how many it is of."""
        return {"slots": {name: {"step": 0, "largest": number_like(p)} for name, p in parameters.items()}}

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Clip; what is to be learned waits for `observe`, as the step may still be skipped."""
        slots = [state["slots"][name] for name in ctx.names]
        found = [ada_clip(g, slot["largest"], self.theta, slot["step"] + 1) for g, slot in zip(gradients, slots)]
        state[PENDING] = {name: {"largest": largest} for name, (_, largest) in zip(ctx.names, found)}
        return tuple([g for g, _ in found])

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Learn the maxima."""
        return learned(state)
