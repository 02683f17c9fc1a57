"""What measures of claims share: a regime trained to its end, and how often the network is then right."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

import regimes as rg


def trained(work: rg.Workload, regime: rg.Regime, seed: int) -> rg.Run:
    """Return the run after its last step; nothing is written."""
    run = rg.Run(work, regime, seed, count_flops=False)
    for _ in run:
        pass
    return run


def training_losses(work: rg.Workload, regime: rg.Regime, seed: int) -> list[float]:
    """Return the training loss of every step; of what diverges those before, then infinity."""
    run = rg.Run(work, regime, seed, count_flops=False)
    found: list[float] = []
    try:
        for record in run:
            found.append(math.inf if record.loss is None else record.loss)
    except rg.RunFailed:
        found.append(math.inf)
    return found


def loss_curve(work: rg.Workload, regime: rg.Regime, seed: int, steps: int, window: int) -> np.ndarray:
    """Return the mean training loss of the last `window` of `steps`, from the first full window on; past the end infinity."""
    losses = training_losses(work, regime, seed)
    losses += [math.inf] * (steps - len(losses))
    return np.convolve(losses, np.ones(window) / window, mode="valid")


def steps_to(target: float, curve: np.ndarray, window: int) -> int:
    """Return how many steps a curve takes to a loss; one more than all where it never does."""
    return next((n + window for n, loss in enumerate(curve) if loss <= target), len(curve) + window)


def measured(run: rg.Run, metric: str = "acc", split: str = "test") -> float:
    """Return a metric of a run's judged weights."""
    return run.validation.measure(split)[f"{split}/{metric}"]


def best_of(work: rg.Workload, regimes: Iterable[rg.Regime], seed: int) -> float:
    """Return the test accuracy of the run that is most often right on validation data."""
    runs = [trained(work, regime, seed) for regime in regimes]
    return measured(max(runs, key=lambda run: measured(run, split="val")))
