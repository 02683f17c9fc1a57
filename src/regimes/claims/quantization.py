"""What quantized layers answer, beside what they answered before: GPTQ and rounding to the nearest on the same grids."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import regimes as rg
from regimes.claims.training import trained
from regimes.workloads import tables


def two_bits(seed: int) -> tuple[float, float]:
    """log2 of the layers' output error on validation data at 2 bits: rounded to the nearest, and by GPTQ.

    The squared error of every linear layer's answer to the inputs that it gets in the quantized network, relative to
    its answer before, averaged over layers.

    Parameters
    ----------
    seed : int
        Of the network's training, and of the 256 calibration examples.
    """
    return _errors(2, seed)


def three_bits(seed: int) -> tuple[float, float]:
    """The same at 3 bits."""
    return _errors(3, seed)


def _errors(bits: int, seed: int) -> tuple[float, float]:
    nearest: Any = rg.RoundToNearest("*.weight", bits=bits)
    curved: Any = rg.GPTQ("*.weight", bits=bits, examples=256)
    before = _network(seed)
    return math.log2(_error(before, _network(seed, nearest))), math.log2(_error(before, _network(seed, curved)))


def _network(seed: int, transform: Any = None) -> nn.Module:
    """The network after 400 steps, quantized where a transform says so; the step after it moves nothing."""
    phases = [rg.Phase(name="train", budget="400 steps", optimizer=rg.SGD(lr=rg.Cosine(0.15), momentum=0.9))]
    if transform is not None:
        phases.append(rg.Phase(name="quantized", budget="1 steps", optimizer=rg.SGD(lr=0.0), on_entry=[transform]))
    return trained(_work(), rg.Regime(phases=phases, batch_size=32), seed).model


@torch.no_grad()
def _error(before: nn.Module, after: nn.Module) -> float:
    originals = dict(before.named_modules())
    errors: dict[str, float] = {}

    def compare(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            meant = originals[name](*inputs)
            errors[name] = float((output - meant).square().sum() / meant.square().sum())

        return hook

    handles = [
        module.register_forward_hook(compare(name))
        for name, module in after.named_modules()
        if isinstance(module, nn.Linear)
    ]
    after(tables.digits().val.x)
    for handle in handles:
        handle.remove()
    return sum(errors.values()) / len(errors)


@functools.cache
def _work() -> rg.Workload:
    return rg.workloads.load("digits_mlp")
