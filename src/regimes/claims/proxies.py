"""How much the rate matters to a small GPT, with and without a norm of queries and keys; and how large its logits become."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

import regimes as rg
from regimes.claims.small_gpt import CLUELESS, final_loss
from regimes.claims.training import trained

_WIDTH, _HEADS = 32, 2
_RATES = np.geomspace(1e-4, 0.3, 8).tolist()


def qk_norm_sensitivity(seed: int) -> tuple[float, float]:
    """log2 of what a rate costs on average, over the best of eight: without the norm, and with it.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return _sensitivity(False, seed), _sensitivity(True, seed)


def bounded_logits(seed: int) -> tuple[float, float]:
    """log2 of the root of the head size; and of attention's largest logit on held-out text, with the norm.

    At the highest of the rates that ends below the loss of one who knows nothing.

    Parameters
    ----------
    seed : int
        As there.
    """
    rate = next((r for r in reversed(_RATES) if _loss(r, True, seed) < CLUELESS), _RATES[0])
    work = _work(True)
    model = trained(work, _regime(rate), seed).model
    batch = work.sources["val"]["code"].fetch(np.arange(64), {})
    logits = rg.AttentionLogits()(model, work.loss, batch)[""]
    return math.log2(_WIDTH / _HEADS) / 2, math.log2(logits)


def _sensitivity(qk_norm: bool, seed: int) -> float:
    losses = [_loss(rate, qk_norm, seed) for rate in _RATES]
    return math.log2(rg.lr_sensitivity(_RATES, losses, CLUELESS) + 1e-6)


def _loss(rate: float, qk_norm: bool, seed: int) -> float:
    return final_loss(_work(qk_norm), _regime(rate), seed)


def _regime(rate: float) -> rg.Regime:
    """The paper's recipe: warm-up, cosine, a decay that the rate's peak does not multiply, gradients clipped at 1."""
    lr: Any = rg.Cosine(rate, final=1e-5, warmup="5%")
    return rg.Regime(
        optimizer=rg.AdamW(lr=lr, betas=(0.9, 0.95), weight_decay=1e-4 / rate), batch_size=16, budget="400 steps",
        grad_transforms=[rg.ClipNorm(1.0)],
    )  # fmt: skip


@functools.cache
def _work(qk_norm: bool) -> rg.Workload:
    return rg.workloads.load("char_lm", width=_WIDTH, heads=_HEADS, length=32, qk_norm=qk_norm)
