"""Large batches with small ones' noise and number of updates; how far weights travel meanwhile."""

from __future__ import annotations

import math
from typing import Any

import regimes as rg
from regimes.claims.training import measured, trained

_STEPS, _SMALL, _TIMES = 300, 32, 8
#: The rates that the small batch tries; the large one takes what the rule makes of the best on validation data.
_RATES = (0.0125, 0.05, 0.2)


def same_updates(seed: int) -> tuple[float, float]:
    """Test accuracy after as many updates: of batches of 256 with ghosts of 32, and of batches of 32.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    work = rg.workloads.load("digits_cnn", batch_norm=True)
    small = {rate: trained(work, _regime(rate), seed) for rate in _RATES}
    best = max(small, key=lambda rate: measured(small[rate], split="val"))
    tools = _regime(best, on_entry=[rg.GhostBatchNorms(_SMALL)], grad_transforms=[rg.ClipNorm(5.0)])
    large = rg.scale_batch(tools, _TIMES, "updates").regime
    return measured(trained(work, large, seed)), measured(small[best])


def _regime(rate: float, **more: Any) -> rg.Regime:
    optimizer = rg.SGD(lr=rg.Cosine(rate), momentum=0.9)
    return rg.Regime(optimizer=optimizer, batch_size=_SMALL, budget=f"{_STEPS} steps", **more)


def slow_diffusion(seed: int) -> tuple[float, float]:
    """Share of the variance of the distance from the start that a line in log t explains, and one in the root of t.

    Parameters
    ----------
    seed : int
        As of `same_updates`.
    """
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1, momentum=0.9), batch_size=_SMALL, budget="600 steps")
    work = rg.workloads.load("digits_mlp")
    found = {}
    for record in rg.stream(work, regime, seed=seed, probes=[rg.DistanceFromStart(every="10 steps")]):
        if "distance_from_start" in record.signals:
            found[record.at.step + 1] = record.signals["distance_from_start"]
    steps = [step for step in found if step >= 10]
    distances = [found[step] for step in steps]
    # In exp of the root of t, log t is the root.
    roots = rg.log_growth([math.exp(step**0.5) for step in steps], distances)
    return rg.log_growth(steps, distances).explained, roots.explained
