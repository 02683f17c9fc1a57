"""The inverse of an empirical Fisher matrix of the last gradients, without a matrix of its size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: Numbers of the window that are held in float64 at a time.
_BLOCK = 2**22


class EmpiricalFisherInverse:
    r"""The inverse of :math:`F = \lambda I + \frac1m \sum_{i=1}^m g_i g_i^\top` over a window of m gradients.

    With the window's rows G (m, d), of which those that have not come yet are zero, and c solved from a system of m
    numbers

    .. math:: F^{-1} x = \frac1\lambda \bigl(x - G^\top c\bigr), \qquad (m \lambda I + G G^\top)\, c = G x

    A new gradient takes the oldest one's place: one row and column of :math:`G G^\top` are made anew in O(dm), the
    system is factored by Cholesky in O(m^3), a product costs O(dm + m^2).

    Parameters
    ----------
    ngrads : int
        m.
    size : int
        d, the numbers of a gradient.
    damp : float
        lambda. Default 1e-5, the authors' code's.
    dtype, device : optional
        Of the window. Arithmetic is float64 throughout.
    state : dict, optional
        The `state` of an earlier one, to go on from: ``gradients``, ``products`` and ``oldest``.

    References
    ----------
    E. Frantar, E. Kurtic and D. Alistarh, M-FAC: Efficient Matrix-Free Approximations of Second-Order Information,
    NeurIPS 2021, arXiv:2107.03356. The recursions there compute the same products.

    Examples
    --------
    >>> fisher = EmpiricalFisherInverse(ngrads=2, size=2, damp=0.5)
    >>> fisher.update(torch.tensor([2.0, 0.0]))  # F = diag(0.5 + 4 / 2, 0.5)
    >>> fisher.mul(torch.tensor([1.0, 1.0])), fisher.diag(), round(fisher.entry(0, 0), 6)
    (tensor([0.4000, 2.0000]), tensor([0.4000, 2.0000]), 0.4)
    """

    def __init__(
        self,
        ngrads: int,
        size: int,
        damp: float = 1e-5,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.damp = damp
        self.state = state or {
            "gradients": torch.zeros(ngrads, size, dtype=dtype, device=device),
            "products": torch.zeros(ngrads, ngrads, dtype=torch.float64, device=device),
            "oldest": 0,
        }
        self._lower: Tensor | None = None

    def update(self, gradient: Tensor) -> None:
        """Take in a gradient, shape (d,), in place of the oldest.

        Raises
        ------
        torch.linalg.LinAlgError
            If the system has no factor in float64, the gradients being too large for the damping; nothing is changed.
        """
        window, place = self.state["gradients"], self.state["oldest"]
        gradient = gradient.to(window.dtype)
        row = self._on_window(gradient)
        row[place] = gradient.double().square().sum()
        products = self.state["products"].clone()
        products[place], products[:, place] = row, row
        self._lower = self._factor(products)
        self.state["products"].copy_(products)
        window[place] = gradient
        self.state["oldest"] = (place + 1) % len(window)

    def mul(self, x: Tensor) -> Tensor:
        """Return F^-1 x, shape (d,), in the type of `x`."""
        c = self._solved(self._on_window(x))
        return torch.cat([(x[at].double() - part.T @ c) / self.damp for at, part in self._blocks()]).to(x.dtype)

    def newest(self) -> Tensor:
        r"""Return F^-1 g of the gradient g that came last, shape (d,).

        .. math:: F^{-1} g_j = m\, G^\top (m \lambda I + G G^\top)^{-1} e_j

        which is the same and subtracts nothing: g lies in the window, so that almost all of ``mul(g)`` cancels.
        """
        window = self.state["gradients"]
        place = (self.state["oldest"] - 1) % len(window)
        unit = torch.zeros(len(window), dtype=torch.float64, device=window.device)
        unit[place] = float(len(window))
        c = self._solved(unit)
        return torch.cat([part.T @ c for _, part in self._blocks()]).to(window.dtype)

    def diag(self) -> Tensor:
        """Return the diagonal of F^-1, shape (d,)."""
        found = [
            (1.0 - torch.linalg.solve_triangular(self._cholesky(), part, upper=False).square().sum(0)) / self.damp
            for _, part in self._blocks()
        ]
        return torch.cat(found).to(self.state["gradients"].dtype)

    def entry(self, i: int, j: int) -> float:
        """Return one entry of F^-1."""
        column, row = (self.state["gradients"][:, place].double() for place in (i, j))
        return float((float(i == j) - column @ self._solved(row)) / self.damp)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Some columns of the window at a time, in float64."""
        window = self.state["gradients"]
        width = max(1, _BLOCK // len(window))
        for start in range(0, window.shape[1], width):
            at = slice(start, start + width)
            yield at, window[:, at].double()

    def _on_window(self, x: Tensor) -> Tensor:
        """G x."""
        return torch.stack([part @ x[at].double() for at, part in self._blocks()]).sum(0)

    def _cholesky(self) -> Tensor:
        if self._lower is None:
            self._lower = self._factor(self.state["products"])
        return self._lower

    def _factor(self, products: Tensor) -> Tensor:
        damping = len(products) * self.damp * torch.eye(len(products), dtype=products.dtype, device=products.device)
        return torch.linalg.cholesky(products + damping)

    def _solved(self, right: Tensor) -> Tensor:
        return torch.cholesky_solve(right[:, None], self._cholesky())[:, 0]
