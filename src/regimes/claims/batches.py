"""How many updates an adaptive batch size makes of as many samples."""

from __future__ import annotations

import math
from typing import Any

import regimes as rg
from regimes.claims.training import training_losses

_SAMPLES = 7680


def updates(seed: int) -> tuple[float, float]:
    """log2 of the updates made of 7,680 samples: at batches of 8, and at batches that grow from 8.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return math.log2(_updates(8, seed)), math.log2(_updates(rg.AdaptiveBatch(8, 256), seed))


def _updates(batch_size: Any, seed: int) -> int:
    regime = rg.Regime(optimizer=rg.AdaGradNorm(lr=1.0), batch_size=batch_size, budget=f"{_SAMPLES} samples")
    return len(training_losses(rg.workloads.load("digits_mlp"), regime, seed))
