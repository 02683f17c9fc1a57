"""The inverse of a matrix that moved by one vector, in quadratic time."""

from __future__ import annotations

from torch import Tensor


def rank_one_inverse(inverse: Tensor, vector: Tensor, decay: float) -> Tensor:
    r"""Return the inverse of decay * M + (1 - decay) * v v^T from that of M (Sherman and Morrison).

    .. math:: \frac{1}{\gamma}\left(M^{-1} - \frac{(1 - \gamma)\, u u^\top}{\gamma + (1 - \gamma) v^\top u}\right),
              \qquad u = M^{-1} v

    A symmetric `inverse` stays symmetric bitwise. It stays positive definite as long as v^T u is small against the
    reciprocal of the type's rounding (about 1e7 in float32).

    Parameters
    ----------
    inverse : Tensor, shape (n, n)
        Symmetric, positive definite.
    vector : Tensor, shape (n,)
        v.
    decay : float
        gamma in (0, 1]; 1 leaves M as it is.

    References
    ----------
    J. Sherman and W. Morrison, Adjustment of an Inverse Matrix Corresponding to a Change in One Element of a Given
    Matrix, Annals of Mathematical Statistics 21, 1950.

    Examples
    --------
    >>> import torch
    >>> rank_one_inverse(torch.eye(2), torch.tensor([2.0, 0.0]), 0.5)  # of diag(2.5, 0.5)
    tensor([[0.4000, 0.0000],
            [0.0000, 2.0000]])
    """
    u = inverse @ vector
    share = (1.0 - decay) / (decay + (1.0 - decay) * (vector @ u))
    return (inverse - share * u.outer(u)) / decay
