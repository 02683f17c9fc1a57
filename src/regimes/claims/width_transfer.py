"""One rate over widths: how far does the best one move, by what parametrization, and where does a law say that it goes?"""

from __future__ import annotations

import functools
import math
import statistics
from typing import Any

import torch
from torch import Tensor, nn

import regimes as rg
from regimes.claims.training import training_losses
from regimes.core.curvature import HessianProducts
from regimes.losses import CrossEntropy
from regimes.probes.sharpness import lanczos, start_vector
from regimes.scaling.transfer import changes, transfer
from regimes.workloads import models, tables

_EXAMPLES, _STEPS, _WIDTHS = 100, 300, (64, 128, 256, 512)
#: Nine of either rule, each twice the one before.
_RATES = {"sgd": [2.0**k for k in range(-5, 4)], "adamw": [2.0**k for k in range(-11, -2)]}
#: Steps after which sharpness is measured.
_LOOKS = (100, 150, 200, 250, 300)


def spread_under_sgd(seed: int) -> tuple[float, float]:
    """log2 of the largest over the smallest best rate of four widths: standard parametrization, and muP.

    Parameters
    ----------
    seed : int
        Of initial weights.
    """
    return _spread("sgd", "standard", seed), _spread("sgd", "mup", seed)


def spread_under_adamw(seed: int) -> tuple[float, float]:
    """The same of AdamW.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _spread("adamw", "standard", seed), _spread("adamw", "mup", seed)


def _spread(rule: str, kind: str, seed: int) -> float:
    found = [_best(rule, kind, width, seed) for width in _WIDTHS]
    return max(found) - min(found)


def sharpness_at_the_best_rate(seed: int) -> tuple[float, float]:
    """log2 of the coefficient of variation of sharpness over widths: neural tangent parametrization, and muP.

    Both train at the rate that is best at the smallest width, where they are the same.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _variation("ntk", 1.0, seed), _variation("mup", 1.0, seed)


def sharpness_at_half_of_it(seed: int) -> tuple[float, float]:
    """The same at half of that rate: the best is the largest with which training does not fail.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _variation("ntk", 0.5, seed), _variation("mup", 0.5, seed)


def _variation(kind: str, share: float, seed: int) -> float:
    lr = share * 2.0 ** _best("sgd", "standard", _WIDTHS[0], seed)
    found = [_sharpness(kind, width, lr, seed) for width in _WIDTHS]
    return math.log2(statistics.pstdev(found) / statistics.mean(found))


def law_of_sgd(seed: int) -> tuple[float, float]:
    """Mean distance, in log2, from the best rates of the wider networks: of the narrow one's, and of what the law makes of it.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _distances("sgd", seed)


def law_of_adamw(seed: int) -> tuple[float, float]:
    """The same of AdamW.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _distances("adamw", seed)


def _distances(rule: str, seed: int) -> tuple[float, float]:
    narrow, *wide = _WIDTHS
    own = _best(rule, "standard", narrow, seed)
    stays, moves = [], []
    for width in wide:
        best = _best(rule, "standard", width, seed)
        wanted = changes(f"width={narrow}->{width}")
        said = transfer(2.0**own, 2.0**own, 2.0**own, wanted, "sgd" if rule == "sgd" else "adaptive").rate
        stays.append(abs(own - best))
        moves.append(abs(math.log2(said) - best))
    return statistics.mean(stays), statistics.mean(moves)


@functools.cache
def _best(rule: str, kind: str, width: int, seed: int) -> float:
    """log2 of the rate with the least loss over the last 20 steps."""
    losses = {}
    for lr in _RATES[rule]:
        found = training_losses(_work(width), _regime(rule, kind, width, lr), seed)[-20:]
        losses[lr] = statistics.mean(found) if len(found) == 20 else math.inf
    return math.log2(min(losses, key=lambda lr: losses[lr]))


def _regime(rule: str, kind: Any, width: int, lr: float) -> rg.Regime:
    optimizer: Any = rg.SGD(lr=lr) if rule == "sgd" else rg.AdamW(lr=lr, weight_decay=0.0)
    on_entry = [rg.MuPInit(base=_WIDTHS[0])] if kind == "mup" else []
    if kind in ("mup", "ntk"):
        optimizer = rg.groups.mup(optimizer, _model(width), _WIDTHS[0], parametrization=kind)
    return rg.Regime(
        optimizer=optimizer, batch_size=_EXAMPLES, sampler=rg.Sequential(), budget=f"{_STEPS} steps", on_entry=on_entry
    )


def _sharpness(kind: Any, width: int, lr: float, seed: int) -> float:
    """Mean largest eigenvalue of D^(1/2) H D^(1/2), with D the factors of the rates."""
    run, found = rg.Run(_work(width), _regime("sgd", kind, width, lr), seed, count_flops=False), []
    rows = rg.groups.mup_table(_model(width), _WIDTHS[0], kind)
    factors = torch.cat([torch.full((math.prod(row.shape),), row.sgd**0.5) for row in rows])
    for number, _ in enumerate(run, start=1):
        if number in _LOOKS:
            found.append(_eigenvalue(run.model, factors))
    return statistics.mean(found)


def _eigenvalue(model: nn.Module, factors: Tensor) -> float:
    x, y = tables.digits().first(_EXAMPLES).train
    hessian = HessianProducts(lambda: nn.functional.cross_entropy(model(x), y), list(model.parameters()))

    def product(v: Tensor) -> Tensor:
        return factors * hessian(factors * v)

    start = start_vector(factors * hessian.gradient)
    return float(lanczos(product, start, 20, top=1, bottom=0, tolerance=1e-3).values[-1])


def _model(width: int) -> nn.Module:
    return models.MLP((64, width, width, 10))


@functools.cache
def _work(width: int) -> rg.Workload:
    table = tables.digits().first(_EXAMPLES)
    splits: dict[str, Any] = {split: tuple(getattr(table, split)) for split in ("train", "val", "test")}
    return rg.Workload(model=functools.partial(models.MLP, (64, width, width, 10)), loss=CrossEntropy(), **splits)
