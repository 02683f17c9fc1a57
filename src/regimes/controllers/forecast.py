"""Where a series of losses is going: an exponential, fitted and drawn out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Rates of decay over the length of a series that are told apart from a line, or from a jump.
_SLOWEST, _FASTEST = 1e-3, 1e3


class Exponential(NamedTuple):
    """L(t) = a exp(b t) + c, with b < 0; t counts the members of the series from 0."""

    a: float
    b: float
    c: float

    def __call__(self, t: float) -> float:
        """Return L(t)."""
        return self.a * float(np.exp(self.b * t)) + self.c


def fit_exponential(losses: Sequence[float], outliers: float = 0.0) -> Exponential:
    r"""Return the exponential nearest to a series by least squares.

    .. math:: L(t) = a e^{b t} + c, \qquad b < 0

    For each b the best a and c are those of a line through (e^{bt}, L), so that b alone is searched. A series that
    falls no slower at its end than at its beginning is nearest to a line, which is what a tiny b gives.

    Parameters
    ----------
    losses : sequence of float
        At least three.
    outliers : float
        Share of the members, farthest from a first fit and in the first half, that is left out of a second. Default 0.

    Examples
    --------
    >>> series = [2.0 * 0.9**t + 0.5 for t in range(30)]
    >>> [round(v, 6) for v in fit_exponential(series)]
    [2.0, -0.105361, 0.5]
    >>> round(fit_exponential(series)(300), 6)
    0.5
    """
    y = np.asarray(losses, dtype=np.float64)
    if len(y) < 3:
        raise ValueError(f"losses: got {len(y)}; allowed: at least 3")
    x = np.arange(len(y)) / (len(y) - 1)
    found = _fitted(x, y)
    far = min(int(outliers * len(y)), len(y) - 3)
    if far:
        distance = np.abs(_line(x, y, found[1])[0])
        distance[len(y) // 2 :] = -1.0
        kept = np.sort(np.argsort(distance, kind="stable")[: len(y) - far])
        found = _fitted(x[kept], y[kept])
    a, b, c = found
    return Exponential(a, b / (len(y) - 1), c)


def _fitted(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    from scipy.optimize import minimize_scalar

    def misfit(logarithm: float) -> float:
        residual = _line(x, y, -np.exp(logarithm))[0]
        return float(residual @ residual)

    grid = np.linspace(np.log(_SLOWEST), np.log(_FASTEST), 61)
    best = int(np.argmin([misfit(point) for point in grid]))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    b = -float(np.exp(minimize_scalar(misfit, bounds=ends, method="bounded", options={"xatol": 1e-10}).x))
    _, a, c = _line(x, y, b)
    return a, b, c


def _line(x: np.ndarray, y: np.ndarray, b: float) -> tuple[np.ndarray, float, float]:
    """Residuals, slope and height of the line nearest to (exp(b x), y)."""
    rise = np.exp(b * x)
    centered = rise - rise.mean()
    power = centered @ centered
    a = float(centered @ (y - y.mean()) / power) if power > 0.0 else 0.0
    c = float(y.mean() - a * rise.mean())
    return y - a * rise - c, a, c
