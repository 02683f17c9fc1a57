"""MeZO adapts the last layer and the biases from rotated digits to upright ones: how far does it come?"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

import regimes as rg
from regimes.claims.training import best_of, measured, trained
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables

#: Rates that are tried, of MeZO and of SGD: as many.
_ZEROTH, _FIRST = (0.005, 0.02), (0.03, 0.3)
#: The error rate is flat but for jumps: steps over which it is measured must be wide, and batches large.
_EPS, _BATCH = 0.03, 512


def gap_closed(seed: int) -> tuple[float, float]:
    """Test accuracy after 5,000 steps of MeZO, and that at 60% of the way from no adaptation to SGD's.

    Parameters
    ----------
    seed : int
        Of initial weights, data order and perturbations.
    """
    before = measured(trained(_work(), _regime(), seed))
    zeroth = best_of(_work(), [_regime(rg.MeZO(lr=rate)) for rate in _ZEROTH], seed)
    first = best_of(_work(), [_regime(rg.SGD(lr=rate)) for rate in _FIRST], seed)
    return zeroth, before + 0.6 * (first - before)


def error_rate(seed: int) -> tuple[float, float]:
    """Test accuracy after 1,000 steps of MeZO on the share of wrong answers itself, and before.

    Parameters
    ----------
    seed : int
        As there.
    """
    before = measured(trained(_work(), _regime(), seed))
    wrong = rg.FromFunction(_wrong)
    rates = (0.03, 0.1, 0.3, 1.0)
    tried = [_regime(rg.MeZO(lr=r, eps=_EPS), budget="1000 steps", batch_size=_BATCH, loss=wrong) for r in rates]
    return best_of(_work(), tried, seed), before


def head(seed: int) -> tuple[float, float]:
    """Test accuracy of a linear head on frozen random features after 5,000 steps of ZO2, and 0.8.

    Parameters
    ----------
    seed : int
        Of features, initial weights, data order and perturbations.
    """
    rates = (0.003, 0.01, 0.03)
    tried = [
        rg.Regime(optimizer=rg.ZO2(lr=rate, blocks=["head"]), batch_size=64, budget="5000 steps") for rate in rates
    ]
    return best_of(_on_features(), tried, seed), 0.8


def _wrong(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]).argmax(1) != batch[1]).float()


def _regime(optimizer: Any = None, **settings: Any) -> rg.Regime:
    """600 steps on rotated digits, then, with a rule, 5,000 steps of it on upright ones."""
    rotated = rg.Phase(
        name="pretrain", budget="600 steps", optimizer=rg.AdamW(lr=0.003), mixture=rg.Mixture(rotated=1.0)
    )
    if optimizer is None:
        return rg.Regime(phases=[rotated], batch_size=64)
    declared: dict[str, Any] = {"budget": "5000 steps", "batch_size": 64} | settings
    upright = rg.Phase(
        name="adapt",
        optimizer=optimizer,
        mixture=rg.Mixture(clean=1.0),
        trainable=["layers.1.*", "*bias"],
        **declared,
    )
    return rg.Regime(phases=[rotated, upright], batch_size=64)


@functools.cache
def _on_features() -> rg.Workload:
    table = tables.digits()
    splits: dict[str, Any] = {name: tuple(getattr(table, name)) for name in ("train", "val", "test")}
    model = functools.partial(models.RandomFeatures, 64, 256, 10)
    return rg.Workload(model=model, loss=CrossEntropy(), metrics={"acc": Accuracy()}, **splits)


@functools.cache
def _work() -> rg.Workload:
    return rg.workloads.load("digits_rotated")
