"""REX: reflected exponential decay."""

from __future__ import annotations

from typing import Any

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.kinds import Schedule
from regimes.core.registry import register

_PAPER = "seven settings of vision, language and detection; 1% to 100% of the usual epochs"


def _study(baseline: str, lr: str, budget: str, margin: float) -> dict[str, Any]:
    return {
        "workload": "digits_mlp",
        "compare": {
            "baseline": baseline,
            "metric": "acc",
            "better": "higher",
            "margin": margin,
            "seeds": 12,
            "trials": 6,
        },
        "tune": {"*.lr.peak": "times(1/3, 10/3)"},
        "arms": {
            baseline: {"optimizer": f"SGD(lr={lr}, momentum=0.9)", "batch_size": 32, "budget": budget},
            "rex": {"like": baseline, "optimizer.lr": "REX(0.15)"},
        },
    }


@register
class REX(Schedule):
    r"""Stay high for long, fall ever faster: an exponential-like decay seen in a mirror.

    .. math:: s(x) = \text{final} + (\text{peak} - \text{final}) \frac{1 - x}{1 - (1 - \beta) x}

    Parameters
    ----------
    peak : float
        lr_0, the value at the start (after the warm-up).
    beta : float
        Share of the slope that the straight line would have at the start: 1/2 is the paper's profile
        (1 - x) / (1/2 + (1 - x) / 2), 1 the straight line; the smaller, the longer it stays high. Default 1/2.
    final : float
        Value at the end. Default 0.
    warmup : Duration
        Linear rise from 0; default none.

    Notes
    -----
    The paper's second part is the sampling rate: ``REX(0.1).sampled("10%")`` reads the profile ten times.

    References
    ----------
    J. Chen, C. Wolfe and A. Kyrillidis, REX: Revisiting Budgeted Training with an Improved Schedule, MLSys 2022,
    arXiv:2107.04197.

    Examples
    --------
    >>> [round(REX(0.3)(f), 6) for f in (0.0, 0.5, 1.0)]
    [0.3, 0.2, 0.0]
    >>> [round(REX(0.3, beta=1.0)(f), 6) for f in (0.0, 0.5, 1.0)]
    [0.3, 0.15, 0.0]
    """

    peak: float = fixed()
    beta: float = fixed(0.5, above=0)
    final: float = fixed(0.0)

    card = Card(
        title="Reflected exponential decay",
        axes=("rates",),
        source="Chen, Wolfe and Kyrillidis 2022, arXiv:2107.04197",
        when="Small budgets.",
        rows=("rex-schedule",),
        defaults={"beta": "1/2, the paper's profile", "final": "0, the paper's"},
        deviations=("A public port has 0.9 in the denominator; this is the paper's 1.",),
        claims=(
            Claim(
                "At a budget of three epochs, a higher accuracy than a straight line, peaks tuned alike.",
                _study("linear", "Linear(0.15)", "3 epochs", 0.003),
                paper_scale=_PAPER,
            ),
            Claim(
                "There, a higher accuracy than drops to a tenth at a half and at three quarters.",
                _study("step", "Step(0.15, milestones=['50%', '75%'])", "3 epochs", 0.003),
                paper_scale=_PAPER,
            ),
            Claim(
                "At thirty epochs, an accuracy within half a point of a cosine's.",
                _study("cosine", "Cosine(0.15)", "30 epochs", 0.005),
                paper_scale=_PAPER,
                says="not worse",
            ),
        ),
    )

    def curve(self, x: float) -> float:
        """Value at x in [0, 1] after the warm-up."""
        return self.final + (self.peak - self.final) * ((1.0 - x) / (1.0 - (1.0 - self.beta) * x))
