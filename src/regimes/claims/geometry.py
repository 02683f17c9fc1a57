"""Effective rank while a linear bottleneck learns bigrams: does it fall, rise and fall again?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import philox

#: Tokens, numbers in an embedding, full-batch steps, measurements at log-spaced steps, examples that are looked at.
_TOKENS, _WIDTH, _STEPS, _LOOKS, _EXAMPLES = 64, 8, 20_000, 60, 4096


def bottleneck(seed: int) -> tuple[float, float]:
    """How marked the three phases are where tokens are Zipf-distributed, and where they are uniform.

    Parameters
    ----------
    seed : int
        Of initial weights, and of which tokens follow which.
    """
    return marked(_course(seed, _WIDTH, 1.0)), marked(_course(seed, _WIDTH, 0.0))


def wide(seed: int) -> tuple[float, float]:
    """The same with Zipf-distributed tokens, where the embedding is a bottleneck, and where it is as wide as there are
    tokens.

    Parameters
    ----------
    seed : int
        As there.
    """
    return marked(_course(seed, _WIDTH, 1.0)), marked(_course(seed, _TOKENS, 1.0))


def marked(series: list[float]) -> float:
    """Return the smaller of the first rise and the fall after it, as a share of the range, 0 unless a fall comes first.

    Examples
    --------
    >>> marked([8.0, 4.0, 6.0, 5.0]), marked([8.0, 4.0, 6.0]), marked([4.0, 6.0, 5.0])
    (0.25, 0.0, 0.0)
    """
    found = rg.probes.detect_phases(series)
    if [phase.name for phase in found[:3]] != ["warmup", "entropy-seeking", "compression-seeking"]:
        return 0.0
    heights = [abs(series[phase.stop] - series[phase.start]) for phase in found[1:3]]
    return min(heights) / (max(series) - min(series))


def _course(seed: int, width: int, exponent: float) -> list[float]:
    """log RankMe of the embeddings at log-spaced steps of full-batch gradient descent on bigram probabilities.

    Token i has frequency p_i ~ i^-exponent; what follows it is drawn from a Dirichlet distribution of concentration 0.5,
    times p.
    """
    shares = np.arange(1, _TOKENS + 1) ** -exponent / np.sum(np.arange(1, _TOKENS + 1) ** -exponent)
    follows = philox(seed, "bigrams").dirichlet(np.full(_TOKENS, 0.5), _TOKENS) * shares
    follows *= _TOKENS * shares[:, None] / follows.sum(1, keepdims=True)
    work = rg.Workload(
        model=lambda: nn.Sequential(nn.Embedding(_TOKENS, width), nn.Linear(width, _TOKENS, bias=False)),
        train=(torch.arange(_TOKENS), torch.from_numpy(follows).float()),
        loss=nn.CrossEntropyLoss(),
    )
    regime = rg.Regime(optimizer=rg.SGD(lr=5.0), batch_size=_TOKENS, budget=f"{_STEPS} steps", sampler=rg.Sequential())
    seen = torch.from_numpy(np.repeat(np.arange(_TOKENS), np.ceil(_EXAMPLES * shares).astype(int)))
    run, probe, found = rg.Run(work, regime, seed, count_flops=False), rg.RankMe(module="0"), []
    looks = set(np.unique(np.geomspace(1, _STEPS, _LOOKS).astype(int)).tolist())
    for number, _ in enumerate(run, start=1):
        if number in looks:
            found.append(math.log(probe(run.model, lambda model, x: model(x).mean(), seen)[""]))
    return found
