"""Digits 0 to 4, then 5 to 9 by adapters of rank 2: is one eta as good as a grid over scale and dropout?"""

from __future__ import annotations

import functools
import statistics
import tempfile
from pathlib import Path
from typing import Any

import regimes as rg
from regimes.claims.training import measured, trained
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables

_RANK, _STEPS, _RATE = 2, 50, 0.01
#: LoRA's settings: the scale's numerator, and dropout.
_GRID = [(alpha, dropout) for alpha in (1.0, 2.0, 4.0) for dropout in (0.0, 0.1)]


def against_the_median_setting(seed: int) -> tuple[float, float]:
    """Test accuracy after 50 steps: of ALLoRA with its default eta, and the median over LoRA's six settings.

    Parameters
    ----------
    seed : int
        Of the network's first weights, of adapters and of the data order.
    """
    return _ours(seed), statistics.median(_theirs(seed))


def against_the_best_setting(seed: int) -> tuple[float, float]:
    """The same, and the best of the six, by the test data themselves.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _ours(seed), max(_theirs(seed))


@functools.cache
def _ours(seed: int) -> float:
    return _adapted(rg.ALLoRA(rg.AdamW(lr=_RATE, weight_decay=0.0)), rg.LoRA(rank=_RANK), seed)


@functools.cache
def _theirs(seed: int) -> list[float]:
    rule = rg.AdamW(lr=_RATE, weight_decay=0.0)
    return [_adapted(rule, rg.LoRA(rank=_RANK, alpha=alpha, dropout=dropout), seed) for alpha, dropout in _GRID]


def _adapted(rule: Any, adapters: Any, seed: int) -> float:
    """Accuracy on digits 5 to 9 of a network that knew 0 to 4, whose head answers for the new ones in the old ones' places."""
    with tempfile.TemporaryDirectory() as folder:
        first = rg.Regime(optimizer=rg.AdamW(lr=3e-3), batch_size=32, budget="400 steps")
        known = rg.run(_work(0), first, seed, out=Path(folder) / "known", progress=False)
        start = rg.StartFrom(rg.FromRun(str(known.folder)))
        regime = rg.Regime(optimizer=rule, batch_size=32, budget=f"{_STEPS} steps", on_entry=[start, adapters])
        return measured(trained(_work(5), regime, seed))


@functools.cache
def _work(first: int) -> rg.Workload:
    """Five digits from the first on, numbered from 0."""
    splits: dict[str, Any] = {}
    for name in ("train", "val", "test"):
        x, y = getattr(tables.digits(), name)
        chosen = (y >= first) & (y < first + 5)
        splits[name] = (x[chosen], y[chosen] - first)
    model = functools.partial(models.MLP, (64, 64, 5))
    return rg.Workload(model=model, loss=CrossEntropy(), metrics={"acc": Accuracy()}, **splits)
