"""Adam's direction: what rules share that are Adam and a part more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def adam_direction(
    g: Tensor, slot: dict[str, Any], betas: tuple[float, float], eps: float, t: int | None, alive: Tensor | float = 1.0
) -> Tensor:
    r"""Move both moments of a slot in place, and return the direction as a new tensor.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        d &= \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    g : Tensor
        The gradient, which is not written to.
    slot : dict
        ``exp_avg`` and ``exp_avg_sq``, of the shape of `g`.
    betas : two floats
    eps : float
    t : int or None
        Number of the update, from 1; None leaves both moments without correction.
    alive : 1, or Tensor of no dimension
        0 where a gradient of zero is to leave the moments as they are.

    Examples
    --------
    >>> slot = {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    >>> [round(v, 4) for v in adam_direction(torch.tensor([3.0, -0.5]), slot, (0.9, 0.999), 0.0, 1).tolist()]
    [1.0, -1.0]
    """
    (beta1, beta2), m, v = betas, slot["exp_avg"], slot["exp_avg_sq"]
    m.lerp_(g, (1.0 - beta1) * alive)
    v.mul_(1.0 - (1.0 - beta2) * alive).addcmul_(g, g, value=1.0 - beta2)
    first, second = (1.0, 1.0) if t is None else (1.0 - beta1**t, 1.0 - beta2**t)
    # The first correction goes into the denominator: a pass over memory less.
    denominator = (v * (first * first / second)).sqrt_().add_(eps * first)
    return torch.div(m, denominator, out=denominator)
