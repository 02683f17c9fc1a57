"""Sharpness-aware minimization on 500 digits: whom does it help more, and how flat is where it ends?"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import nn

import regimes as rg
from regimes.claims.training import best_of, trained
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables

#: Radii that SAM tries, and multiples of its rate that the base rule tries: as many.
_RADII, _MULTIPLES = (0.02, 0.05, 0.1, 0.2), (0.25, 0.5, 1.0, 2.0)
#: Peak rates of AdamW.
_RATES = {"vit": 0.005, "cnn": 0.01}


def gains(seed: int) -> tuple[float, float]:
    """What SAM adds to test accuracy over its base rule: of a vision transformer, and of a convolutional network.

    Each takes, of four trials, the one that is most often right on validation data: SAM of its radius, AdamW of its rate.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return _gain("vit", seed), _gain("cnn", seed)


def curvature(seed: int) -> tuple[float, float]:
    """log2 of the largest eigenvalue of the training loss's Hessian: where AdamW ends, and where SAM (rho = 0.1) ends.

    Parameters
    ----------
    seed : int
        As there.
    """
    plain, aware = (
        trained(_work("vit"), _regime(rule), seed) for rule in (_base("vit"), rg.SAM(_base("vit"), rho=0.1))
    )
    return math.log2(_eigenvalue(plain.model)), math.log2(_eigenvalue(aware.model))


def _gain(model: str, seed: int) -> float:
    plain = [_regime(_base(model, multiple)) for multiple in _MULTIPLES]
    aware = [_regime(rg.SAM(_base(model), rho=rho)) for rho in _RADII]
    return best_of(_work(model), aware, seed) - best_of(_work(model), plain, seed)


def _base(model: str, multiple: float = 1.0) -> rg.AdamW:
    return rg.AdamW(lr=rg.Cosine(multiple * _RATES[model], warmup="10%"), weight_decay=0.1)


def _regime(optimizer: Any) -> rg.Regime:
    return rg.Regime(optimizer=optimizer, batch_size=50, budget="40 epochs")


@functools.cache
def _work(model: str) -> rg.Workload:
    if model == "vit":
        return rg.workloads.load("digits_vit")
    table = tables.digits().first(500)
    splits: dict[str, Any] = {split: tuple(getattr(table, split)) for split in ("train", "val", "test")}
    return rg.Workload(model=models.SmallCNN, loss=CrossEntropy(), metrics={"acc": Accuracy()}, **splits)


def _eigenvalue(model: nn.Module) -> float:
    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return rg.Sharpness(iterations=30)(model, loss, tuple(tables.digits().first(500).train))[""]
