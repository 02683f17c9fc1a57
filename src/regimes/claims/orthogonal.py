"""What orthogonalized, row-normalized and rotated updates are claimed to do, on the matrices of a small GPT."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import regimes as rg
from regimes.claims.small_gpt import work
from regimes.claims.training import loss_curve, steps_to

#: Times the rates from which is tuned: five.
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_STEPS, _WINDOW = 600, 20
#: What Conda has of AdamW.
_AS_ADAMW: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.1}
#: Steps after which updates are looked at, every so many.
_LOOKS, _EVERY = 300, 10


def muon_steps(seed: int) -> tuple[float, float]:
    """log2, negated, of the steps of Muon to AdamW's final training loss, and of AdamW's own; each at the best of five rates.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return _steps(lambda factor: rg.Muon(lr=_rate(0.02 * factor)), seed)


def conda_steps(seed: int) -> tuple[float, float]:
    """The same of Conda, whose frame is new after every 50 steps.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _steps(lambda factor: rg.Conda(lr=_rate(0.004 * factor), **_AS_ADAMW, every=50), seed)


def _steps(matrices: Callable[[float], Any], seed: int) -> tuple[float, float]:
    """Of a rule for the matrices of hidden layers, with AdamW for the rest, both rates tuned together."""
    adamw = [_curve(_adamw(factor), seed) for factor in _FACTORS]
    ours = [_curve(rg.groups.muon(matrices(factor), rest=_adamw(factor)), seed) for factor in _FACTORS]
    target = min(curve[-1] for curve in adamw)
    took = [min(steps_to(target, curve, _WINDOW) for curve in curves) for curves in (ours, adamw)]
    return -math.log2(took[0]), -math.log2(took[1])


def _curve(optimizer: Any, seed: int) -> np.ndarray:
    regime = rg.Regime(optimizer=optimizer, batch_size=16, budget=f"{_STEPS} steps")
    return loss_curve(work(layers=1), regime, seed, _STEPS, _WINDOW)


def _adamw(factor: float) -> rg.AdamW:
    return rg.AdamW(lr=_rate(0.004 * factor), **_AS_ADAMW)


def _rate(peak: float) -> rg.Schedule:
    return rg.Cosine(peak, final=peak / 10.0, warmup="5%")


def row_variation(seed: int) -> tuple[float, float]:
    """log2, negated, of the coefficient of variation of the lengths of an update's rows: of NorMuon, and of Muon.

    Its mean over the matrices of hidden layers and over every tenth of 300 steps; without decay, which is no part of what
    is made alike.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _variation(rg.NorMuon(lr=0.02), seed), _variation(rg.Muon(lr=0.02, weight_decay=0.0), seed)


def _variation(rule: Any, seed: int) -> float:
    found = [_unlike(update.norm(dim=1)) for updates in _updates(rule, seed) for update in updates.values()]
    return -math.log2(sum(found) / len(found))


def _unlike(lengths: Tensor) -> float:
    return (lengths.std(correction=0) / lengths.mean()).item()


def stable_rank(seed: int) -> tuple[float, float]:
    """log2 of the stable rank of an update: of Conda, and of AdamW, at the same rate.

    Its mean over the matrices of hidden layers and over every tenth of 300 steps, without decay.

    Parameters
    ----------
    seed : int
        As there.
    """
    conda = rg.Conda(lr=0.004, betas=(0.9, 0.95), every=50)
    return _rank(conda, seed), _rank(rg.AdamW(lr=0.004, betas=(0.9, 0.95), weight_decay=0.0), seed)


def _rank(rule: Any, seed: int) -> float:
    found = [_stable_rank(update) for updates in _updates(rule, seed) for update in updates.values()]
    return math.log2(sum(found) / len(found))


def _stable_rank(update: Tensor) -> float:
    s = torch.linalg.svdvals(update)
    return (s / s[0]).square().sum().item()


def _updates(rule: Any, seed: int) -> list[Mapping[str, Tensor]]:
    """What every tenth step adds to the matrices of hidden layers."""
    optimizer = rg.groups.muon(rule, rest=_adamw(1.0))
    run = rg.Run(
        work(), rg.Regime(optimizer=optimizer, batch_size=16, budget=f"{_LOOKS} steps"), seed, count_flops=False
    )
    hidden = run.states["optimizer"]["owned"][0]
    found: list[Mapping[str, Tensor]] = []
    while not run.finished:
        before = {name: run.parameters[name].detach().clone() for name in hidden}
        number = run.step().at.step + 1
        if number % _EVERY == 0:
            found.append({name: run.parameters[name].detach() - old for name, old in before.items()})
    return found
