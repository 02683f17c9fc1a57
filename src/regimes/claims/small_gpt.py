"""What claims about rules on a small GPT share: the workload, and the loss on held-out text."""

from __future__ import annotations

import functools
import math

import regimes as rg
from regimes.claims.training import measured, trained

#: The loss of one who knows nothing, in nats a byte; no run counts as worse.
CLUELESS = math.log(256.0)


@functools.cache
def work(layers: int = 2) -> rg.Workload:
    """Code and prose by bytes, in windows of 32, for a GPT of width 32."""
    return rg.workloads.load("char_lm", width=32, length=32, layers=layers)


def final_loss(work: rg.Workload, regime: rg.Regime, seed: int) -> float:
    """Return the validation loss after the last step; of what diverged, that of one who knows nothing."""
    try:
        loss = measured(trained(work, regime, seed), "loss", "val")
    except rg.RunFailed:
        return CLUELESS
    return min(loss, CLUELESS) if math.isfinite(loss) else CLUELESS
