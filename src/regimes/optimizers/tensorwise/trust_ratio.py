"""The trust ratio: how long a layer's step may be beside its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from regimes.core.errors import DeclarationError


def trust_ratio(weights: Tensor, update: Tensor, clamp: tuple[float, float] | None = None) -> Tensor:
    r"""Return phi(||w||) / ||u||, by which an update becomes as long as phi(||w||); 1 where either length is 0.

    .. math:: \phi(z) = z \quad \text{or} \quad \min(\max(z, \gamma_l), \gamma_u)

    Parameters
    ----------
    weights, update : Tensor
        w and u, of any shape, each taken as one vector.
    clamp : two floats, optional
        gamma_l and gamma_u.

    Returns
    -------
    Tensor
        Of no dimension; nothing waits for the device.

    References
    ----------
    Y. You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020, arXiv:1904.00962.

    Examples
    --------
    >>> w, u = torch.tensor([30.0, 40.0]), torch.tensor([0.0, 2.0])
    >>> trust_ratio(w, u).item(), trust_ratio(w, u, (0.0, 10.0)).item(), trust_ratio(torch.zeros(2), u).item()
    (25.0, 5.0, 1.0)
    """
    dtype = torch.promote_types(weights.dtype, torch.float32)
    length, step = (torch.linalg.vector_norm(x, dtype=dtype) for x in (weights, update))
    wanted = length if clamp is None else length.clamp(*clamp)
    return torch.where((length > 0) & (step > 0), wanted / step, 1.0)


def check_clamp(clamp: tuple[float, float] | None) -> None:
    """Refuse bounds that are not in order.

    Raises
    ------
    DeclarationError
    """
    if clamp is not None and clamp[0] > clamp[1]:
        raise DeclarationError(f"got {clamp}; allowed: the lower bound first", "clamp")
