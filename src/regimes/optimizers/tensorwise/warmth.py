"""How a rate rises again after a rule has forgotten its moments."""

from __future__ import annotations

import math


def warmth(since: int, steps: int) -> float:
    r"""Return by how much the rate is reduced so many updates after a reset: along a cosine from a hundredth to 1.

    .. math:: s_c = 1 - \frac{0.99}{2} \left(1 + \cos \frac{\pi c}{N + 1}\right) \; (c < N), \text{ else } 1

    Parameters
    ----------
    since : int
        c, 0 for the update that begins with the reset.
    steps : int
        N.

    References
    ----------
    T. Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training, ICLR 2025, arXiv:2501.06842; the
    authors' code.

    Examples
    --------
    >>> [round(warmth(c, 3), 4) for c in range(5)]
    [0.01, 0.155, 0.505, 1.0, 1.0]
    """
    return 1.0 if since >= steps else 1.0 - 0.99 / 2.0 * (1.0 + math.cos(math.pi * since / (steps + 1)))
