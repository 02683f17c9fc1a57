"""Digits at 8, 4, 3 and 2 bits from one set of weights: what do rates by width change?"""

from __future__ import annotations

import functools
from typing import Any

import regimes as rg
from regimes.claims.training import measured, trained
from regimes.model_transforms import at_width

_BITS, _STEPS = (8, 4, 3, 2), 300
#: Of weights, and what steps learn at beside them: each arm takes the best of nine, by its mean accuracy over widths on
#: validation data. At the rate of the weights alone steps of several widths leave their place at once.
_RATES, _SHARES = (0.02, 0.06, 0.2), (1.0, 1e-2, 1e-4)


def low_widths(seed: int) -> tuple[float, float]:
    """Mean test accuracy at 2 and 3 bits: with ALRS, and with one rate.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    ours, theirs = _accuracies(True, seed), _accuracies(False, seed)
    return (ours[2] + ours[3]) / 2, (theirs[2] + theirs[3]) / 2


def highest_width(seed: int) -> tuple[float, float]:
    """Test accuracy at 8 bits, the same arms.

    Parameters
    ----------
    seed : int
        As there.
    """
    return _accuracies(True, seed)[8], _accuracies(False, seed)[8]


@functools.cache
def _accuracies(weighed: bool, seed: int) -> dict[int, float]:
    runs = [trained(_work(), _regime(weighed, rate, share), seed) for rate in _RATES for share in _SHARES]
    best = max(runs, key=lambda run: sum(_by_width(run, "val").values()))
    return _by_width(best, "test")


def _by_width(run: rg.Run, split: str) -> dict[int, float]:
    found = {}
    for bits in _BITS:
        with at_width(run.model, bits):
            found[bits] = measured(run, split=split)
    return found


def _regime(weighed: bool, rate: float, share: float) -> rg.Regime:
    steps: Any = rg.SGD(lr=rg.Cosine(share * rate), momentum=0.9)
    steps = rg.ALRS(steps, bits=_BITS) if weighed else steps
    weights = rg.SGD(lr=rg.Cosine(rate), momentum=0.9)
    phases = [
        rg.Phase("whole", budget=f"{_STEPS} steps", optimizer=rg.SGD(lr=rg.Cosine(0.15), momentum=0.9)),
        rg.Phase(
            "rounded",
            budget=f"{_STEPS} steps",
            optimizer=rg.Groups([rg.Group("*.step_*", steps), rg.Group("*", weights)]),
            loss=rg.JointWidths(),
            on_entry=[rg.DoubleRounding("*.weight", bits=_BITS, by_width=weighed)],
        ),
    ]
    return rg.Regime(phases=phases, batch_size=64)


@functools.cache
def _work() -> rg.Workload:
    return rg.workloads.load("digits_mlp", hidden=[64])
