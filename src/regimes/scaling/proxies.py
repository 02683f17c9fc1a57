"""What small runs tell of large ones: how much the rate matters, and at which size a measurement passes a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regimes.core.card import Card, described
from regimes.core.errors import DeclarationError, show

_SOURCE = (
    "Wortsman et al. 2024, Small-scale proxies for large-scale Transformer training instabilities, arXiv:2309.14322"
)


@described(
    Card(
        title="How much the rate matters",
        axes=("rates",),
        source=_SOURCE,
        when="Interventions are compared by how wide the range of good rates is, not by the best one alone.",
        cost="a run at each rate",
        shelf="atlas",
        rows=("small-scale-proxies",),
        deviations=("The best loss is that of the rates that were tried.",),
    )
)
def lr_sensitivity(rates: Sequence[float], losses: Sequence[float], start: float) -> float:
    r"""Return what a rate costs on average over the best one, with a range of rates in which no run counts as worse than none.

    For rates evenly spaced in their logarithm, with final losses l_i and the loss l_0 before training

    .. math:: \frac1n \sum_{i=1}^{n} \min(l_i, l_0) - \min_i \min(l_i, l_0)

    It is 0 where the rate does not matter, and at most l_0 minus the best.

    Parameters
    ----------
    rates : sequence of float
        Two or more, from the least to the largest; the paper's go from 3e-4 to 3e-1.
    losses : sequence of float
        What the run at each rate ended with; NaN, of one that diverged, counts as l_0.
    start : float
        l_0.

    Raises
    ------
    DeclarationError
        If rates and losses are not as many, rates do not rise, or one is farther from the next, as a factor's logarithm,
        than half as much again as another: their mean would be of no range.

    References
    ----------
    M. Wortsman et al., ICLR 2024, arXiv:2309.14322, section 2.2.

    Examples
    --------
    >>> round(lr_sensitivity([0.01, 0.1, 1.0, 10.0], [2.5, 2.0, 3.0, float("nan")], start=4.0), 4)
    0.875
    """
    if len(rates) != len(losses) or len(rates) < 2:
        raise DeclarationError(
            f"got {len(losses)} losses of {len(rates)} rates; allowed: one of each, two or more", "losses"
        )
    if not math.isfinite(start):
        raise DeclarationError(f"got {show(start)}; allowed: the finite loss before training", "start")
    if not all(0 < rate < math.inf for rate in rates) or any(b <= a for a, b in zip(rates, rates[1:])):
        raise DeclarationError(f"got {show(list(rates))}; allowed: positive numbers that rise", "rates")
    gaps = np.diff(np.log(rates))
    if gaps.max() > 1.5 * gaps.min():
        raise DeclarationError(f"got {show(list(rates))}; allowed: rates evenly spaced in their logarithm", "rates")
    clamped = [start if math.isnan(loss) else min(loss, start) for loss in losses]
    best = min(clamped)
    return sum(loss - best for loss in clamped) / len(clamped)


@dataclass(frozen=True)
class Crossing:
    """Where a law has a value.

    Parameters
    ----------
    size : float
    low, high : float
        Interval of the size; 0 and infinity where the measurements do not bound it.
    level : float
    """

    size: float
    low: float
    high: float
    level: float


@described(
    Card(
        title="A power law through small sizes, and the size at which it passes a threshold",
        axes=("rates",),
        source=_SOURCE,
        when="AttentionLogits of a few small models at one rate: at which size will they pass 1e4?",
        shelf="atlas",
        rows=("small-scale-proxies",),
        deviations=("The paper extrapolates in a figure; the interval is ours.",),
    )
)
@dataclass(frozen=True)
class PowerLaw:
    r"""A straight line through logarithms, by least squares.

    .. math:: y = a N^b

    Parameters
    ----------
    coefficient, exponent : float
        a and b.
    sizes, values : tuple of float
        What it was fitted to.

    References
    ----------
    M. Wortsman et al., ICLR 2024, arXiv:2309.14322, section 3.4; E. C. Fieller, Some Problems in Interval Estimation, 1954.

    Examples
    --------
    >>> law = PowerLaw.fit([1e5, 1e6, 1e7, 1e8], [12.0, 31.0, 110.0, 320.0])
    >>> round(law.exponent, 3), round(law.at(1e9))
    (0.483, 969)
    >>> found = law.crossing(1e4)
    >>> f"{found.size:.2g}, from {found.low:.2g} to {found.high:.2g}"
    '1.3e+11, from 2.8e+10 to 9.8e+11'
    """

    coefficient: float
    exponent: float
    sizes: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def fit(cls, sizes: Sequence[float], values: Sequence[float]) -> PowerLaw:
        """Fit the law to a measurement of each size; one size may stand several times, as of several seeds.

        Parameters
        ----------
        sizes : sequence of float
            N, parameters say.
        values : sequence of float
            y, all positive.

        Raises
        ------
        DeclarationError
            If they are not as many, not positive and finite, or of fewer than two sizes.
        """
        if len(sizes) != len(values) or len(set(sizes)) < 2:
            raise DeclarationError(
                f"got {len(values)} values of {len(set(sizes))} sizes; allowed: one of each, of two sizes or more",
                "values",
            )
        for key, numbers in (("sizes", sizes), ("values", values)):
            if not all(0 < number < math.inf for number in numbers):
                raise DeclarationError(f"got {show(list(numbers))}; allowed: positive numbers", key)
        x, y = np.log(sizes), np.log(values)
        apart = x - x.mean()
        exponent = float(apart @ y / (apart @ apart))
        return cls(
            float(np.exp(y.mean() - exponent * x.mean())), exponent, tuple(map(float, sizes)), tuple(map(float, values))
        )

    def at(self, size: float) -> float:
        """Return y of a size."""
        return self.coefficient * size**self.exponent

    def crossing(self, threshold: float, level: float = 0.95) -> Crossing:
        r"""Return the size at which the law has the value `threshold`, with Fieller's interval.

        The interval holds the sizes at which the line's own interval holds the threshold: with u the distance of log N from
        the mean, d that of the threshold, s the deviation of the residuals, n measurements and Student's t with n - 2

        .. math:: (b u - d)^2 \le t^2 s^2 \left(\frac1n + \frac{u^2}{S_{xx}}\right)

        It is of the noise around the line, not of a line that bends; and the whole axis where the exponent may be 0, or two
        measurements leave no residual.

        Parameters
        ----------
        threshold : float
        level : float
            In (0, 1).
        """
        from scipy import special

        if not 0 < threshold < math.inf or not 0 < level < 1:
            raise DeclarationError(
                f"got {show(threshold)} at the level {show(level)}; allowed: above 0, below 1", "threshold"
            )
        x, y = np.log(self.sizes), np.log(self.values)
        n, middle, b = len(x), float(x.mean()), self.exponent
        d = math.log(threshold) - float(y.mean())
        size = _exp(middle + d / b) if b else math.inf
        if n < 3:
            return Crossing(size, 0.0, math.inf, level)
        spread = float(((x - middle) ** 2).sum())
        residual = float(((y - y.mean() - b * (x - middle)) ** 2).sum())
        wide = float(special.stdtrit(n - 2, (1 + level) / 2)) ** 2 * residual / (n - 2)
        g, h = wide / spread, wide / n
        if b**2 <= g:
            return Crossing(size, 0.0, math.inf, level)
        half = math.sqrt(g * d**2 + h * (b**2 - g))
        low, high = sorted((b * d + sign * half) / (b**2 - g) for sign in (-1, 1))
        return Crossing(size, _exp(middle + low), _exp(middle + high), level)


def _exp(value: float) -> float:
    return math.exp(value) if value < 709.0 else math.inf
