"""Tuning noise: which rate a few trials choose, and how much luck there is in that choice."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regimes.study.verdicts import sign

#: Redraws of the trials behind a tuning sd: choices far off are rare, and weigh much.
REDRAWS = 2000

#: Level of the test that neither a parabola nor a V describes the trials.
MISFIT = 0.01

#: Multiple of the median excess over the best trial beyond which a trial counts as no worse.
FAR = 10

#: Multiple of the next better trial's excess over the best from which a trial has exploded. No basin rises like that
#: from one trial to the next, unless two of them tie to a thousandth.
EXPLODED = 1000


@dataclass(frozen=True)
class Tuned:
    """What tuning chose for one arm.

    Parameters
    ----------
    log_rate : float
        The chosen rate's logarithm, in the units of the trials.
    tuning_sd : float
        Standard deviation, in the metric's unit, that tuning luck adds to the true metric at the chosen rate.
        Infinite where one trial alone ended in a number.
    bracketed : bool
        Whether a rate was tried on either side of the best one. If not, a wider range may hold a better one.
    curve : tuple of float, or None
        (c0, c1, c2) of ``c0 + c1 x + c2 x^2``, the fitted metric at log-rate x; None where the best trial was taken.
    """

    log_rate: float
    tuning_sd: float
    bracketed: bool
    curve: tuple[float, float, float] | None


def fit_and_refine(
    log_rates: ArrayLike, values: ArrayLike, better: str = "lower", finals: ArrayLike | None = None
) -> Tuned:
    r"""Choose a rate from an arm's tuning trials, and estimate how much luck there is in the metric at that rate.

    **The choice.** With at least three finite trials, all at different rates, and one on either side of the best
    (it may have diverged or exploded), a weighted parabola in the log-rate: a trial whose metric is e worse than the
    best weighs ``1 / (1 + (e / M)^2)`` with M the median of all e, so that runs on the cliff of too high a rate say
    little, and diverged ones nothing. A trial has exploded, and counts as diverged, if its e is over a thousand times
    that of the next better one: whether a run above the stable rate ends in 1e12 or in NaN is a matter of its length.
    The vertex may move from the best trial toward its neighbor by that neighbor's weight times the gap: fully where
    both did equally well, not at all where the neighbor diverged. Otherwise the best trial.

    **Its luck.** Where a parabola was fitted: e, what the metric at the choice loses to the best rate, over trials
    redrawn with the noise of a run, from which the choice is made again in the same way. How much that is depends on
    the shape of the response, and few trials do not tell it: so it is done around the parabola and around a V
    (``c |x - x0|``, fitted with the same weights), and each counts by its likelihood, ``(S + R)^(-df / 2)``, with R
    its weighted squared residuals, S those of `finals` around their mean, and the noise ``sqrt((S + R) / df)``: four
    trials leave one degree of freedom, eight finals add seven. The squared tuning sd is the mean over both of
    ``var(e) + mean(e)^2 / 4``. The mean counts because it is luck too, of where the tried rates lie about the best
    one; e uniform on [0, E] has a variance of a quarter of its mean square. Where neither shape describes the trials
    (their residuals are too large for the spread of the finals, F test at 1%), the finals are left out: the luck is
    large, as tuning has not resolved the response. Where the best trial was taken, or three finite
    trials without finals leave the noise unknown: `selection_sd`. How often tuning luck still decides is measured
    beside `intervals.TUNING_DF`.

    Both words of `better` give mirrored results; shifting or scaling log-rates or values does likewise with these.
    For one tuned knob; with several, take the best trial and `selection_sd`.

    Parameters
    ----------
    log_rates : array of shape (k,)
        Logarithms of the tried rates, in any base and order.
    values : array of shape (k,)
        The metric each trial ended with, the one the verdict reads; NaN or infinite where it diverged.
    better : "lower" or "higher"
    finals : array of shape (n,), optional
        The metric of the arm's runs at the chosen rate, one per seed, once they are known. They do not change the
        choice. Diverged ones are passed over: what they cost is in the interval already.

    Returns
    -------
    Tuned

    Raises
    ------
    ValueError
        Shapes that differ, rates that are no numbers, no trial that ended in a number, another word for `better`.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, sections 6.5 and 9.

    Examples
    --------
    >>> tuned = fit_and_refine([-9.0, -8.0, -7.0, -6.0], [2.60, 2.45, 2.42, 2.70])
    >>> round(tuned.log_rate, 2), tuned.bracketed, round(tuned.tuning_sd, 3)
    (-7.54, True, 0.009)
    >>> fit_and_refine([-9.0, -8.0, -7.0], [2.6, 2.45, 2.42]).log_rate
    -7.0
    """
    direction = sign(better)
    x, y = _trials(log_rates, values)
    y = _diverged_at_infinity(y * direction)
    best = int(y.argmin())
    bracketed = bool(x.min() < x[best] < x.max())
    if np.isfinite(y).sum() >= 3 and len(np.unique(x)) == len(x):
        order = np.argsort(x)
        span = float(np.ptp(x))
        u, y = (x[order] - x[best]) / span, y[order]
        chosen, curve, fitted = (found[0] for found in _choose(u, y[None]))
        if fitted:
            sd = _luck(u, y, curve, finals)
            rate = float(x[best] + chosen * span)
            return Tuned(rate, sd, bracketed, _in_rates(curve * direction, float(x[best]), span))
    return Tuned(float(x[best]), selection_sd(y), bracketed, None)


def selection_sd(values: ArrayLike, better: str = "lower") -> float:
    """Return the sd of the best metric among trials drawn again from these: a bootstrap, in closed form.

    Of k values, k are drawn with replacement; the j-th best of them is the best drawn with probability
    ``((k - j + 1) / k)^k - ((k - j) / k)^k``. Diverged trials come last and are never the best; exploded ones
    (`fit_and_refine`) count as diverged. Nothing is assumed
    about how the metric depends on what was tuned; the price is width: trials that lie far apart count as if any of
    them could have been missing. A trial that is worse than the best by more than ten times the median counts as
    that much worse: by how much it fell off a cliff says nothing about the rates worth choosing.

    Parameters
    ----------
    values : array of shape (k,)
        The metric each trial ended with; NaN or infinite where it diverged.
    better : "lower" or "higher"

    Returns
    -------
    float
        Infinite where one trial alone ended in a number: how much better another would be is unknown.

    Raises
    ------
    ValueError
        No trial that ended in a number, another word for `better`.

    Examples
    --------
    >>> selection_sd([1.0, 3.0]), selection_sd([1.0, float("nan"), 1.0]), selection_sd([1.0, float("nan")])
    (0.8660254037844386, 0.0, inf)
    """
    y = np.asarray(values, dtype=float) * sign(better)
    if not np.isfinite(y).any():
        raise ValueError("values: got no number; allowed: at least one trial that did not diverge")
    y = _diverged_at_infinity(y)
    finite = np.sort(y[np.isfinite(y)])
    if len(finite) == 1:
        return math.inf
    k = len(y)
    below = ((k - np.arange(len(finite) + 1)) / k) ** k
    share = -np.diff(below) / (below[0] - below[-1])
    excess = finite - finite[0]
    excess = np.minimum(excess, FAR * float(np.median(excess)) or math.inf)
    return float(math.sqrt(share @ (excess - share @ excess) ** 2))


def _trials(log_rates: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(log_rates, dtype=float), np.asarray(values, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"values: got shape {y.shape} for rates of {x.shape}; allowed: one value per trial")
    if not np.isfinite(x).all():
        raise ValueError("log_rates: got one that is no number; allowed: logarithms of rates above 0")
    if not np.isfinite(y).any():
        raise ValueError("values: got no number; allowed: at least one trial that did not diverge")
    return x, y


def _diverged_at_infinity(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put infinity where a trial ended in no number, or exploded; lower is better."""
    y = np.where(np.isfinite(y), y, math.inf)
    excess = np.sort(y[np.isfinite(y)]) - y.min()
    before, after = excess[1:-1], excess[2:]
    jumps = after[(before > 0) & (after > EXPLODED * before)]
    return np.where(y - y.min() >= jumps[0], math.inf, y) if len(jumps) else y


def _weights(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of shape (rows, k): 1 at the best of a row, 1/2 where the median trial is, 0 where it diverged."""
    finite = np.isfinite(y[0])
    excess = y - y.min(1, keepdims=True)
    scale = np.median(excess[:, finite], axis=1, keepdims=True)
    scale = np.where(scale > 0, scale, excess[:, finite].max(1, keepdims=True))
    return 1 / (1 + (excess / np.where(scale > 0, scale, 1)) ** 2)


def _choose(
    u: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Choose for each row of `y` (rows, k) at increasing `u` (k,): chosen u, curve (rows, 3), whether it was used."""
    rows, last = np.arange(len(y)), len(u) - 1
    weights = _weights(y)
    curve = _parabolas(u, np.where(np.isfinite(y), y, 0), weights)
    best = y.argmin(1)
    left, right = np.maximum(best - 1, 0), np.minimum(best + 1, last)
    low = u[best] - (u[best] - u[left]) * weights[rows, left]
    high = u[best] + (u[right] - u[best]) * weights[rows, right]
    fitted = (best > 0) & (best < last) & (curve[:, 2] > 0)
    vertex = np.divide(-curve[:, 1], 2 * curve[:, 2], out=u[best], where=fitted)
    return np.where(fitted, np.clip(vertex, low, high), u[best]), curve, fitted


def _expected(u: NDArray[np.float64], curve: NDArray[np.float64]) -> NDArray[np.float64]:
    return curve[0] + curve[1] * u + curve[2] * u * u


def _parabolas(u: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted least-squares parabola of each row: coefficients (rows, 3) of 1, u, u^2.

    Through polynomials that are orthogonal under the weights (Forsythe 1957): stable where a weight is tiny.
    """
    total, lowest = weights.sum(1, keepdims=True), y.min(1, keepdims=True)
    a = (weights * u).sum(1, keepdims=True) / total
    first = u - a
    norm = (weights * first**2).sum(1, keepdims=True)
    b = (weights * u * first**2).sum(1, keepdims=True) / norm
    second = (u - b) * first - norm / total
    size = (weights * second**2).sum(1, keepdims=True)
    weighted = weights * (y - lowest)
    d0 = weighted.sum(1, keepdims=True) / total
    d1 = (weighted * first).sum(1, keepdims=True) / norm
    d2 = np.divide((weighted * second).sum(1, keepdims=True), size, out=np.zeros_like(size), where=size > 0)
    return np.hstack([lowest + d0 - d1 * a + d2 * (a * b - norm / total), d1 - d2 * (a + b), d2])


def _luck(
    u: NDArray[np.float64], y: NDArray[np.float64], curve: NDArray[np.float64], finals: ArrayLike | None
) -> float:
    """Tuning sd where a parabola was fitted; see `fit_and_refine`."""
    finite = np.isfinite(y)
    weights = _weights(y[None])[0]
    runs = np.empty(0) if finals is None else np.asarray(finals, dtype=float)
    runs = runs[np.isfinite(runs)]
    df, df_runs = int(finite.sum()) - 3, max(len(runs) - 1, 0)
    if not df + df_runs:
        return selection_sd(y)
    rounding = (df + df_runs) * (8 * np.finfo(float).eps * float(np.abs(y[finite]).max())) ** 2
    squares = float(runs.var()) * len(runs) + rounding if df_runs else rounding
    shapes = [_Shape(2, -curve[1] / (2 * curve[2]), curve[2], _expected(u, curve)), _vee(u, y, weights)]
    left = np.array([float(weights[finite] @ (y - shape.values)[finite] ** 2) for shape in shapes])
    if _misfit(float(left.min()), df, squares, df_runs):
        squares, df_runs = rounding, 0
    left, df = left + squares, df + df_runs
    share = (left / left.min()) ** (-df / 2)
    lucks = [shape.luck(u, finite, math.sqrt(total / df)) for shape, total in zip(shapes, left)]
    return math.sqrt(float(share @ lucks / share.sum()))


def _misfit(residual: float, df: int, squares: float, df_runs: int) -> bool:
    """Whether trials lie further from the better shape than the noise of runs explains (F test at `MISFIT`)."""
    from scipy import special

    return bool(df and df_runs and special.fdtrc(df, df_runs, residual / df / (squares / df_runs)) < MISFIT)


@dataclass(frozen=True)
class _Shape:
    """``c |u - u0|^p`` above its lowest value: what the metric loses off the best rate; `values` at the trials."""

    power: int
    best: float
    slope: float
    values: NDArray[np.float64]

    def luck(self, u: NDArray[np.float64], finite: NDArray[np.bool_], noise: float) -> float:
        """Var e + (mean e)^2 / 4 of the loss e at the choice, over trials redrawn around the shape."""
        digest = hashlib.blake2b(f"regimes.study.tuning_noise:{len(u)}".encode(), digest_size=16).digest()
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        around = self.values + noise * stream.standard_normal((REDRAWS, len(u)))
        chosen, _, _ = _choose(u, np.where(finite, around, math.inf))
        loss = self.slope * np.abs(chosen - self.best) ** self.power
        return float(loss.var() + loss.mean() ** 2 / 4)


def _vee(u: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> _Shape:
    """Weighted least-squares V through the finite trials, its tip between the neighbors of the best one."""
    finite, best = np.isfinite(y), int(y.argmin())
    x, rises, root = u[finite], y[finite], np.sqrt(weights[finite])
    tips = list(u[best - 1 : best + 2])
    for low, high in zip(tips[:2], tips[1:3]):
        # Between two trials the signs of u - tip are known, and the V is linear in level, slope and slope * tip.
        side = np.where(x <= low, -1.0, 1.0)
        columns = np.stack([np.ones_like(x), side * x, -side], 1)
        _, slope, moved = np.linalg.lstsq(columns * root[:, None], rises * root, rcond=None)[0]
        if slope > 0 and low < moved / slope < high:
            tips.append(moved / slope)
    w = weights[finite] / weights[finite].sum()
    away = np.abs(x - np.array(tips)[:, None])
    off, rises = away - (away @ w)[:, None], rises - float(w @ rises)
    slopes = np.maximum((off * rises) @ w / (off**2 @ w), 0.0)
    place = int((((rises - slopes[:, None] * off) ** 2) @ w).argmin())
    level = float(w @ y[finite]) - slopes[place] * float(away[place] @ w)
    return _Shape(1, float(tips[place]), float(slopes[place]), level + slopes[place] * np.abs(u - tips[place]))


def _in_rates(curve: NDArray[np.float64], center: float, span: float) -> tuple[float, float, float]:
    """Coefficients in x of a curve in u = (x - center) / span."""
    c0, c1, c2 = curve[0], curve[1] / span, curve[2] / span**2
    return float(c0 - c1 * center + c2 * center**2), float(c1 - 2 * c2 * center), float(c2)
