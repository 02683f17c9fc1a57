"""Gradients that are a thousand times as large on some steps: in a network of four bits, and under guards."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import regimes as rg
from regimes.claims.small_gpt import CLUELESS, final_loss, work
from regimes.core.component import fixed
from regimes.core.kinds import GradTransform, State, TransformContext
from regimes.workloads import models

_STEPS = 300
#: The rates that each rule tries: five.
_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def sensitivity(seed: int) -> tuple[float, float]:
    """log2 of what a rate costs on average, over the best of five: with AdamW, and with Stable-SPAM.

    Parameters
    ----------
    seed : int
        Of initial weights, of the data order, and of the spikes.
    """
    return _sensitivity(_losses(rg.AdamW, seed)), _sensitivity(_losses(rg.StableSPAM, seed))


def best_loss(seed: int) -> tuple[float, float]:
    """The loss at the best of five rates: of AdamW with its gradient clipped at 1, and of Stable-SPAM.

    Parameters
    ----------
    seed : int
        As there.
    """
    return min(_losses(rg.AdamW, seed, rg.ClipNorm(1.0))), min(_losses(rg.StableSPAM, seed))


def _losses(rule: Any, seed: int, *clipping: Any) -> list[float]:
    transforms = [Spikes(0.01, 1000.0), *clipping]
    return [
        final_loss(
            _rounded(),
            rg.Regime(
                optimizer=rule(lr=rate, weight_decay=0.0),
                batch_size=16,
                budget=f"{_STEPS} steps",
                grad_transforms=transforms,
            ),
            seed,
        )
        for rate in _RATES
    ]


def skipping(seed: int) -> tuple[float, float]:
    """The loss at the best of three rates under planted spikes: of AdamW, and where steps that spike are left out.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _unguarded(seed), _best(_adamw, seed, rg.SkipSpikes())


def clipping(seed: int) -> tuple[float, float]:
    """The same where gradients that spike are clipped to their usual norm.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _unguarded(seed), _best(_adamw, seed, rg.ClipSpikes())


def resetting(seed: int) -> tuple[float, float]:
    """The same where the update after a spike begins with moments of zero, and twenty go at smaller rates.

    Parameters
    ----------
    seed : int
        As there.
    """
    guarded = lambda rate: rg.MomentumReset(_adamw(rate), None, rg.ModifiedZScore(), warmup_steps=20)  # noqa: E731
    return _unguarded(seed), _best(guarded, seed)


def rewinding(seed: int) -> tuple[float, float]:
    """The same where a spike of the gradient's norm leads ten updates back, or up to nineteen.

    Parameters
    ----------
    seed : int
        As there.
    """
    guarded = lambda rate: rg.Rewind(_adamw(rate), watch="gradient_norm", back=10)  # noqa: E731
    return _unguarded(seed), _best(guarded, seed)


@functools.cache
def _unguarded(seed: int) -> float:
    return _best(_adamw, seed)


def _adamw(rate: float) -> rg.AdamW:
    return rg.AdamW(lr=rate, weight_decay=0.0)


def _best(rule: Callable[[float], Any], seed: int, *guards: Any) -> float:
    """The validation loss at the best of three rates, with a gradient that is multiplied on a hundredth of all steps."""
    transforms = [Spikes(0.01, 1000.0), *guards]
    regimes = [
        rg.Regime(optimizer=rule(rate), batch_size=16, budget=f"{_STEPS} steps", grad_transforms=transforms)
        for rate in _RATES[:3]
    ]
    return min(final_loss(work(), regime, seed) for regime in regimes)


def _sensitivity(losses: list[float]) -> float:
    return math.log2(rg.lr_sensitivity(_RATES, losses, CLUELESS) + 1e-6)


class Spikes(GradTransform):
    """Multiply the gradient on a share of all steps.

    Parameters
    ----------
    share, factor : float
    """

    share: float = fixed(low=0, high=1)
    factor: float = fixed(above=0)

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Draw, and multiply in place."""
        if torch.rand((), generator=ctx.generator("spike")).item() < self.share:
            torch._foreach_mul_(gradients, self.factor)
        return gradients


class FourBits(nn.Linear):
    """A linear layer whose weights and inputs have 15 levels, by row and by token; gradients pass as if they had not."""

    def forward(self, x: Tensor) -> Tensor:
        """Round both, and multiply."""
        return nn.functional.linear(_four_bits(x), _four_bits(self.weight), self.bias)


def _four_bits(x: Tensor) -> Tensor:
    step = x.detach().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 7.0
    return x + ((x / step).round() * step - x).detach()


@functools.cache
def _rounded() -> rg.Workload:
    """The small GPT with its blocks' layers rounded; embedding and head are left as they are."""
    plain = work()
    splits: dict[str, Any] = {name: plain.sources[name] for name in ("train", "val")}
    return rg.Workload(model=_model, loss=plain.loss, name="char_lm in four bits", **splits)


def _model() -> nn.Module:
    made = models.TinyGPT(width=32, context=32)
    for module in made.blocks.modules():
        if type(module) is nn.Linear:
            module.__class__ = FourBits
    return made
