"""Long training, regularizers and weight decay: how one part of ResNet-RS hangs on the others."""

from __future__ import annotations

import functools
import math
from typing import Any

import regimes as rg
from regimes.claims.training import measured, trained

_SHORT, _LONG, _RATE = 10, 80, 0.1
_DECAYS = (5e-3, 5e-4)
_REGULARIZED: dict[str, Any] = {
    "loss": rg.CrossEntropy(label_smoothing=0.1),
    "on_entry": [rg.StochasticDepth(0.8, "blocks.*"), rg.InputDropout(0.25)],
    "augment": [rg.AddNoise(0.2)],
}


def long_training(seed: int) -> tuple[float, float]:
    """What eighty epochs gain over ten in test accuracy: with regularizers, and without.

    Each at that of two weight decays which is more often right on validation data.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    gains = []
    for regularized in (True, False):
        short, long = (_best(epochs, regularized, seed) for epochs in (_SHORT, _LONG))
        gains.append(
            _accuracy("test", _LONG, regularized, long, seed) - _accuracy("test", _SHORT, regularized, short, seed)
        )
    return gains[0], gains[1]


def decay(seed: int) -> tuple[float, float]:
    """Minus log10 of the better weight decay at eighty epochs: with regularizers, and without.

    Parameters
    ----------
    seed : int
        As there.
    """
    return -math.log10(_best(_LONG, True, seed)), -math.log10(_best(_LONG, False, seed))


def average(seed: int) -> tuple[float, float]:
    """Minus the test loss after ten epochs at a constant rate: of averaged weights, and of the last ones.

    Parameters
    ----------
    seed : int
        As there.
    """
    rule = rg.SGD(lr=_RATE, momentum=0.9, weight_decay=_DECAYS[1])
    last = rg.Regime(optimizer=rule, batch_size=32, budget=f"{_SHORT} epochs")
    averaged = trained(_work(), last.but(average=rg.EMA(0.99)), seed)
    return -measured(averaged, "loss"), -measured(trained(_work(), last, seed), "loss")


def _best(epochs: int, regularized: bool, seed: int) -> float:
    """The weight decay that is most often right on validation data; of equals the first, the larger."""
    return max(_DECAYS, key=lambda decay: _accuracy("val", epochs, regularized, decay, seed))


def _accuracy(split: str, epochs: int, regularized: bool, decay: float, seed: int) -> float:
    return _accuracies(epochs, regularized, decay, seed)[split]


@functools.cache
def _accuracies(epochs: int, regularized: bool, decay: float, seed: int) -> dict[str, float]:
    rule = rg.SGD(lr=rg.Cosine(_RATE, warmup="10%"), momentum=0.9, weight_decay=decay)
    more = _REGULARIZED if regularized else {}
    run = trained(_work(), rg.Regime(optimizer=rule, batch_size=32, budget=f"{epochs} epochs", **more), seed)
    return {split: measured(run, split=split) for split in ("val", "test")}


@functools.cache
def _work() -> rg.Workload:
    return rg.workloads.load("digits_residual", label_noise=0.2)
