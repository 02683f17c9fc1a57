"""Rescaled digits by M-FAC, momentum and Adam: steps to a training loss, and how often the network is then right."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

import regimes as rg
from regimes.claims.ill_conditioned import rescaled_digits
from regimes.claims.training import measured

_STEPS, _TARGET, _WINDOW = 500, 0.2, 10
#: Twelve settings of each: four rates of the paper's and three dampings; twelve rates.
_MFAC = [(rate, damp) for rate in (3e-3, 1e-2, 3e-2, 1e-1) for damp in (1e-5, 1e-3, 1e-1)]
_SGD, _ADAM = np.geomspace(1e-3, 1.0, 12), np.geomspace(1e-4, 0.1, 12)


def steps_to_target(seed: int) -> tuple[float, float]:
    """log2, negated, of the steps to a training loss of 0.2 at the best setting: of M-FAC and of momentum.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return -math.log2(min(steps for steps, _ in _mfac(seed))), -math.log2(
        min(_trained(rg.SGD(lr=float(rate), momentum=0.9), seed)[0] for rate in _SGD)
    )


def accuracy(seed: int) -> tuple[float, float]:
    """Validation accuracy after all steps at the best setting: of M-FAC and of Adam.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    adam = [_trained(rg.AdamW(lr=float(rate), weight_decay=0.0), seed) for rate in _ADAM]
    return max(right for _, right in _mfac(seed)), max(right for _, right in adam)


@functools.lru_cache(maxsize=4)
def _mfac(seed: int) -> list[tuple[int, float]]:
    return [_trained(_rule(rate, damp), seed) for rate, damp in _MFAC]


def _rule(rate: float, damp: float) -> rg.MFAC:
    return rg.MFAC(rg.SGD(lr=0.1 * rate, momentum=0.9), ngrads=64, damp=damp)


def _trained(optimizer: Any, seed: int) -> tuple[int, float]:
    """The first step at which the mean loss of ten is at the target (all and one where none is), and the accuracy."""
    regime = rg.Regime(optimizer=optimizer, batch_size=32, budget=f"{_STEPS} steps")
    run, losses = rg.Run(rescaled_digits(32), regime, seed, count_flops=False), list[float]()
    try:
        for record in run:
            losses.append(math.inf if record.loss is None else record.loss)
    except rg.RunFailed:
        return _STEPS + 1, 0.0
    reached = (n for n in range(_WINDOW, _STEPS + 1) if np.mean(losses[n - _WINDOW : n]) <= _TARGET)
    return next(reached, _STEPS + 1), measured(run, split="val")
