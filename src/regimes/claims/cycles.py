"""A cycle of shares with the easy examples more often, beside the same cycle with scores of chance."""

from __future__ import annotations

import functools
from typing import Any

import torch

import regimes as rg
from regimes.claims.training import measured, trained
from regimes.core.randomness import philox
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.sources.tensors import Tensors
from regimes.workloads import models, tables


class WithChance(Tensors):
    """Examples with a column ``chance``: scores in random order, exponentially distributed as losses about are."""

    def column(self, name: str) -> Any:
        """Scores for ``chance``, else as ever."""
        if name == "chance":
            return torch.from_numpy(philox(0, "chance").exponential(size=len(self)))
        return super().column(name)


def random_scores(seed: int) -> tuple[float, float]:
    """Test accuracy with 15% wrong labels: of the curriculum, and of its cycle with scores of chance.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return _accuracy(rg.CyclicalCurriculum(), seed), _accuracy(rg.CyclicalCurriculum(by="chance"), seed)


def _accuracy(sampler: Any, seed: int) -> float:
    regime = rg.Regime(optimizer=rg.SGD(lr=0.05, momentum=0.9), batch_size=32, budget="40 epochs", sampler=sampler)
    return measured(trained(_work(), regime, seed))


@functools.cache
def _work() -> rg.Workload:
    table = tables.with_label_noise(tables.digits().first(400), 0.15)
    return rg.Workload(
        model=functools.partial(models.MLP, (64, 64, 64, 10)), train=WithChance(*table.train), val=tuple(table.val),
        test=tuple(table.test), loss=CrossEntropy(), metrics={"acc": Accuracy()},
    )  # fmt: skip
