"""Products of a Hessian with vectors, all from one graph of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


class HessianProducts:
    r"""The Hessian of a scalar loss in some tensors, as an operator on vectors.

    With g = \nabla L, whose graph is built once, and the tensors laid end to end as theta of length n

    .. math:: H v = \nabla_\theta \bigl(g(\theta)^\top v\bigr), \qquad H = \nabla^2 L(\theta)

    which is one more backward, through the forward and the backward of the loss. The graph lives as long as this does.

    Parameters
    ----------
    loss : callable
        ``loss()`` returns the scalar, with graph. It is called once, with torch's plain form of attention: the fused
        ones have no second derivative.
    leaves : sequence of Tensor
        What to differentiate by, each once, of one dtype. What the loss does not reach counts as flat; a tensor that
        is used in several places (tied weights) is one.

    Attributes
    ----------
    gradient : Tensor, shape (n,)
        Of the loss, without graph.

    Raises
    ------
    RuntimeError
        From torch, if the loss is no scalar or an operation in it has no second derivative.

    References
    ----------
    B. Pearlmutter, Fast Exact Multiplication by the Hessian, 1994.

    Examples
    --------
    The loss a^2 b has the Hessian [[2 b, 2 a], [2 a, 0]].

    >>> a, b = torch.tensor([3.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)
    >>> hessian = HessianProducts(lambda: (a**2 * b).sum(), [a, b])
    >>> hessian.gradient, hessian(torch.tensor([1.0, 0.0]))
    (tensor([30.,  9.]), tensor([10.,  6.]))
    >>> hessian(torch.eye(2))
    tensor([[10.,  6.],
            [ 6.,  0.]])
    """

    def __init__(self, loss: Callable[[], Tensor], leaves: Sequence[Tensor]) -> None:
        self._leaves = tuple(leaves)
        self._sizes = [leaf.numel() for leaf in self._leaves]
        with sdpa_kernel(SDPBackend.MATH):
            found = torch.autograd.grad(loss(), self._leaves, create_graph=True, allow_unused=True)
        # A gradient without graph is the same everywhere: its rows of the Hessian are zero.
        self._curved = [(place, g) for place, g in enumerate(found) if g is not None and g.requires_grad]
        steep = (torch.zeros_like(p) if g is None else g.detach() for p, g in zip(self._leaves, found))
        self.gradient = torch.cat([g.reshape(-1) for g in steep])

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return H v, shape (n,), or of a block of vectors in rows, shape (k, n), the product of each.

        Parameters
        ----------
        vectors : Tensor, shape (n,) or (k, n)
        """
        if vectors.ndim == 1:
            return self._product(vectors)
        # One at a time: a batched backward was dearer per vector on all but the smallest networks (docs/log.md).
        found = torch.empty_like(vectors)
        for row, vector in zip(found, vectors):
            row.copy_(self._product(vector))
        return found

    def _product(self, vector: Tensor) -> Tensor:
        if not self._curved:
            return torch.zeros_like(vector)
        pieces = vector.split(self._sizes)
        seeds = [pieces[place].view_as(g) for place, g in self._curved]
        found = torch.autograd.grad(
            [g for _, g in self._curved], self._leaves, seeds, retain_graph=True, materialize_grads=True
        )
        return torch.cat([g.reshape(-1) for g in found])
