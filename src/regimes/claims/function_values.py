"""Forty steps on the whole of the digits by function values alone: single coordinates, or as many random directions."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import regimes as rg
from regimes.claims.training import best_of
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables

_STEPS, _SHARE, _QUERIES = 40, 0.1, 192
#: The rates that either estimate tries.
_RATES = (0.1, 0.3, 1.0)
#: The rate at which the estimates are held against the gradient.
_RATE = 0.3


def accuracies(seed: int) -> tuple[float, float]:
    """Test accuracy after 40 steps of momentum on each estimate, each at the best of three rates.

    Parameters
    ----------
    seed : int
        Of initial weights, coordinates and directions.
    """
    coordinates, directions = (
        best_of(_work(), [_regime(_rule(rate, estimator)) for rate in _RATES], seed) for estimator in _estimators()
    )
    return coordinates, directions


def cosines(seed: int) -> tuple[float, float]:
    """Mean cosine of each estimate with the true gradient, over the 40 steps of the rule that uses it.

    Parameters
    ----------
    seed : int
        As there.
    """
    coordinates, directions = (_cosine(_rule(_RATE, estimator), seed) for estimator in _estimators())
    return coordinates, directions


def _estimators() -> tuple[rg.CoordinateDifferences, rg.RandomDirections]:
    """The two, with as many forwards in 40 steps: what settles the layers' shares is dealt out over the steps of the other."""
    sizes = [(p.numel(), p.ndim > 1) for p in _work().build(0).parameters()]
    asked = _STEPS * sum(round(_SHARE * size) if matrix else size for size, matrix in sizes) + 2 * (_QUERIES + 1)
    return rg.CoordinateDifferences(_SHARE), rg.RandomDirections(-(-asked // _STEPS))


def _rule(rate: float, estimator: Any) -> rg.ZerothOrder:
    return rg.ZerothOrder(rg.SGD(lr=rate, momentum=0.9), estimator, grasp_queries=_QUERIES)


def _regime(rule: Any) -> rg.Regime:
    return rg.Regime(optimizer=rule, batch_size=len(tables.digits().train.y), budget=f"{_STEPS} steps")


def _cosine(rule: rg.ZerothOrder, seed: int) -> float:
    """Mean over the steps of a run; its estimates are read off the momentum that they feed."""
    run, found = rg.Run(_work(), _regime(rule), seed, count_flops=False), []
    x, y = tables.digits().train
    before = [torch.zeros_like(p) for p in run.trained]
    while not run.finished:
        true = torch.autograd.grad(torch.nn.functional.cross_entropy(run.model(x), y), run.trained)
        run.step()
        buffers = [slot["momentum_buffer"].clone() for slot in run.states["optimizer"]["base"]["slots"].values()]
        found.append(_angle([b - 0.9 * a for a, b in zip(before, buffers)], true))
        before = buffers
    return sum(found) / len(found)


def _angle(estimate: list[Tensor], true: tuple[Tensor, ...]) -> float:
    one, other = (torch.cat([t.flatten() for t in tensors]) for tensors in (estimate, true))
    return torch.nn.functional.cosine_similarity(one, other, 0).item()


@functools.cache
def _work() -> rg.Workload:
    table = tables.digits()
    splits: dict[str, Any] = {name: tuple(getattr(table, name)) for name in ("train", "val", "test")}
    model = functools.partial(models.MLP, (64, 16, 10))
    return rg.Workload(model=model, loss=CrossEntropy(), metrics={"acc": Accuracy()}, **splits)
