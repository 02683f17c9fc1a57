"""Where a learning rate is looked for: wide in short runs, then near in longer ones and in whole ones, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: (share of the budget, number of rates, factor between neighbors) of each short rung; the first covers the whole range.
RUNGS: tuple[tuple[float, int, float | None], ...] = ((1 / 16, 8, None), (1 / 8, 4, 2.0))
#: What everything may cost, in whole runs: what the short rungs leave is spent on whole ones, one after the other.
PRICE = 3.0
#: A rate is safe while its loss is predicted to be at most this share above the best.
SAFE = 0.03
#: What the optimum is expected to drift per doubling of the budget (standard deviation of its log), before any is seen.
_DRIFT = 0.1
#: Standard deviation of a log loss, from seed to seed, where more cannot be told.
_NOISE = 0.02
#: Runs that end this far above the best of their rung (in log loss) say nothing about its optimum, nor do those that have
#: come less than this share of the way that the best has come from the untrained network.
_NEAR, _CAME = 0.7, 0.5
#: How far beyond everything that was tried near it an optimum is believed.
_BEYOND = 2.0
#: Of the untrained network's loss: above the first a run has diverged; below the last runs have learned, and those of the
#: same length that end above the second have not.
_BLOWN, _IDLE, _LEARNED = 1.05, 0.98, 0.9
#: By what the optimum that short runs predict is divided: a rate that is too high costs more than one that is too low.
_SHADE = 1.4
#: How far below the best of the last short rung the first whole run may be, and below which of the two the second is.
_BELOW, _GAP = 2.0, 2.0


@dataclass(frozen=True)
class Rung:
    """Runs of one length.

    Parameters
    ----------
    share : float
        Of the whole budget.
    rates : tuple of float
    losses : tuple of float
        At the end; infinity where the run diverged.
    """

    share: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def cost(self) -> float:
        """In whole runs."""
        return self.share * len(self.rates)

    @property
    def length(self) -> str:
        """Of its runs, in words."""
        return "the whole budget" if self.share == 1.0 else f"{self.share:.3g} of the budget"


@dataclass(frozen=True)
class Found:
    """What a search found.

    Parameters
    ----------
    rate, low, high : float
        The recommended rate and the interval in which the loss is predicted to be within `SAFE` of the best.
    edge : float or None
        Between the largest rate that trained and the least above it that did not; None where all trained.
    at_edge : bool
        Whether the best rate lies at the end of everything that was tried.
    """

    rate: float
    low: float
    high: float
    edge: float | None
    at_edge: bool


class RateSearch:
    r"""Eight rates over the whole range, four around their optimum, and two whole runs, of which the second heeds the first.

    Near the optimum the log loss of a short run with log rate x, s doublings short of the whole budget, is taken for

    .. math:: a_s + \frac{c}{2} (x - x_0 + d s)^2

    with a level for each rung, one curvature c, and a drift d of the optimum per doubling, which is expected to be small.
    The first whole run is at x_0 or the optimum of the last short rung, whichever is lower, over 1.4, and from half of the
    best short rate up to it. If it ends above a shorter run, the network has overfitted: the second is at the rate that
    makes rate times steps what they were in that one. Else the second is at half of the first, and the optimum where a
    parabola of that curvature through both has its bottom, within a factor :math:`\sqrt 2` of the better.

    Parameters
    ----------
    low, high : float
        The range of the first rung.
    start : float
        Loss of the untrained network. What ends more than 5% above it has diverged; beyond the edge lies too what ends no
        better than it, where others of as many steps have learned.

    Examples
    --------
    >>> search = RateSearch(1e-4, 1.0, start=10.0)
    >>> while (asked := search.ask()) is not None:
    ...     share, rates = asked
    ...     search.tell([math.exp(math.log(r / 0.03) ** 2 / 9) if r < 0.3 else math.inf for r in rates])
    >>> found = search.found()
    >>> round(found.rate, 3), round(search.cost, 2), 0.1 < found.edge < 1.0
    (0.03, 3.0, True)
    """

    def __init__(self, low: float, high: float, start: float = math.inf) -> None:
        self.low, self.high, self.start = low, high, start
        #: As told, and with infinity for every loss of a run that is taken to have diverged.
        self.told: list[Rung] = []
        self.rungs: list[Rung] = []
        self._asked: tuple[float, tuple[float, ...]] | None = None

    @property
    def cost(self) -> float:
        """Of the rungs so far, in whole runs."""
        return sum(rung.cost for rung in self.rungs)

    def ask(self) -> tuple[float, tuple[float, ...]] | None:
        """Return the share of the budget and the rates of the next rung; None when all are told."""
        if len(self.rungs) < len(RUNGS):
            self._asked = self._short()
        elif self.cost + 1.0 <= PRICE:
            self._asked = 1.0, (math.exp(self._whole()),)
        else:
            self._asked = None
        return self._asked

    def _short(self) -> tuple[float, tuple[float, ...]]:
        share, count, factor = RUNGS[len(self.rungs)]
        logs: np.ndarray
        if factor is None:
            logs = np.linspace(math.log(self.low), math.log(self.high), count)
        else:
            around = _fitted(self.rungs, share, self.start).optimum
            logs = around + math.log(factor) * (np.arange(count) - (count - 1) / 2)
        return share, tuple(math.exp(x) for x in logs)

    def _whole(self) -> float:
        """Log rate of the next whole run."""
        short, whole = self.rungs[: len(RUNGS)], self.rungs[len(RUNGS) :]
        if not whole:
            best = math.log(_best(short[-1]))
            predicted = min(_fitted(short, share, self.start).optimum for share in (1.0, short[-1].share))
            return float(np.clip(predicted - math.log(_SHADE), best - math.log(_BELOW), best))
        before = min(short, key=lambda rung: min(rung.losses))
        overfits = whole[0].losses[0] > min(before.losses)
        return math.log(whole[0].rates[0] * (before.share if overfits else 1.0 / _GAP))

    def tell(self, losses: Sequence[float]) -> None:
        """Take in the final losses of the rates that were asked for."""
        assert self._asked is not None
        share, rates = self._asked
        self.told.append(Rung(share, rates, tuple(losses)))
        bounded = [x if math.isfinite(x) and x <= _BLOWN * self.start else math.inf for x in losses]
        self.rungs.append(Rung(share, rates, tuple(bounded)))

    def found(self) -> Found:
        """Return what all rungs say of runs of the whole length."""
        short, whole = self.rungs[: len(RUNGS)], self.rungs[len(RUNGS) :]
        curvature, edge = _fitted(short, 1.0, self.start).curvature, self._edge()
        optimum = _bottom(whole, curvature)
        # Within SAFE of the best: log(1 + SAFE) is half the curvature times the squared distance.
        half = math.sqrt(2.0 * math.log1p(SAFE) / curvature) if curvature > 0 else 0.0
        # Not wider than whole runs reach, whatever the parabola says: they alone are of the whole length.
        rates = [rung.rates[0] for rung in whole]
        rate, low = math.exp(optimum), max(math.exp(optimum - half), min(rates) / _BEYOND)
        high = min(math.exp(optimum + half), max(rates) * _BEYOND, _worse_above(rate, short[-1], whole))
        if edge is not None:
            rate, high = min(rate, edge), min(high, edge)
        tried = [rate for rung in self.rungs for rate in rung.rates]
        best = _best(min(whole, key=lambda rung: rung.losses[0]))
        at_edge = bool({best, _best(short[-1])} & {min(tried), max(tried)})
        return Found(rate, min(rate, low), max(rate, high), edge, at_edge)

    @property
    def learned(self) -> bool:
        """Whether any run of the first rung has learned something: else the others were put where it shows least."""
        return min(self.rungs[0].losses) < _IDLE * self.start

    def _edge(self) -> float | None:
        good, bad = list[float](), list[float]()
        for rung in self.rungs:
            learned = min(rung.losses) < _LEARNED * self.start
            for rate, loss in zip(rung.rates, rung.losses):
                lost = math.isinf(loss) or (learned and loss > _IDLE * self.start)
                (bad if lost else good).append(rate)
        beyond = [rate for rate in bad if rate > max(good, default=0.0)]
        return math.sqrt(max(good) * min(beyond)) if good and beyond else None


class _Fit(NamedTuple):
    optimum: float
    curvature: float


def _best(rung: Rung) -> float:
    return rung.rates[int(np.argmin(rung.losses))]


def _bottom(whole: Sequence[Rung], curvature: float) -> float:
    """Log rate of the optimum of one or two whole runs: of two that are near each other, the bottom of the parabola."""
    best = math.log(_best(min(whole, key=lambda rung: rung.losses[0])))
    if len(whole) == 1:
        return best
    (x, y), (x_other, y_other) = ((math.log(rung.rates[0]), _heights(rung.losses)[0]) for rung in whole)
    between = x - x_other
    if curvature <= 0 or between > math.log(_GAP) + 1e-9 or not math.isfinite(y - y_other):
        return best
    bottom = (x + x_other) / 2.0 - (y - y_other) / (curvature * between)
    return float(np.clip(bottom, best - math.log(_GAP) / 2.0, best + math.log(_GAP) / 2.0))


def _worse_above(rate: float, short: Rung, whole: Sequence[Rung]) -> float:
    """Up to where a rate above the recommended one may be: half of the way to the next that was tried and ended worse."""
    groups = [list(zip(short.rates, short.losses)), [(rung.rates[0], rung.losses[0]) for rung in whole]]
    limits = []
    for tried in groups:
        heights = _heights([loss for _, loss in tried])
        bar = float(min(heights)) + math.log1p(SAFE) + 2.0 * _NOISE
        worse = [x for (x, _), height in zip(tried, heights) if height > bar and x > rate]
        if worse:
            below = [x for (x, _), height in zip(tried, heights) if height <= bar and x < min(worse)]
            limits.append(math.sqrt(min(worse) * max([rate, *below])))
    return min(limits, default=math.inf)


def _near(losses: Sequence[float], start: float) -> float:
    """How high a run may end that says something about the optimum of its rung."""
    least = float(min(_heights(losses)))
    if math.isinf(least):
        return least
    came = math.log(start) - least if 0 < start < math.inf and min(losses) > 0 else math.inf
    return least + min(_NEAR, max(_CAME * came, _NOISE))


def _fitted(rungs: Sequence[Rung], share: float, start: float) -> _Fit:
    """The optimum of runs of this share of the budget, and the curvature there; without one the best of the last rung."""
    rows = [
        (number, math.log2(rung.share / share), math.log(rate), height)
        for number, rung in enumerate(rungs)
        for rate, height in zip(rung.rates, _heights(rung.losses))
        if math.isfinite(height) and height <= _near(rung.losses, start)
    ]
    best = math.log(_best(rungs[-1]))
    # A rung of which one run alone is near says where the optimum is, not how steep it is around: its level takes it.
    if len({row[2] for row in rows}) < 3 or len(rows) <= len({row[0] for row in rows}) + 1:
        return _Fit(best, 0.0)
    count = len(rungs)
    x = np.array([row[2] - best for row in rows])
    behind = np.array([row[1] for row in rows])  # doublings: negative where the runs were shorter
    levels = np.eye(count)[[row[0] for row in rows]]
    heights = np.array([row[3] for row in rows])
    plain = np.column_stack([levels, x, x**2])
    found = np.linalg.lstsq(plain, heights, rcond=None)[0]
    if found[-1] <= 0:
        return _Fit(best, 0.0)
    # With drift: the slope may change by 2 c d per doubling; a row more says that it is expected not to.
    expected = np.zeros(count + 3)
    expected[-1] = _NOISE / (2.0 * found[-1] * _DRIFT)
    drifting = np.column_stack([levels, x, x**2, x * behind])
    found = np.linalg.lstsq(np.vstack([drifting, expected]), np.append(heights, 0.0), rcond=None)[0]
    if found[-2] <= 0:
        return _Fit(best, 0.0)
    beyond = math.log(_BEYOND)
    optimum = np.clip(-found[-3] / (2.0 * found[-2]), x.min() - beyond, x.max() + beyond)
    return _Fit(best + float(optimum), 2.0 * float(found[-2]))


def _heights(losses: Sequence[float]) -> np.ndarray:
    """Log losses; of a metric that can be negative the losses themselves. What diverged is infinite."""
    values = np.array(losses)
    if (values[np.isfinite(values)] > 0).all():
        return np.log(values, where=values > 0, out=np.full(len(values), np.inf))
    return values
