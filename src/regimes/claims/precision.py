"""A small GPT with few bits of mantissa in all that is multiplied: which rates it stands, and what tells it beforehand."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu, spearmanr

import regimes as rg
from regimes.claims.small_gpt import CLUELESS, work
from regimes.claims.training import measured

_BITS = (23, 7, 3, 2, 1)
_RATES = np.geomspace(1e-3, 0.1, 5).tolist()
#: Steps, and the one after which the sharpness is measured.
_STEPS, _LOOK = 200, 66
#: Nats above the best run of full precision up to which a run counts as one that works.
_WORKS = 0.5


class _Ended(NamedTuple):
    bits: int
    rate: float
    loss: float
    sharpness: float


def range_shrinks(seed: int) -> tuple[float, float]:
    """Spearman's correlation, negated, of the bits taken away with the largest rate that works; and 0.8.

    A run works that ends within half a nat of the best of full precision; where no rate does, half the smallest counts.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    runs = _runs(seed)
    limit = _limit(runs)
    largest = [
        max((run.rate for run in runs if run.bits == bits and run.loss <= limit), default=_RATES[0] / 2)
        for bits in _BITS
    ]
    if len(set(largest)) == 1:
        return 0.0, 0.8
    return -float(spearmanr([_BITS[0] - bits for bits in _BITS], np.log(largest)).statistic), 0.8


def sharpness_tells(seed: int) -> tuple[float, float]:
    """Area under the ROC curve of the sharpness after a third of the steps, of runs that will not work; and 0.7.

    Parameters
    ----------
    seed : int
        As there.
    """
    runs = _runs(seed)
    limit = _limit(runs)
    fails = [run.sharpness for run in runs if run.loss > limit]
    works = [run.sharpness for run in runs if run.loss <= limit]
    if not fails or not works:
        return 0.5, 0.7
    return float(mannwhitneyu(fails, works).statistic) / (len(fails) * len(works)), 0.7


def _limit(runs: list[_Ended]) -> float:
    return min(run.loss for run in runs if run.bits == _BITS[0]) + _WORKS


@functools.cache
def _runs(seed: int) -> list[_Ended]:
    return [_ended(bits, rate, seed) for bits in _BITS for rate in _RATES]


def _ended(bits: int, rate: float, seed: int) -> _Ended:
    run, batch = rg.Run(work(), _regime(bits, rate), seed, count_flops=False), _held_out()
    sharpness = math.inf  # of one that has diverged by then
    try:
        while not run.finished:
            run.step()
            if run.frame.step == _LOOK:
                sharpness = rg.LogitSharpness()(run.model, work().loss, batch)[""]
        loss = measured(run, "loss", "val")
    except rg.RunFailed:
        loss = math.inf
    if math.isnan(sharpness):
        sharpness = math.inf
    return _Ended(bits, rate, min(loss, CLUELESS) if math.isfinite(loss) else CLUELESS, sharpness)


def _held_out() -> Any:
    return work().sources["val"]["code"].fetch(np.arange(64), {})


def _regime(bits: int, rate: float) -> rg.Regime:
    """Low bits cleared, forward and backward."""
    precision = rg.FloatFormat(8, bits, rounding="zero")
    lr: Any = rg.Cosine(rate, final=rate / 10, warmup="5%")
    return rg.Regime(
        optimizer=rg.AdamW(lr=lr, betas=(0.9, 0.95), weight_decay=0.0), batch_size=8, budget=f"{_STEPS} steps",
        on_entry=[rg.EmulatePrecision(precision, precision)] if bits < _BITS[0] else [],
    )  # fmt: skip
