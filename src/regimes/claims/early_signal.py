"""Fine-tuning on digits at several batch sizes and rates: does a small early gradient tell of a good end?"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

import regimes as rg
from regimes.core.randomness import philox
from regimes.engine.metrics import Accuracy
from regimes.study.early_signal import EarlySignal, early_signal
from regimes.weights import FromRun
from regimes.workloads import models, tables

_BATCHES, _RATES = (16, 64, 256), (3e-4, 1e-3, 3e-3, 1e-2)
_NOISE, _CLASSES = 0.1, 10


def overall(seed: int) -> tuple[float, float]:
    """Spearman's correlation of a small early gradient with a high final accuracy, over all configurations; and 1/2.

    Parameters
    ----------
    seed : int
        Of the pre-training, of which labels are wrong, and of the orders.
    """
    return _signal(seed).correlation.rho, 0.5


def within_rate(seed: int) -> tuple[float, float]:
    """The same among configurations of one rate, and 0.

    Parameters
    ----------
    seed : int
        As of `overall`.
    """
    found = _signal(seed).within
    assert found is not None
    return found.rho, 0.0


@functools.lru_cache(maxsize=1)
def _signal(seed: int) -> EarlySignal:
    table = tables.digits()
    x, y = table.train
    stream = philox(seed, "early signal", "labels")
    wrong = torch.from_numpy(stream.random(len(y)) < _NOISE)
    noisy = torch.where(wrong, torch.from_numpy(stream.integers(0, _CLASSES, len(y))), y)
    with tempfile.TemporaryDirectory() as folder:
        pretraining = rg.Regime(optimizer=rg.AdamW(lr=3e-3), batch_size=64, budget="300 steps")
        coarse = _work((x, y // 2), (table.val.x, table.val.y // 2))
        start = FromRun(str(rg.run(coarse, pretraining, seed, out=Path(folder) / "start", progress=False).folder))
        base = rg.Regime(optimizer=rg.AdamW(lr=1e-3), batch_size=64, budget="5 epochs", on_entry=[rg.StartFrom(start)])
        work = _work((x, noisy), tuple(table.val))
        probe = rg.GradientNorm(every="1%")
        runs = [
            rg.run(work, base.but({"optimizer.lr": rate, "batch_size": size}), seed, probes=[probe], progress=False)
            for size in _BATCHES
            for rate in _RATES
        ]
        return early_signal(
            runs, "gradient_norm", final="val/acc", better="higher", prefer="lower", within="optimizer.lr"
        )


def _work(train: tuple[torch.Tensor, ...], val: tuple[torch.Tensor, ...]) -> rg.Workload:
    model = functools.partial(models.MLP, (64, 32, _CLASSES))
    return rg.Workload(model=model, train=train, val=val, loss=rg.CrossEntropy(), metrics={"acc": Accuracy()})
