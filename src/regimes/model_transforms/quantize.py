"""Weights on a grid of few values: to the nearest, or with each error made good by the columns that follow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """The values that a row may take: scale * (k - zero) for k = 0, 1, ..., top.

    Parameters
    ----------
    scale, zero : Tensor, shape (rows, 1)
        Step and the k that stands for 0, whole.
    top : int
        2^bits - 1.
    """

    scale: Tensor
    zero: Tensor
    top: int

    @classmethod
    def of(cls, w: Tensor, bits: int) -> Grid:
        """Return the grid from the least to the largest entry of each row of `w`, 0 always among its values."""
        low, high = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
        top = 2**bits - 1
        scale = torch.where(high > low, (high - low) / top, 1.0)
        return cls(scale, torch.round(-low / scale), top)

    def nearest(self, w: Tensor) -> Tensor:
        """Return the nearest value of each entry's row; w has shape (rows, columns)."""
        return self.scale * ((w / self.scale).round().add(self.zero).clamp(0, self.top) - self.zero)


def round_to_nearest(W: Tensor, bits: int, group: int | None = None) -> Tensor:
    """Return the weights, each at the nearest value of its row's grid, or of its row's in its group of columns.

    Parameters
    ----------
    W : Tensor, shape (out, in)
    bits : int
    group : int, optional
        Columns that share a grid; None: all.

    Examples
    --------
    >>> round_to_nearest(torch.tensor([[0.0, 0.4, 1.0, 3.0]]), bits=2)
    tensor([[0., 0., 1., 3.]])
    >>> round_to_nearest(torch.tensor([[0.0, 0.4, 1.0, 3.0]]), bits=2, group=2)[0, :2]
    tensor([0.0000, 0.4000])
    """
    parts = W.split(group or W.shape[1], dim=1)
    return torch.cat([Grid.of(part, bits).nearest(part) for part in parts], 1)


def hessian(X: Tensor) -> Tensor:
    """Return H = 2 X^T X in float64, the curvature of ||W X^T - Q X^T||^2 in each row of W.

    Parameters
    ----------
    X : Tensor, shape (rows, in)
        Inputs as a linear layer sees them: the paper's X, transposed.
    """
    X = X.double()
    return 2.0 * X.T @ X


def gptq(
    W: Tensor,
    X: Tensor,
    bits: int,
    *,
    group: int | None = None,
    damp: float = 0.01,
    order: bool = False,
    block: int = 128,
) -> Tensor:
    """Return weights on the grid for which the layer's output on X changes little; see `gptq_from_hessian`.

    Parameters
    ----------
    W : Tensor, shape (out, in)
    X : Tensor, shape (rows, in)
    bits, group, damp, order, block
        As there.

    Examples
    --------
    >>> W, X = torch.tensor([[0.0, 0.4, 0.4, 0.4, 3.0]]), torch.ones(1, 5)  # the output is the row's sum, 4.2
    >>> gptq(W, X, bits=2)
    tensor([[0., 0., 1., 0., 3.]])
    >>> round_to_nearest(W, bits=2)
    tensor([[0., 0., 0., 0., 3.]])
    """
    return gptq_from_hessian(W, hessian(X), bits, group=group, damp=damp, order=order, block=block)


def gptq_from_hessian(
    W: Tensor,
    H: Tensor,
    bits: int,
    *,
    group: int | None = None,
    damp: float = 0.01,
    order: bool = False,
    block: int = 128,
) -> Tensor:
    r"""Quantize column after column; the columns that follow make good what each one's rounding does to the output.

    With U the upper Cholesky factor of H^-1 (H^-1 = U^T U), for j = 1, 2, ...

    .. math:: q_j = \text{nearest}(w_j), \qquad e = (w_j - q_j) / U_{jj}, \qquad w_k \leftarrow w_k - e\, U_{jk}
              \quad (k > j)

    which is the optimal-brain-surgeon update of the columns not yet quantized. A column that no input ever reaches
    (H_jj = 0) becomes 0.

    Parameters
    ----------
    W : Tensor, shape (out, in)
    H : Tensor, shape (in, in)
        `hessian` of the inputs; computed with in its type.
    bits : int
        Of the grid, which is that of the rows as they stand when the first of its columns is reached.
    group : int, optional
        Columns (in the order in which they are taken) that share a grid; None: all.
    damp : float
        Added to H's diagonal, as a share of its mean. Default 0.01, the paper's.
    order : bool
        Take columns by falling H_jj instead of from left to right.
    block : int
        Columns whose errors reach the others in one product of matrices; changes speed alone. Default 128, the
        paper's.

    References
    ----------
    E. Frantar, S. Ashkboos, T. Hoefler and D. Alistarh, GPTQ: Accurate Post-Training Quantization for Generative
    Pre-trained Transformers, ICLR 2023, arXiv:2210.17323.
    """
    columns, H, w = W.shape[1], H.clone(), W.to(H.dtype, copy=True)
    diagonal = H.diagonal()  # a view
    dead = diagonal == 0
    diagonal[dead], w[:, dead] = 1.0, 0.0
    diagonal += damp * diagonal.mean()
    taken = diagonal.argsort(descending=True, stable=True) if order else torch.arange(columns, device=W.device)
    w, U = w[:, taken], _factor(H[taken][:, taken])
    q, group = torch.empty_like(w), group or columns
    # A grid is made from columns that know all earlier errors: a block ends where a group begins.
    starts = sorted({*range(0, columns, block), *range(0, columns, group)})
    for start, end in zip(starts, [*starts[1:], columns]):
        if start % group == 0:
            grid = Grid.of(w[:, start : start + group], bits)
        errors = torch.empty_like(w[:, start:end])
        for j in range(start, end):
            q[:, j] = grid.nearest(w[:, j : j + 1])[:, 0]
            errors[:, j - start] = (w[:, j] - q[:, j]) / U[j, j]
            w[:, j + 1 : end] -= errors[:, j - start].outer(U[j, j + 1 : end])
        w[:, end:] -= errors @ U[start:end, end:]
    return q[:, taken.argsort()].to(W.dtype)


def _factor(H: Tensor) -> Tensor:
    """The upper triangular U with U^T U = H^-1."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
    return torch.linalg.cholesky(inverse, upper=True)
