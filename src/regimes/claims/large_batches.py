"""What a batch 64 times as large costs, at the rate that the root of the batch says."""

from __future__ import annotations

from typing import Any

import regimes as rg
from regimes.claims.small_gpt import final_loss, work

_SMALL, _LARGE, _TOKENS = 16, 1024, "400k tokens"
#: The rates that either rule tries at the small batch: four.
_LAMB_RATES, _ADAMW_RATES = (0.0025, 0.005, 0.01, 0.02), (0.0025, 0.005, 0.01, 0.02)


def loss_increase(seed: int) -> tuple[float, float]:
    """How much the loss grows from batches of 16 to batches of 1,024, as many tokens each: of AdamW, and of LAMB.

    Either is tuned over four rates at the small batch; at the large one the rate is 8 times as high, untuned.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return _increase(rg.AdamW, _ADAMW_RATES, seed), _increase(rg.LAMB, _LAMB_RATES, seed)


def _increase(rule: Any, rates: tuple[float, ...], seed: int) -> float:
    small = {rate: final_loss(work(), _regime(rule, rate, _SMALL), seed) for rate in rates}
    best = min(small, key=lambda rate: small[rate])
    scaled = best * (_LARGE / _SMALL) ** 0.5
    return final_loss(work(), _regime(rule, scaled, _LARGE), seed) - small[best]


def _regime(rule: Any, rate: float, batch: int) -> rg.Regime:
    optimizer = rule(lr=rg.Linear(rate, warmup="10%"), weight_decay=0.01)
    return rg.Regime(optimizer=optimizer, batch_size=batch, budget=_TOKENS)
