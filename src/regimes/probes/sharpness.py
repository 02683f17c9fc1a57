"""How sharply curved is the loss?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.curvature import HessianProducts
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.view import View

Values = NDArray[np.float64]


@register
class Sharpness(ViewProbe):
    r"""Largest eigenvalue of the Hessian of the mean loss on a fixed batch, by Lanczos.

    With H = \nabla^2 L and an orthonormal basis q_1 ... q_k of the Krylov space of H and q_1, where q_1 is the gradient
    plus a tenth of a fixed random vector (the gradient lies near the sharp directions and saves products; the other
    part is orthogonal to none of them)

    .. math:: H q_j = \beta_{j-1} q_{j-1} + \alpha_j q_j + \beta_j q_{j+1}, \qquad
              \lambda_1(H) \approx \lambda_1\bigl(\operatorname{tridiag}(\beta, \alpha, \beta)\bigr)

    Every basis vector is orthogonalized against all earlier ones, twice. The graph of the gradient is built once and
    each product H q is one more backward through it.

    Values: "" (the largest eigenvalue), ``top_2``, ``top_3`` ... and ``bottom_1`` ... where asked for, ``iterations``
    (k, products made) and ``error``, the estimated error of the worst of these, relative to the largest in size. A
    negative top means that the loss is concave around here along everything seen.

    Parameters
    ----------
    examples : int
        Training examples in the fixed batch. Default 256. In a loop of one's own it is the batch that is given.
    top, bottom : int
        How many of the largest and smallest eigenvalues. Default 1 and 0.
    iterations : int
        Most products. Default 10: with the graph about 30 gradients. A network that has hardly trained may need 20 for
        five digits; `error` says so.
    tolerance : float
        Stop when the estimated error is below it. Default 1e-6.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If `top` and `bottom` together exceed `iterations`.

    References
    ----------
    C. Lanczos, An iteration method for the solution of the eigenvalue problem, 1950; B. Pearlmutter, Fast Exact
    Multiplication by the Hessian, 1994; J. Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the
    Edge of Stability, ICLR 2021, arXiv:2103.00065 (sharpness against 2 / lr); B. Parlett, The Symmetric Eigenvalue
    Problem, 1998, chapters 11 and 13 (the error estimate).

    Examples
    --------
    The loss 3 a^2 + b^2 / 2 has the Hessian diag(6, 1).

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> bowl = lambda m, scale: (m.weight.view(-1) ** 2 * scale).sum()
    >>> found = Sharpness(bottom=1)(model, bowl, torch.tensor([3.0, 0.5]))
    >>> {name: round(v, 4) for name, v in found.items()}
    {'': 6.0, 'bottom_1': 1.0, 'iterations': 2, 'error': 0.0}
    """

    examples: int = fixed(256, low=1)
    top: int = fixed(1, low=1)
    bottom: int = fixed(0, low=0)
    iterations: int = fixed(10, low=1)
    tolerance: float = fixed(1e-6, above=0)

    card = Card(
        title="Largest eigenvalue of the Hessian",
        axes=("rates", "regime"),
        source="Cohen et al. 2021, arXiv:2103.00065; Lanczos 1950",
        when="Is the learning rate at the edge of stability, 2 / lr? Is the minimum flat?",
        cost="about 30 gradients on 256 examples, and as many copies of the weights as iterations",
        deviations=("One fixed batch stands for the training set.",),
    )

    def validate(self) -> None:
        """Refuse more eigenvalues than iterations can give."""
        if self.top + self.bottom > self.iterations:
            raise DeclarationError(
                f"got {self.iterations} for {self.top + self.bottom} eigenvalues; allowed: at least as many",
                "iterations",
            )

    def measure(self, view: View) -> dict[str, float]:
        """Return the eigenvalues asked for, the number of products and the estimated error."""
        leaves = list(view.parameters.values())
        hessian = HessianProducts(lambda: view.loss(view.fixed(self.examples)), leaves)
        start = start_vector(hessian.gradient)
        spectrum = lanczos(hessian, start, self.iterations, self.top, self.bottom, self.tolerance)
        values = spectrum.values.tolist()
        tops = {("" if i == 0 else f"top_{i + 1}"): value for i, value in enumerate(values[::-1][: self.top])}
        bottoms = {f"bottom_{i + 1}": value for i, value in enumerate(values[: self.bottom])}
        return {**tops, **bottoms, "iterations": spectrum.iterations, "error": spectrum.error}


def start_vector(steep: Tensor) -> Tensor:
    """Direction of the gradient plus 0.1 of that of a fixed vector of independent normal numbers."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(steep), generator=generator, dtype=torch.float64).to(steep)
    length = steep.norm()
    return 0.1 * noise / noise.norm() + (steep / length if length > 0 else 0.0)


class Spectrum(NamedTuple):
    """Ritz values in ascending order, products made, and the estimated relative error of the wanted ones."""

    values: Values
    iterations: int
    error: float


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, iterations: int, top: int, bottom: int, tolerance: float
) -> Spectrum:
    """Extreme eigenvalues of a symmetric operator by Lanczos with full reorthogonalization.

    Parameters
    ----------
    product : callable
        The operator on a vector.
    start : Tensor, shape (n,)
    iterations : int
        Most products; fewer where the wanted values have converged or the Krylov space is exhausted.
    top, bottom : int
        How many of the largest and smallest eigenvalues are wanted.
    tolerance : float
        On the estimated error relative to the largest Ritz value in size.

    Examples
    --------
    >>> matrix = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    >>> found = lanczos(lambda v: matrix @ v, torch.ones(6, dtype=torch.float64), 6, top=1, bottom=1, tolerance=1e-12)
    >>> [round(value, 6) for value in found.values[[0, -1]].tolist()], found.iterations
    ([1.0, 6.0], 6)
    """
    most = min(iterations, len(start))
    basis = start.new_zeros(most, len(start))
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    off: list[float] = []
    while True:
        k = len(diagonal)
        vector = product(basis[k])
        diagonal.append(torch.dot(vector, basis[k]).item())
        seen = basis[: k + 1]
        for _ in range(2):  # once loses orthogonality again where much cancels
            vector = vector - seen.T @ (seen @ vector)
        beta = vector.norm().item()
        values, errors = _ritz(diagonal, off, beta)
        scale = max(abs(values[0]), abs(values[-1])).item()
        error = max([*errors[:bottom], *errors[-top:]]).item() / scale if scale > 0.0 else 0.0
        exhausted = beta <= 10 * torch.finfo(start.dtype).eps * max(scale, torch.finfo(start.dtype).tiny)
        if k + 1 == most or exhausted or (k + 1 > top + bottom and error <= tolerance):
            return Spectrum(values, k + 1, error)
        off.append(beta)
        basis[k + 1] = vector / beta


def _ritz(diagonal: list[float], off: list[float], beta: float) -> tuple[Values, Values]:
    """Eigenvalues of the tridiagonal matrix and an estimate of the error of each.

    The residual r bounds the error; where neighbours are a gap away, r^2 / gap does, too, and is far smaller.
    """
    # In numpy: matrices this small took torch twice as long, half a gradient of a small network.
    k = len(diagonal)
    matrix = np.zeros((k, k))
    matrix.flat[:: k + 1] = diagonal
    matrix.flat[k :: k + 1] = off  # of the lower triangle, which is all that is read
    values, vectors = np.linalg.eigh(matrix)
    residuals = beta * np.abs(vectors[-1])
    if k == 1:
        return values, residuals
    gaps = np.full(k, np.inf)
    gaps[1:] = apart = values[1:] - values[:-1]
    gaps[:-1] = np.minimum(gaps[:-1], apart)
    gaps -= residuals
    sharper = np.where(gaps > 0, residuals**2 / np.maximum(gaps, 1e-300), residuals)
    return values, np.minimum(residuals, sharper)
