"""Rates found by short trials: beside the best of six constant ones, and do their forecasts rank rates rightly?"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

import regimes as rg
from regimes.claims.training import measured, trained, training_losses
from regimes.controllers.forecast import fit_exponential

#: The range that is searched, the stage and the trial, in steps.
_LOW, _HIGH, _STAGE, _TRIAL = 1e-3, 1.0, 200, 20
_RATES = np.geomspace(_LOW, _HIGH, 6).tolist()
#: Steps over which a loss is averaged.
_WINDOW = 20


def against_constants(seed: int) -> tuple[float, float]:
    """Validation loss after five stages of 200 steps, negated: of AutoLRS with six trials a stage, and of the best of six
    constant rates. The trials' 600 steps come on top.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    auto = rg.AutoLRS(_LOW, _HIGH, f"{_STAGE} steps", f"{_TRIAL} steps", tries=6, longest=f"{_STAGE} steps")
    constant = max(-_loss(rate, seed) for rate in _RATES)
    return -_loss(auto, seed), constant


def rank_correlation(seed: int) -> tuple[float, float]:
    """Spearman's correlation between forecast and loss at the end of a stage over twelve rates, and 0.6.

    The mean of that of the first stage, and of that of a second after 200 steps at a middling rate.

    Parameters
    ----------
    seed : int
        As there.
    """
    rates = np.geomspace(_LOW, _HIGH, 12).tolist()
    first = [training_losses(_work(), _constant(rate, _STAGE), seed) for rate in rates]
    later = [training_losses(_work(), _two_stages(rate), seed)[_STAGE:] for rate in rates]
    return (_ranked(first) + _ranked(later)) / 2, 0.6


def _ranked(stages: Sequence[Sequence[float]]) -> float:
    forecasts = [_forecast(losses[:_TRIAL]) for losses in stages]
    ends = [float(np.mean(losses[-_WINDOW:])) if len(losses) == _STAGE else np.inf for losses in stages]
    return float(spearmanr(forecasts, ends).statistic)


def _forecast(losses: Sequence[float]) -> float:
    if not np.isfinite(losses).all():
        return np.inf
    return float(fit_exponential(losses, 0.03)(_STAGE))


def _loss(rate: object, seed: int) -> float:
    return measured(trained(_work(), _constant(rate, 5 * _STAGE), seed), "loss", "val")


def _constant(rate: object, steps: int) -> rg.Regime:
    return rg.Regime(optimizer=rg.SGD(lr=rate, momentum=0.9), batch_size=32, budget=f"{steps} steps")


def _two_stages(rate: float) -> rg.Regime:
    optimizers = [rg.SGD(lr=lr, momentum=0.9) for lr in (0.03, rate)]
    phases = [
        rg.Phase(name=name, budget=f"{_STAGE} steps", optimizer=rule)
        for name, rule in zip(("first", "second"), optimizers)
    ]
    return rg.Regime(phases=phases, batch_size=32)


@functools.cache
def _work() -> rg.Workload:
    return rg.workloads.load("digits_mlp")
