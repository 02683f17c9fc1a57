"""Three hidden layers of which one has a gradient drowned in noise: does its rate fall, and does that save steps?"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import regimes as rg
from regimes.claims.training import loss_curve, steps_to, trained
from regimes.core.component import fixed
from regimes.core.kinds import GradTransform, State, TransformContext
from regimes.core.randomness import philox
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables

#: Times the rates from which is tuned: five.
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_STEPS, _WINDOW = 400, 20
#: Root mean square of the noise, over the gradient's; the share of training labels that are drawn anew.
_NOISE, _WRONG = 5.0, 0.2
_NOISY = "layers.1.weight"


def rates(seed: int) -> tuple[float, float]:
    """log2 of what the rates of hidden layers are multiplied by after training: the least of the quiet two, the noisy one.

    Parameters
    ----------
    seed : int
        Of initial weights, of the data order and of the noise.
    """
    run = trained(_work(), _regime(_lanton(1.0), noisy=True), seed)
    state: dict[str, Any] = run.states["optimizer"]["0"]
    found = rg.LANTON(rg.Muon()).factors(state["slots"])
    noisy = found.pop(_NOISY)
    return math.log2(min(found.values())), math.log2(noisy)


def steps_under_noise(seed: int) -> tuple[float, float]:
    """log2, negated, of the steps to Muon's final training loss: around Muon, and of Muon alone; each at its best rate.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _steps(True, seed)


def steps_without(seed: int) -> tuple[float, float]:
    """The same with no noise added.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _steps(False, seed)


def _steps(noisy: bool, seed: int) -> tuple[float, float]:
    around, alone = (
        [_curve(rule(factor), noisy, seed) for factor in _FACTORS]
        for rule in (_lanton, lambda factor: _matrices(_muon(factor), factor))
    )
    target = min(curve[-1] for curve in alone)
    took = [min(steps_to(target, curve, _WINDOW) for curve in curves) for curves in (around, alone)]
    return -math.log2(took[0]), -math.log2(took[1])


def _curve(optimizer: Any, noisy: bool, seed: int) -> np.ndarray:
    return loss_curve(_work(), _regime(optimizer, noisy), seed, _STEPS, _WINDOW)


def _lanton(factor: float) -> rg.Groups:
    return _matrices(rg.LANTON(_muon(factor)), factor)


def _matrices(rule: Any, factor: float) -> rg.Groups:
    """Head and vectors are AdamW's."""
    return rg.groups.muon(rule, rest=rg.AdamW(lr=_rate(0.003 * factor)))


def _muon(factor: float) -> rg.Muon:
    return rg.Muon(lr=_rate(0.02 * factor), weight_decay=0.0)


def _rate(peak: float) -> rg.Schedule:
    return rg.Cosine(peak, final=peak / 10.0, warmup="5%")


def _regime(optimizer: Any, noisy: bool) -> rg.Regime:
    transforms = [LayerNoise(_NOISY, _NOISE)] if noisy else []
    return rg.Regime(optimizer=optimizer, batch_size=16, budget=f"{_STEPS} steps", grad_transforms=transforms)


class LayerNoise(GradTransform):
    """Add normal noise to the gradient of one parameter.

    Parameters
    ----------
    name : str
        Of the parameter.
    ratio : float
        Standard deviation, over the root mean square of the gradient.
    """

    name: str = fixed()
    ratio: float = fixed(low=0)

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Draw, and add in place."""
        g = gradients[ctx.names.index(self.name)]
        z = torch.randn(g.shape, generator=ctx.generator("layer noise"), dtype=g.dtype, device=g.device)
        g.add_(z * g.square().mean().sqrt(), alpha=self.ratio)
        return gradients


@functools.cache
def _work() -> rg.Workload:
    """Digits, of whose training labels a fifth is drawn anew."""
    table = tables.digits()
    splits: dict[str, Any] = {name: tuple(getattr(table, name)) for name in ("train", "val", "test")}
    x, y = splits["train"]
    draw = philox(0, "labels")
    wrong = torch.from_numpy(draw.random(len(y)) < _WRONG)
    splits["train"] = x, torch.where(wrong, torch.from_numpy(draw.integers(10, size=len(y))), y)
    model = functools.partial(models.MLP, (64, 64, 64, 64, 10))
    return rg.Workload(model=model, loss=CrossEntropy(), **splits)
