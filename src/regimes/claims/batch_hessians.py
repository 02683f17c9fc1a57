"""The largest eigenvalue of the Hessian on batches of 8 to 512 digits, after 200 steps of SGD."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import spearmanr
from torch import nn

import regimes as rg
from regimes.claims.training import trained
from regimes.core.randomness import philox
from regimes.workloads import tables

_SIZES, _BATCHES = (8, 16, 32, 64, 128, 256, 512), 12


def ratio_at_eight(seed: int) -> tuple[float, float]:
    """Mean largest eigenvalue on batches of 8 over that on all training data; and 1.

    Parameters
    ----------
    seed : int
        Of initial weights, of the data order and of the batches.
    """
    found = _spectrum(seed, (8,))
    return found["batch_8"] / found[""], 1.0


def falls(seed: int) -> tuple[float, float]:
    """Negative rank correlation of the batch size and the mean largest eigenvalue; and 0.

    Parameters
    ----------
    seed : int
        As of `ratio_at_eight`.
    """
    found = _spectrum(seed, _SIZES)
    return -float(spearmanr(_SIZES, [found[f"batch_{size}"] for size in _SIZES]).statistic), 0.0


def _spectrum(seed: int, sizes: tuple[int, ...]) -> dict[str, float]:
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=64, budget="200 steps")
    model = trained(rg.workloads.load("digits_mlp", hidden=16), regime, seed).model
    x, y = tables.digits().train
    whole = (torch.as_tensor(x), torch.as_tensor(y))

    def batches(count: int, size: int) -> list[Any]:
        """All data, where one batch is asked for; else each drawn by itself, so that there are twelve of 512, too."""
        if count == 1:
            return [whole]
        draws = [philox(seed, f"batch {size} {place}").permutation(len(y))[:size] for place in range(count)]
        return [tuple(part[torch.from_numpy(draw)] for part in whole) for draw in draws]

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    probe = rg.BatchHessianSpectrum(sizes=sizes, batches=_BATCHES, iterations=20)
    return probe(model, loss, whole, batches=batches)
