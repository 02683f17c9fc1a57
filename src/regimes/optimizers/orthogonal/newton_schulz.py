"""The Newton-Schulz iteration that pushes all singular values of a matrix towards 1."""

from __future__ import annotations

import torch
from torch import Tensor

#: a, b, c of Keller Jordan's quintic: steepest at 0, so that small singular values grow fastest.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
#: Steps made on the smaller side before the matrix itself is multiplied.
_AT_ONCE = 3


def newton_schulz(
    matrix: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Return an approximately orthogonal matrix with the singular vectors of `matrix`.

    With X_0 = G / max(||G||_F, eps), transposed where it is taller than wide,

    .. math:: A = X X^\top, \qquad X \leftarrow a X + (b A + c A^2) X

    so that each singular value follows s <- a s + b s^3 + c s^5. With the default coefficients five steps take
    [0.01, 1] into [0.68, 1.14]; they do not converge to 1, and need not.

    Parameters
    ----------
    matrix : Tensor, shape (rows, columns)
        G; it is not changed.
    steps : int
        Number of iterations. Default 5 (Jordan et al. 2024).
    coefficients : tuple of float
        a, b, c.
    eps : float
        Least norm divided by.
    dtype : torch.dtype
        In which to iterate: bfloat16 is enough, and fast on a GPU; on a CPU without instructions for it float32 is
        faster.

    Returns
    -------
    Tensor, shape (rows, columns)
        In `dtype`.

    References
    ----------
    K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; in bfloat16 the same
    order of operations as torch.optim.Muon, which gives its bits.

    Examples
    --------
    >>> x = newton_schulz(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    >>> [round(v, 2) for v in torch.linalg.svdvals(x.double()).tolist()]
    [1.12, 0.7, 0.68]
    """
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.to(dtype, copy=True)
    x.div_(x.norm().clamp(min=eps))
    if dtype != torch.bfloat16 and max(x.shape) >= 2 * min(x.shape):
        return _by_small_products(x, tall, steps, coefficients)
    a, b, c = coefficients
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if tall else x


def _by_small_products(x: Tensor, tall: bool, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    """The same polynomial, several steps at once on the smaller side: of a matrix 4 by 1, two thirds of the products.

    With Q = a I + b A + c A^2 a step is X <- Q X and A <- Q A Q. Squares of small singular values are lost in A's
    rounding, so A is taken from X anew after three steps, by which they have grown forty times.
    """
    a, b, c = coefficients
    for start in range(0, steps, _AT_ONCE):
        gram = x.T @ x if tall else x @ x.T
        together: Tensor | None = None
        for left in reversed(range(min(_AT_ONCE, steps - start))):
            factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal().add_(a)
            together = factor if together is None else factor @ together
            if left:
                gram = factor @ (gram @ factor)
        assert together is not None
        x = x @ together if tall else together @ x
    return x
