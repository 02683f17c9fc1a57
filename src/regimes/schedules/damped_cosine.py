"""A cosine of several swings under a peak that decays."""

from __future__ import annotations

from math import cos, exp, pi

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.kinds import Schedule
from regimes.core.registry import register


@register
class DampedCosine(Schedule):
    r"""Swing between `final` and a peak that decays exponentially.

    With x in [0, 1] the progress after the warm-up

    .. math::
        s(x) = \tfrac12 (P(x) + V) + \tfrac12 (P(x) - V) \cos 2 \pi n x, \qquad
        P(x) = V + (\eta_{max} - V)\, e^{-k x}, \quad V = \eta_{min}

    It ends in the valley where n is a half and a whole number: n = N - 1/2 for the paper's N cycles. At n = 1/2 and
    k = 0 it is `Cosine`.

    Parameters
    ----------
    peak : float
        eta_max, reached at the end of the warm-up.
    cycles : float
        n, full swings. No default: the paper's number is not known to us.
    damping : float
        k: the peak decays by e^-k over the stretch. No default, for the same reason.
    final : float
        eta_min, the floor that every swing reaches. Default 0.
    warmup : Duration
        Linear rise from 0 to the peak; the first swing starts after it. Default none.

    References
    ----------
    Z. Zhao, N. Wang, X. Fu and Y. Cheng, Chinese ModernBERT with Whole-Word Masking, 2025, arXiv:2510.12285.

    Examples
    --------
    >>> s = DampedCosine(1.0, cycles=1.5, damping=1.2)
    >>> [round(s(f), 4) for f in (0.0, 1 / 3, 2 / 3, 1.0)]
    [1.0, 0.0, 0.4493, 0.0]
    """

    peak: float = fixed()
    cycles: float = fixed(above=0)
    damping: float = fixed(low=0)
    final: float = fixed(0.0)

    card = Card(
        title="A cosine of several swings under a decaying peak",
        axes=("rates",),
        source="Zhao et al. 2025, Chinese ModernBERT, arXiv:2510.12285",
        when="Long runs of which checkpoints in valleys are wanted on the way.",
        shelf="atlas",
        rows=("chinese-modernbert",),
        defaults={"final": "0; the paper's is not known to us"},
        deviations=(
            "A reconstruction: of the paper we know that the rate is (P + V)/2 + (P - V)/2 cos((2N - 1) pi x) with a damped "
            "peak P and a valley V; that P decays exponentially and V is constant is ours, and N and the damping are not "
            "known.",
        ),
        claims=(
            Claim(
                "Its held-out loss is lower than that of half a cosine at the same number of steps.",
                {
                    "workload": {"name": "masked_lm", "length": 48},
                    "compare": {
                        "baseline": "cosine",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.01,
                        "seeds": 8,
                        "trials": 4,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": {
                        "cosine": {
                            "optimizer": "AdamW(lr=Cosine(2e-3, warmup='5%'))",
                            "batch_size": 16,
                            "budget": "300 steps",
                            "augment": ["MaskWords(0.15)"],
                        },
                        "damped": {
                            "like": "cosine",
                            "optimizer.lr": "DampedCosine(2e-3, cycles=2.5, damping=1.5, warmup='5%')",
                        },
                    },
                },
                paper_scale="a 28-layer encoder on 1.2T tokens; the paper compares it with nothing that we know of",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[DampedCosine]:
        """Swings over a floor."""
        return [cls(0.1, 2.5, 1.5), cls(0.1, 1.5, 2.0, 0.01)]

    def curve(self, x: float) -> float:
        """Value at x in [0, 1] after the warm-up."""
        height = (self.peak - self.final) * exp(-self.damping * x)
        return self.final + height * 0.5 * (1.0 + cos(2.0 * pi * self.cycles * x))
