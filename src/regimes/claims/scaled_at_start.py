"""Factors per tensor from the first gradient: how much of Adam's advantage they give, and how stable they are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from scipy import stats

import regimes as rg
from regimes.claims.small_gpt import final_loss, work

_STEPS = 400
#: The rates that each rule tries: six. An average of gradients is a tenth of a sum of them.
_SGD_RATES = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
_SAI_RATES = tuple(10.0 * rate for rate in _SGD_RATES)
_ADAMW_RATES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)


def half_the_gap(seed: int) -> tuple[float, float]:
    """The loss half-way from momentum to AdamW, and SGD-SaI's, each rule at the best of six rates.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    momentum = _best([rg.SGD(lr=rate, momentum=0.9) for rate in _SGD_RATES], seed)
    adamw = _best([rg.AdamW(lr=rate, weight_decay=0.0) for rate in _ADAMW_RATES], seed)
    return (momentum + adamw) / 2.0, _best([rg.SGDSaI(lr=rate, weight_decay=0.0) for rate in _SAI_RATES], seed)


def _best(rules: list[Any], seed: int) -> float:
    regimes = [rg.Regime(optimizer=rule, batch_size=16, budget=f"{_STEPS} steps") for rule in rules]
    return min(final_loss(work(), regime, seed) for regime in regimes)


def first_batches(seed: int) -> tuple[float, float]:
    """The least rank correlation, over tensors, of ratios from three first batches; and 0.95.

    Tensors whose first gradient is zero (behind matrices that begin at zero) have no ratio yet, and are left out.

    Parameters
    ----------
    seed : int
        Of initial weights, and of the data order.
    """
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=16, budget="3 steps")
    run = rg.run(work(layers=6), regime, seed, probes=[rg.GradientSNR(every="1 steps")], progress=False)
    rows = [[value for value in _ratios(record) if value > 0.0] for record in run.records]
    return min(float(stats.spearmanr(one, other).statistic) for one, other in combinations(rows, 2)), 0.95


def _ratios(record: Mapping[str, Any]) -> list[float]:
    """What the probe has noted of a step, tensor by tensor."""
    return [value for name, value in record.items() if name.endswith(".weight")]
