"""Grow the batch when the gradients of single examples disagree too much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Controller, State
from regimes.core.progress import Progress
from regimes.core.registry import register

_PAPER = "logistic regression and a three-layer CNN on MNIST, ResNet-18 on CIFAR-10"


def _study(name: str, size: int) -> dict[str, Any]:
    """A batch that grows from 8, beside one that stays, after as many samples."""
    return {
        "workload": "digits_mlp",
        "compare": {
            "baseline": name,
            "metric": "acc",
            "better": "higher",
            "margin": 0.01,
            "equal": "samples",
            "seeds": 12,
            "trials": 4,
        },
        "tune": {"*.lr": "times(1/8, 8)"},
        "arms": {
            name: {"optimizer": "AdaGradNorm(lr=1.0)", "batch_size": size, "budget": "7680 samples"},
            "adaptive": {"like": name, "batch_size": "AdaptiveBatch(8, 256)"},
        },
    }


@register
class AdaptiveBatch(Controller):
    r"""Set the batch size so that the batch's gradient is within a share of its own length of the true one.

    From the gradients g_i of the b examples of a step, their mean g and the variances with divisor b - 1, a test asks
    whether b is large enough; if it is not, the batch becomes the size at which it would have been:

    - ``norm``: :math:`b' = \sum_j \operatorname{var}_j(g_{ij}) \,/\, (\eta^2 \lVert g \rVert^2)`
    - ``coordinate``: :math:`b' = \max_j \operatorname{var}_j(g_{ij}) \,/\, (\eta^2 g_j^2)`, over the coordinates with
      g_j not 0
    - ``inner_product``: the larger of
      :math:`\operatorname{var}_i(g_i^\top g) \,/\, (\eta^2 \lVert g \rVert^4)` and
      :math:`\frac{1}{b - 1} \sum_i \lVert g_i - \frac{g_i^\top g}{\lVert g \rVert^2} g \rVert^2 \,/\,
      (\nu^2 \lVert g \rVert^2)`

    .. math:: b \leftarrow \min(\max(b, \lceil b' \rceil), \text{end})

    Parameters
    ----------
    start, end : int
        First and largest batch size. `start` is at least 2: one example has no variance.
    eta : float
        Default 0.5; the inner-product test calls it theta.
    test : "norm", "coordinate" or "inner_product"
        Default norm.
    nu : float
        Of the inner-product test alone. Default 5.84 (Bollapragada et al.).

    Raises
    ------
    DeclarationError
        If end < start.

    Notes
    -----
    It reads the signal ``example_gradients``, whose price is a backward per example and their gradients in memory.
    Learning rates are not touched: schedules follow samples, not steps.

    References
    ----------
    T. T.-K. Lau, H. Liu and M. Kolar, AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods, 2024,
    arXiv:2402.11215; R. Bollapragada, R. Byrd and J. Nocedal, Adaptive Sampling Strategies for Stochastic Optimization,
    SIAM Journal on Optimization 2018, arXiv:1710.11258.

    Examples
    --------
    >>> control = AdaptiveBatch(2, 64, eta=1.0); state = control.init()
    >>> rows = {"w": torch.tensor([[3.0], [-1.0]])}  # mean 1, variance 8
    >>> control.value(control.observe(state, {"example_gradients": rows}, Progress()), Progress())
    8.0
    """

    start: int = fixed(low=2)
    end: int = fixed(low=2)
    eta: float = fixed(0.5, above=0)
    test: Literal["norm", "coordinate", "inner_product"] = fixed("norm")
    nu: float = fixed(5.84, above=0)

    needs = ("example_gradients",)
    card = Card(
        title="Batch size follows the variance of examples' gradients",
        axes=("regime",),
        source="Lau, Liu and Kolar 2024, arXiv:2402.11215; Bollapragada et al. 2018, arXiv:1710.11258",
        when="Small models; few updates at the end are worth more than many.",
        cost="a backward per example and step",
        shelf="atlas",
        rows=("adadagrad",),
        defaults={"eta": "ours; the paper uses 0.1 to 0.5 by task", "nu": "5.84, Bollapragada et al."},
        deviations=("The variance is of single examples; with several workers the paper takes that of their means.",),
        claims=(
            Claim(
                "After as many samples it is more right than with the largest batch from the beginning.",
                _study("large", 256),
                paper_scale=_PAPER,
            ),
            Claim(
                "It is as right as with batches of 8, or more so, within a point.",
                _study("small", 8),
                paper_scale=_PAPER,
                says="not worse",
            ),
            Claim(
                "It makes at most half of the updates that batches of 8 make of as many samples.",
                {"seeds": 8, "margin": 1.0, "scale": "digits_mlp, 4,810 parameters, 7,680 samples, log2 of updates"},
                paper_scale=_PAPER,
                measure="regimes.claims.batches:updates",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[AdaptiveBatch]:
        """Every test, small enough to grow."""
        return [cls(2, 12, 2.0, "norm"), cls(3, 40, 9.0, "coordinate"), cls(2, 30, 4.0, "inner_product", 2.0)]

    def validate(self) -> None:
        """Refuse an empty range."""
        if self.end < self.start:
            raise DeclarationError(f"got {self.end}; allowed: at least start ({self.start})", "end")

    def init(self) -> State:
        """Nothing measured."""
        return {"size": float(self.start)}

    def value(self, state: State, at: Progress) -> float:
        """The batch size."""
        return state["size"]

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Make the batch as large as the step's gradients ask for."""
        rows: Mapping[str, Tensor] | None = signals.get("example_gradients")
        if rows is None or len(next(iter(rows.values()))) < 2:
            return state
        asked = self._asked(rows)
        if math.isfinite(asked):
            # A ratio that is meant to be whole may be a rounding above it.
            asked = float(math.ceil(asked * (1.0 - 1e-9)))
        return {"size": min(max(state["size"], asked), float(self.end))}

    def _asked(self, rows: Mapping[str, Tensor]) -> float:
        """b': the size at which the test would have been passed; infinite where there is no gradient to be near to."""
        if self.test == "coordinate":
            return max(_coordinate(part) for part in rows.values()) / self.eta**2
        found = moments(rows)
        if found.trace == 0.0:
            return 0.0
        if found.square == 0.0:
            return math.inf
        if self.test == "norm":
            return found.trace / (self.eta**2 * found.square)
        along = found.along / (self.eta**2 * found.square**2)
        return max(along, (found.trace - found.along / found.square) / (self.nu**2 * found.square))


class Moments(NamedTuple):
    """Of gradients g_i of examples and their mean g: |g|^2, the trace of their covariance, the variance of g_i . g."""

    square: float
    trace: float
    along: float


def moments(rows: Mapping[str, Tensor]) -> Moments:
    r"""Return the moments of gradients of examples, by parameter name, shape ``(n, *shape)``.

    Examples
    --------
    >>> moments({"w": torch.tensor([[3.0, 0.0], [1.0, 0.0]]), "b": torch.tensor([1.0, -1.0])})
    Moments(square=4.0, trace=4.0, along=8.0)
    """
    n, square, trace = len(next(iter(rows.values()))), 0.0, 0.0
    along = torch.zeros(n, dtype=torch.float64)
    for part in rows.values():
        flat = part.detach().reshape(n, -1).double()
        mean = flat.mean(0)
        square += float(mean @ mean)
        trace += float((flat - mean).square().sum()) / (n - 1)
        along += (flat @ mean).cpu()
    return Moments(square, trace, float(along.var()))


def _coordinate(part: Tensor) -> float:
    """Largest ratio of variance to squared mean; a coordinate without mean says nothing."""
    flat = part.detach().reshape(len(part), -1).double()
    mean, variance = flat.mean(0), flat.var(0)
    known = mean != 0.0
    return float((variance[known] / mean[known].square()).max()) if bool(known.any()) else 0.0
