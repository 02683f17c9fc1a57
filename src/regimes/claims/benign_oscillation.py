"""Weak features at small rates and at large ones: how strongly filters respond, and what it is good for."""

from __future__ import annotations

import functools
import math

import regimes as rg
from regimes.workloads.feature_noise import features

_STEPS, _FILTERS = 3000, 10
_SMALL, _LARGE = 0.003, 0.1
#: No response is told apart from one so small.
_LEAST = 1e-4


def response(seed: int) -> tuple[float, float]:
    """log10 of the largest response to the weak feature at a rate of 0.1; and at 0.003, plus 1.

    Parameters
    ----------
    seed : int
        Of the points, of initial weights and of the order.
    """
    small, large = (_trained(rate, _STEPS, seed)[0] for rate in (_SMALL, _LARGE))
    return math.log10(max(large, _LEAST)), math.log10(max(small, _LEAST)) + 1.0


def weak_alone(seed: int) -> tuple[float, float]:
    """Test accuracy on points with the weak feature alone at 0.1; and at 0.003, plus ten points.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _trained(_LARGE, _STEPS, seed)[1], _trained(_SMALL, _STEPS, seed)[1] + 0.1


def weak_alone_at_equal_movement(seed: int) -> tuple[float, float]:
    """The same, the small rate with as many steps as make rate times steps equal.

    Parameters
    ----------
    seed : int
        As there.
    """
    steps = round(_STEPS * _LARGE / _SMALL)
    return _trained(_LARGE, _STEPS, seed)[1], _trained(_SMALL, steps, seed)[1] + 0.1


@functools.cache
def _trained(rate: float, steps: int, seed: int) -> tuple[float, float]:
    """The response to the weak feature, and the accuracy on points that have it alone; at chance where it diverged."""
    # Half the squared difference is half of MSE, and each filter's gradient has a factor of 1 / filters.
    rule = rg.SGD(lr=rate * _FILTERS / 2)
    regime = rg.Regime(optimizer=rule, batch_size=1, budget=f"{steps} steps")
    try:
        run = rg.run(_work(seed), regime, seed, progress=False)
    except rg.RunFailed:
        return 0.0, 0.5
    weak, _ = features()
    named = dict(run.model.named_parameters())
    found = (
        rg.feature_response(named[f"{sign}.weight"], {"weak": factor * weak})["weak"]
        for sign, factor in (("positive", 1.0), ("negative", -1.0))
    )
    return max(found), run.metrics["test/weak/acc"]


@functools.cache
def _work(seed: int) -> rg.Workload:
    return rg.workloads.load("feature_noise", filters=_FILTERS, seed=seed)
