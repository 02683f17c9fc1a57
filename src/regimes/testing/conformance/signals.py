"""Made-up measurements, in the form of real ones: what drives a controller through all that it can do."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from regimes.core.component import proposes
from regimes.core.errors import RegimesError
from regimes.core.progress import Progress

#: How long a controller is driven, and the size of its batches.
STEPS, BATCH = 300, 32


def driven(controller: Any) -> list[float] | None:
    """Values of a controller over made-up signals; None where one of its needs cannot be made up, or it asks for trials.

    Examples
    --------
    >>> from regimes.testing.conformance.toys import Held
    >>> driven(Held(1.0, 2.0))[:3]
    [1.0, 2.0, 2.0]
    """
    if proposes(controller):
        return None
    state, values = controller.init(), []
    try:
        for at, signals in _stream(controller.all_needs()):
            values.append(controller.value(state, at))
            state = controller.observe(state, signals, at)
    except RegimesError:
        return None
    return values


def _stream(needs: Iterable[str]) -> Iterator[tuple[Progress, dict[str, Any]]]:
    """Losses that fall more often than they rise, by steps of every size; gradients that drown in noise."""
    rng, level = random.Random(0), 30.0
    for step in range(STEPS):
        share = step / STEPS
        level *= 1.0 + rng.choice((-1, -1, 1)) * 10.0 ** rng.uniform(-6.0, -1.5)
        signals = {need: _signal(need, level, share, rng) for need in needs}
        yield Progress(step, BATCH * step, BATCH * step, step, BATCH * step, BATCH * step, share, share), signals


def _signal(need: str, level: float, share: float, rng: random.Random) -> Any:
    if need == "micro_batch_gradient_norms":
        # |G|^2 falls from 4 to 0.04 under noise of trace 64 in four micro-batches.
        signal, noise, size = 4.0 * 0.01**share, 64.0 * rng.uniform(0.8, 1.2), BATCH / 4
        norms = [math.sqrt(signal + noise * rng.uniform(0.9, 1.1) / size) for _ in range(4)]
        return {"norms": norms, "sizes": [size] * 4, "total": math.sqrt(signal + noise / BATCH)}
    if need == "example_gradients":
        # A mean of length 1 under noise that grows.
        drawn = torch.randn(int(BATCH), 4, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
        return {"w": torch.tensor([1.0, 0.0, 0.0, 0.0]) + 8.0 * share * drawn}
    if need in ("loss", "gradient_norm") or need.startswith(("val:", "probe:")):
        return level
    raise RegimesError(f"no '{need}' can be made up")
