"""Digits whose pixels are rescaled by up to a factor ten either way: how many steps to a training loss of 0.3?"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

import regimes as rg
from regimes.claims.training import training_losses
from regimes.core.randomness import philox
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables

_STEPS, _TARGET, _WINDOW = 300, 0.3, 10
#: The rates that either rule tries: five.
_RATES = (0.005, 0.015, 0.05, 0.15, 0.5)


def steps_to_target(seed: int) -> tuple[float, float]:
    """log2 of the steps to the target at the best of five rates: of momentum, and of MKOR over the same.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    plain = min(_steps(rg.SGD(lr=rate, momentum=0.9), seed) for rate in _RATES)
    curved = min(_steps(rg.MKOR(rg.SGD(lr=rate, momentum=0.9)), seed) for rate in _RATES)
    return math.log2(plain), math.log2(curved)


def _steps(optimizer: Any, seed: int) -> int:
    """The first step at which the mean loss of ten is at the target; all of them where none is."""
    regime = rg.Regime(optimizer=optimizer, batch_size=64, budget=f"{_STEPS} steps")
    found = training_losses(rescaled_digits(64), regime, seed)
    reached = (n for n in range(_WINDOW, len(found) + 1) if np.mean(found[n - _WINDOW : n]) <= _TARGET)
    return next(reached, _STEPS)


@functools.cache
def rescaled_digits(hidden: int) -> rg.Workload:
    """Return digits whose pixels are rescaled by up to a factor ten either way, for a network with a hidden layer.

    Parameters
    ----------
    hidden : int
        Its width.
    """
    scales = torch.from_numpy(10 ** philox(0, "scales").uniform(-1, 1, 64)).float().view(1, 1, 8, 8)
    table = tables.digits()
    splits: dict[str, Any] = {
        name: (getattr(table, name).x * scales, getattr(table, name).y) for name in ("train", "val", "test")
    }
    model = functools.partial(models.MLP, (64, hidden, 10))
    return rg.Workload(model=model, loss=CrossEntropy(), metrics={"acc": Accuracy()}, **splits)
