"""An LSTM hedges an option on Heston paths: what risk is left after as many steps of K-FAC and of Adam?"""

from __future__ import annotations

import functools
import math
from typing import Any

import regimes as rg
from regimes.claims.training import measured, trained

_STEPS, _BATCH = 150, 256
#: The rates that are tried, five of each rule's.
_ADAM, _KFAC = (0.003, 0.01, 0.03, 0.1, 0.3), (0.01, 0.03, 0.1, 0.3, 1.0)


def risk(seed: int) -> tuple[float, float]:
    """log2 of the risk on test paths, negated, at the rate that is best on validation paths: of K-FAC and of Adam.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    kfac = [rg.KFAC(rg.SGD(lr=rate, momentum=0.9)) for rate in _KFAC]
    adam = [rg.AdamW(lr=rate, weight_decay=0.0) for rate in _ADAM]
    return -math.log2(_least(kfac, seed)), -math.log2(_least(adam, seed))


def _least(optimizers: list[Any], seed: int) -> float:
    return min(_risks(optimizer, seed) for optimizer in optimizers)[1]


def _risks(optimizer: Any, seed: int) -> tuple[float, float]:
    """Risk on validation and on test paths; a thousand where it diverged."""
    try:
        run = trained(_work(), rg.Regime(optimizer=optimizer, batch_size=_BATCH, budget=f"{_STEPS} steps"), seed)
    except rg.RunFailed:
        return 1e3, 1e3
    return measured(run, "loss", "val"), measured(run, "loss", "test")


@functools.cache
def _work() -> rg.Workload:
    return rg.workloads.load("hedging")
