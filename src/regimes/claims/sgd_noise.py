"""A perceptron that is trained until it fits: how far its weights go, and how long it takes, by temperature and size."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import regimes as rg

_ALPHA, _BATCH, _MOST = 100.0, 8, 30_000
#: Rates at 256 points, and numbers of points at a rate of 1/4.
_RATES, _SIZES = tuple(2.0**power for power in (-6, -4, -2, 0, 2)), (64, 128, 256, 512)
_RATE, _SIZE = 0.25, 256


def weights_grow(seed: int) -> tuple[float, float]:
    """The smaller share of variance explained by powers of T and of P in the change of the weights; and 0.9.

    Where a slope is not above 0, or a training did not fit all, the first is 0.

    Parameters
    ----------
    seed : int
        Of the points, of initial weights and of the data order.
    """
    return _least(seed, "weight_change"), 0.9


def time_grows(seed: int) -> tuple[float, float]:
    """The same of the time until all is fitted.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _least(seed, "time"), 0.9


def full_batch_is_flat(seed: int) -> tuple[float, float]:
    """Minus the absolute slope of the change of the weights in the rate, all points in a batch; and -0.1.

    Parameters
    ----------
    seed : int
        As there. Where a training did not fit all, the first is -1.
    """
    found = [_fitted(rate, _SIZE, _SIZE, seed) for rate in _RATES]
    if any(one is None for one in found):
        return -1.0, -0.1
    return -abs(_power(_RATES, [one["weight_change"] for one in found if one]).slope), -0.1


def _least(seed: int, what: str) -> float:
    """The smaller share explained, 0 unless both slopes are above 0 and all is fitted."""
    by_rate = [_fitted(rate, _BATCH, _SIZE, seed) for rate in _RATES]
    by_size = [_fitted(_RATE, _BATCH, size, seed) for size in _SIZES]
    fits = []
    for places, found in ((_RATES, by_rate), (_SIZES, by_size)):
        if any(one is None for one in found):
            return 0.0
        fits.append(_power(places, [one[what] for one in found if one]))
    return min(fit.explained for fit in fits) if min(fit.slope for fit in fits) > 0.0 else 0.0


def _power(places: Sequence[float], values: Sequence[float]) -> rg.probes.distance_from_start.LogGrowth:
    """The power of a power law, as a slope of logarithms, and what it explains."""
    return rg.log_growth(places, [math.log(value) for value in values])


@functools.cache
def _fitted(rate: float, batch: int, examples: int, seed: int) -> dict[str, float] | None:
    """What `until_fitted` finds; None where it does not fit all."""
    work = rg.workloads.load("perceptron", examples=examples, seed=seed)
    regime = rg.Regime(
        optimizer=rg.SGD(lr=rate), batch_size=batch, budget=f"{_MOST} steps", loss=rg.Hinge(_ALPHA),
        on_entry=[rg.CenteredOutput(_ALPHA)],
    )  # fmt: skip
    found = rg.until_fitted(work, regime, seed)
    return {"weight_change": found.weight_change, "time": found.time} if found.fitted else None
