"""How much more sharply is the loss of a small batch curved than that of the whole?"""

from __future__ import annotations

import math
from typing import Any

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.curvature import HessianProducts
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.sharpness import lanczos, start_vector
from regimes.probes.view import View, length

_SCALE = "digits, MLP 64-16-10, 200 steps of SGD, 12 batches of each size 8, 16, ... 512"


@register
class BatchHessianSpectrum(ViewProbe):
    r"""Mean largest eigenvalue of the Hessian on batches of several sizes, and that of a large one.

    With B the size, n the examples of the large batch and H_B the Hessian of the mean loss on B examples

    .. math::
        \lambda(B) = \mathbb{E} \, \lambda_1(H_B), \qquad
        \lambda(B) \approx \lambda(n) + \frac{c}{B}, \quad c = \frac{P s^2}{\lambda(n)}

    where the second is the paper's: the batch adds independent entries of variance s^2 / B to the P x P matrix, which
    push an eigenvalue that stands out further out (`spiked_eigenvalue`). Rates stay stable up to about 2 / lambda(B):
    they may grow as the batch while c / B is what counts, and no more beyond B = c / lambda.

    Values: "" (that of the large batch), ``batch_B`` for each size, and ``excess``, c by least squares over the sizes.

    Parameters
    ----------
    sizes : tuple of int
        B. Default 8, 32 and 128.
    batches : int
        Most disjoint batches of a size; sizes above half of n, as it is, are left out. Default 12.
    examples : int
        n. Default 1024. In a loop of one's own it is the batch that is given, and the sizes are pieces of it.
    iterations : int
        Most products for an eigenvalue, as in `Sharpness`. Default 10.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If there is no size, one is below 1, or none is at most half of the large batch.

    References
    ----------
    D. Granziol, S. Zohren and S. Roberts, Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach
    to Neural Network Training, JMLR 2022, arXiv:2006.09092.

    Examples
    --------
    Half the mean of (x w)^2 has the curvature mean x^2, the same in every half of this batch.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[1.0], [3.0], [3.0], [1.0]])
    >>> found = BatchHessianSpectrum(sizes=(1, 2))(model, lambda m, x: m(x).square().mean() / 2, x)
    >>> {name: round(value, 4) for name, value in found.items()}
    {'': 5.0, 'batch_1': 5.0, 'batch_2': 5.0, 'excess': 0.0}
    """

    sizes: tuple[int, ...] = fixed((8, 32, 128), low=1)
    batches: int = fixed(12, low=1)
    examples: int = fixed(1024, low=1)
    iterations: int = fixed(10, low=1)

    card = Card(
        title="Largest eigenvalue of the Hessian by batch size",
        axes=("rates", "regime"),
        source="Granziol, Zohren and Roberts 2022, arXiv:2006.09092",
        when="Up to which batch may the rate grow with it?",
        cost="about 30 gradients for each batch: of 12 batches of three sizes, and of the large one",
        shelf="atlas",
        rows=("rmt-lr-batch-scaling",),
        defaults={"iterations": "10, ours; the paper's number was not read"},
        deviations=(
            "A fixed large batch stands for all data, and one largest eigenvalue for the spectrum.",
            "The paper's rate and momentum from Lanczos on the way are not a component: heavy_ball gives them for two "
            "eigenvalues.",
            "That the largest stable rate of Adam grows as the root of the batch is not re-tested.",
        ),
        claims=(
            Claim(
                "On batches of 8 the mean largest eigenvalue exceeds that of all training data by at least 30%.",
                {"seeds": 6, "margin": 0.3, "scale": _SCALE},
                paper_scale="VGG and WideResNet on CIFAR-100",
                measure="regimes.claims.batch_hessians:ratio_at_eight",
            ),
            Claim(
                "The mean falls with the batch: Spearman's correlation of the two is at most -0.8.",
                {"seeds": 6, "margin": 0.8, "scale": _SCALE},
                paper_scale="VGG and WideResNet on CIFAR-100",
                measure="regimes.claims.batch_hessians:falls",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.sizes:
            raise DeclarationError("got no size; allowed: one or more, for example 32", "sizes")

    def measure(self, view: View) -> dict[str, float]:
        """Return the eigenvalues and the fit."""
        large = view.fixed(self.examples)
        whole, found = self._top(view, large), {}
        for size in self.sizes:
            if 2 * size <= length(large):
                tops = [self._top(view, batch) for batch in view.batches(self.batches, size)]
                found[size] = math.fsum(tops) / len(tops)
        if not found:
            raise DeclarationError(
                f"got {list(self.sizes)}; allowed: at most {length(large) // 2} here, half of all", "sizes"
            )
        excess = math.fsum((top - whole) / size for size, top in found.items())
        excess /= math.fsum(size**-2 for size in found)
        return {"": whole, **{f"batch_{size}": top for size, top in found.items()}, "excess": excess}

    def _top(self, view: View, batch: Any) -> float:
        hessian = HessianProducts(lambda: view.loss(batch), list(view.parameters.values()))
        start = start_vector(hessian.gradient)
        return float(lanczos(hessian, start, self.iterations, top=1, bottom=0, tolerance=1e-6).values[-1])


def spiked_eigenvalue(top: float, noise: float) -> float:
    r"""Largest eigenvalue of a large matrix whose own is `top`, after symmetric noise whose spectrum ends at 2 `noise`.

    .. math:: \lambda + \frac{\sigma^2}{\lambda} \;\text{ for }\; \lambda > \sigma, \qquad 2 \sigma \;\text{ else}

    the limit for n x n matrices with independent entries of standard deviation sigma / sqrt(n).

    Parameters
    ----------
    top : float
        lambda.
    noise : float
        sigma, at least 0.

    References
    ----------
    D. Granziol, S. Zohren and S. Roberts, JMLR 2022, arXiv:2006.09092; F. Benaych-Georges and R. Nadakuditi, The
    eigenvalues and eigenvectors of finite, low rank perturbations of large random matrices, 2011.

    Examples
    --------
    >>> spiked_eigenvalue(2.0, 1.0), spiked_eigenvalue(0.5, 1.0)
    (2.5, 2.0)
    """
    return top + noise**2 / top if top > noise else 2.0 * noise


def heavy_ball(smallest: float, largest: float) -> tuple[float, float]:
    r"""Rate and momentum of SGD that are optimal on a quadratic with eigenvalues between these.

    .. math::
        \eta = \left( \frac{2}{\sqrt{\lambda_n} + \sqrt{\lambda_1}} \right)^2, \qquad
        \mu = \left( \frac{\sqrt{\lambda_1} - \sqrt{\lambda_n}}{\sqrt{\lambda_1} + \sqrt{\lambda_n}} \right)^2

    Parameters
    ----------
    smallest, largest : float
        lambda_n and lambda_1, above 0.

    Raises
    ------
    DeclarationError
        If not 0 < smallest <= largest.

    References
    ----------
    B. Polyak, Some methods of speeding up the convergence of iteration methods, 1964; D. Granziol, S. Zohren and
    S. Roberts, JMLR 2022, arXiv:2006.09092.

    Examples
    --------
    >>> heavy_ball(1.0, 9.0)
    (0.25, 0.25)
    """
    if not 0 < smallest <= largest:
        raise DeclarationError(f"got {smallest} and {largest}; allowed: above 0, the smaller one first", "smallest")
    low, high = math.sqrt(smallest), math.sqrt(largest)
    return (2 / (low + high)) ** 2, ((high - low) / (high + low)) ** 2
