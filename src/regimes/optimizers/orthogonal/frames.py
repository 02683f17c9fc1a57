"""Frames along the singular vectors of a matrix's smaller side: what rules that keep moments in one share."""

from __future__ import annotations

import torch
from torch import Tensor


def smaller_basis(matrix: Tensor) -> Tensor:
    r"""Return the singular vectors of a matrix on its smaller side, as columns, that of the largest value first.

    Of M = U S V^T with shape (A, B) that is V, shape (B, B), where A >= B, and else U, shape (A, A): orthogonal, since
    nothing is left out. Signs are as the decomposition gives them; half precision is decomposed in float32.

    Examples
    --------
    >>> smaller_basis(torch.tensor([[0.0, 3.0], [2.0, 0.0], [0.0, 0.0]])).abs()
    tensor([[0., 1.],
            [1., 0.]])
    """
    rows, columns = matrix.shape
    u, _, v = torch.linalg.svd(matrix.to(torch.promote_types(matrix.dtype, torch.float32)), full_matrices=False)
    return v.T.contiguous() if rows >= columns else u


def into_frame(matrix: Tensor, basis: Tensor) -> Tensor:
    """Return M V of a matrix that is at least as tall as wide, U^T M of one that is wider.

    Parameters
    ----------
    matrix : Tensor, shape (A, B)
    basis : Tensor
        As `smaller_basis` gives it, or some of its columns.
    """
    return matrix @ basis if matrix.shape[0] >= matrix.shape[1] else basis.T @ matrix


def out_of_frame(matrix: Tensor, basis: Tensor) -> Tensor:
    """Return what `into_frame` made M V or U^T M of, with a whole basis to rounding.

    Examples
    --------
    >>> m = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]])
    >>> basis = smaller_basis(m)
    >>> torch.allclose(out_of_frame(into_frame(m, basis), basis), m, atol=1e-5)
    True
    """
    return matrix @ basis.T if matrix.shape[0] >= matrix.shape[1] else basis @ matrix
