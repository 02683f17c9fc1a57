"""Digits whose labels are permuted anew every 300 steps: does a network learn the last tasks as well as the first?"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import nn

import regimes as rg
from regimes.claims.training import measured
from regimes.core.randomness import philox
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.optimizers.layers import layers_of
from regimes.workloads import tables

_TASKS, _STEPS, _WIDTH, _ENDS = 20, 300, 128, 5


def late_minus_early(seed: int) -> tuple[float, float]:
    """Accuracy at the end of the last five tasks less that of the first five: projected, and with layer norm alone.

    Adam at 0.001 without decay; on validation data with the task's labels.

    Parameters
    ----------
    seed : int
        Of initial weights, of the data order and of the permutations.
    """
    return _change(rg.NormalizeAndProject(_rule()), seed), _change(_rule(), seed)


def growth(seed: int) -> tuple[float, float]:
    """log2 of the factor by which the weights before norms grow over the tasks without projection; and 0.

    Parameters
    ----------
    seed : int
        As of `late_minus_early`.
    """
    run = _run(_rule(), seed)
    before = _length(run)
    for _ in run:
        pass
    return math.log2(_length(run) / before), 0.0


def _rule() -> rg.AdamW:
    return rg.AdamW(lr=0.001, weight_decay=0.0)


def _change(rule: Any, seed: int) -> float:
    run, found = _run(rule, seed), []
    for task in range(_TASKS):
        for _ in range(_STEPS):
            run.step()
        found.append(measured(run, f"{_name(task)}/acc", "val"))
    return float(np.mean(found[-_ENDS:]) - np.mean(found[:_ENDS]))


def _length(run: Any) -> float:
    """Geometric mean of the lengths of all weights but the head's."""
    names = [layer.weight for layer in layers_of(run.model)][:-1]
    return math.exp(float(np.mean([math.log(run.parameters[name].norm().item()) for name in names])))


def _run(rule: Any, seed: int) -> Any:
    phases = [
        rg.Phase(
            _name(task),
            budget=f"{_STEPS} steps",
            mixture=rg.Mixture(**{_name(task): 1.0}),
            carry=["model", "optimizer"],
        )
        for task in range(_TASKS)
    ]
    return rg.Run(_work(seed), rg.Regime(phases=phases, optimizer=rule, batch_size=32), seed, count_flops=False)


def _name(task: int) -> str:
    return f"task{task}"


@functools.cache
def _work(seed: int) -> rg.Workload:
    table = tables.digits()
    orders = [torch.from_numpy(philox(seed, f"labels {task}").permutation(10)) for task in range(_TASKS)]
    splits: dict[str, Any] = {
        split: {
            _name(task): (getattr(table, split).x, order[getattr(table, split).y]) for task, order in enumerate(orders)
        }
        for split in ("train", "val")
    }
    return rg.Workload(model=_net, loss=CrossEntropy(), metrics={"acc": Accuracy()}, **splits)


def _net() -> nn.Module:
    hidden = ((64, _WIDTH), (_WIDTH, _WIDTH))
    layers = [part for n, m in hidden for part in (nn.Linear(n, m, bias=False), nn.LayerNorm(m), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(_WIDTH, 10))
