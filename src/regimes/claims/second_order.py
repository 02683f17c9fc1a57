"""What diagonals of the Hessian are claimed to do: fewer steps of a language model, less to tune where scales differ."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

import regimes as rg
from regimes.claims.ill_conditioned import rescaled_digits
from regimes.claims.training import loss_curve, measured, steps_to, trained
from regimes.workloads import builtin

#: Times the rate from which is tuned: five.
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_STEPS, _WINDOW = 600, 20


def sophia_steps(seed: int) -> tuple[float, float]:
    """log2, negated, of the steps of Sophia to AdamW's final training loss, and of AdamW's own; each at its best rate.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    adamw = [_curve(rg.AdamW(lr=_rate(f), betas=(0.9, 0.95), weight_decay=0.1), seed) for f in _FACTORS]
    sophia = [_curve(rg.Sophia(lr=_rate(f), weight_decay=0.2), seed) for f in _FACTORS]
    target = min(curve[-1] for curve in adamw)
    took = [min(steps_to(target, curve, _WINDOW) for curve in curves) for curves in (sophia, adamw)]
    return -math.log2(took[0]), -math.log2(took[1])


def _curve(optimizer: Any, seed: int) -> np.ndarray:
    regime = rg.Regime(optimizer=optimizer, batch_size=16, budget=f"{_STEPS} steps")
    return loss_curve(builtin.char_lm(width=32, layers=1, length=32), regime, seed, _STEPS, _WINDOW)


def _rate(factor: float) -> rg.Schedule:
    return rg.Cosine(0.004 * factor, final=0.0004 * factor, warmup="5%")


def ada_hessian_loss(seed: int) -> tuple[float, float]:
    """Validation loss, negated, of AdaHessian and of Adam, each at the best of five rates.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    ours, adam = _grids(seed)
    return -min(ours), -min(adam)


def ada_hessian_sensitivity(seed: int) -> tuple[float, float]:
    """log2, negated, of worst over best validation loss within a factor four of the best rate: AdaHessian's and Adam's.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    ours, adam = _grids(seed)
    return -_spread(ours), -_spread(adam)


def _spread(losses: list[float]) -> float:
    """Over the best and two rates, a factor two apart, on either side of it."""
    best = min(range(len(losses)), key=losses.__getitem__)
    near = losses[max(0, best - 2) : best + 3]
    return math.log2(max(near) / min(near))


@functools.lru_cache(maxsize=4)
def _grids(seed: int) -> tuple[list[float], list[float]]:
    """Validation losses at nine rates a factor two apart, around each rule's usual one."""
    factors = [2.0**power for power in range(-4, 5)]
    ours = [_validated(rg.AdaHessian(lr=0.15 * factor), seed) for factor in factors]
    return ours, [_validated(rg.AdamW(lr=0.004 * factor, weight_decay=0.0), seed) for factor in factors]


def _validated(optimizer: Any, seed: int) -> float:
    regime = rg.Regime(optimizer=optimizer, batch_size=64, budget="300 steps")
    try:
        found = measured(trained(rescaled_digits(32), regime, seed), "loss", "val")
    except rg.RunFailed:
        return 1e3
    return min(found, 1e3)
