"""The ratio of a gradient's length to its spread."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gradient_snr(g: Tensor, eps: float = 0.0) -> Tensor:
    r"""Return the gradient's signal-to-noise ratio over its entries.

    .. math:: \frac{\lVert g \rVert_2}{\operatorname{std}(g) + \epsilon}
        = \sqrt{\frac{n \bar g^2}{s^2} + n - 1} \quad (\epsilon = 0)

    with n entries of mean g and deviation s (over n - 1): about the root of n - 1 for a gradient of mean zero.

    Parameters
    ----------
    g : Tensor
        Of any shape.
    eps : float
        epsilon. Default 0.

    Returns
    -------
    Tensor
        Of no dimension; nothing waits for the device. A gradient without spread (one entry, or equal ones) has no such
        ratio and counts as the root of n, its length over its root mean square; one that is zero counts as 0.

    Examples
    --------
    >>> given = torch.tensor([3.0, -4.0]), torch.tensor([1.0, 2.0, 2.0]), torch.tensor(-7.0), torch.zeros(5)
    >>> [round(gradient_snr(g).item(), 4) for g in given]
    [1.0102, 5.1962, 1.0, 0.0]
    """
    g = g.detach().to(torch.promote_types(g.dtype, torch.float32))
    norm, count = torch.linalg.vector_norm(g), g.numel()
    flat = math.sqrt(count) * (norm > 0)
    if count < 2:
        return flat
    spread = g.std()
    # Below that, what is left between equal entries is rounding.
    return torch.where(spread > torch.finfo(g.dtype).eps * norm, norm / (spread + eps), flat)
