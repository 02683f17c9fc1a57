"""Warm-up, stable, decay, constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.registry import register
from regimes.schedules.shapes import Shape, fall, held_then, refuse_zero

_PAPER = "a model of 1.8 billion parameters on 2.5T tokens, as we know it from others"


def _study(baseline: str, lr: str, **more: Any) -> dict[str, Any]:
    """Text of which every fifth byte is wrong, and clean text at the end: two thirds of it decay, one third constant."""
    compare = {"baseline": baseline, "metric": "loss", "better": "lower", "seeds": 8}
    mixture = "Mixture(noisy=Step(1.0, ['85%'], factor=0.0), code=Piecewise(1.0, at=['85%'], factors=[1.0], first=0.0))"
    same = {"batch_size": 16, "budget": "600 steps", "mixture": mixture}
    return {
        "workload": {"name": "char_lm", "width": 32, "length": 32, "domains": ["code"], "noise": 0.2},
        "compare": compare | more.pop("compare"),
        "arms": {
            baseline: {"optimizer": f"AdamW(lr={lr})"} | same,
            "wsdc": {
                "like": baseline,
                "optimizer.lr": "WSDC(4e-3, decay='10%', constant='5%', final=4e-4, warmup='5%')",
            },
        },
        **more,
    }


@register
class WSDC(Schedule):
    r"""Warm up, hold the peak, decay, and hold the final value while the best data are seen.

    With D and C the shares of decay and constant, u = (f - (1 - C - D)) / D in the decay, and the shapes d of `WSD`

    .. math:: s(f) = \begin{cases} \text{peak} & f < 1 - C - D \\
              \text{final} + (\text{peak} - \text{final})\, d(u) & 1 - C - D \le f < 1 - C \\
              \text{final} & f \ge 1 - C \end{cases}

    With C = 0 it is `WSD`.

    Parameters
    ----------
    peak : float
        Value of the stable part.
    decay : Duration
        Length of the decay, of the whole stretch. Default 10%, that of `WSD`.
    constant : Duration
        Length of the constant end, of the whole stretch. Default 5%: ours, the paper's is not known to us.
    final : float, optional
        Value of the constant end. Default a tenth of the peak: ours, the paper's is not known to us.
    decay_shape : {"linear", "sqrt", "cosine", "exponential", "inverse"}
        As of `WSD`. Default "linear": ours, the paper's is not known to us.
    warmup : Duration
        Linear rise from 0; default none.

    Raises
    ------
    DeclarationError
        If the decay is nothing, the parts together are longer than the stretch, or an exponential or inverse decay goes to
        0.

    References
    ----------
    C. Deng et al., PLM: Efficient Peripheral Language Models Hardware-Co-Designed for Ubiquitous Computing, 2025,
    arXiv:2503.12167.

    Examples
    --------
    >>> s = WSDC(1.0, decay="20%", constant="10%", final=0.2, warmup="10%")
    >>> [round(s(f), 6) for f in (0.05, 0.1, 0.7, 0.8, 0.9, 1.0)]
    [0.5, 1.0, 1.0, 0.6, 0.2, 0.2]
    """

    peak: float = fixed()
    decay: Duration = fixed(Duration(10.0, "%"))
    constant: Duration = fixed(Duration(5.0, "%"))
    final: float | None = fixed(None)
    decay_shape: Shape = fixed("linear")

    card = Card(
        title="Warm-up, stable, decay, constant",
        axes=("rates", "phases"),
        source="Deng et al. 2025, PLM, arXiv:2503.12167",
        when="The best data are kept for the end, and should be learned from at a rate that still moves something.",
        shelf="atlas",
        rows=("plm-wsdc",),
        defaults={
            "decay": "10%, that of WSD",
            "constant": "5%, ours",
            "final": "a tenth of the peak, ours",
            "decay_shape": "linear, ours",
        },
        deviations=(
            "Of the paper we know the four parts by name; the shape of its decay, the lengths and the final value are not "
            "known to us.",
            "Its data change with the parts: here they do so in a Mixture of their own, or in phases with over='run'.",
        ),
        claims=(
            Claim(
                "On noisy text with a clean end, a decay that leaves a third of the clean text to a constant rate ends at a "
                "loss no higher than one over all of the clean text.",
                _study(
                    "wsd",
                    "WSD(4e-3, decay='15%', final=4e-4, warmup='5%')",
                    compare={"margin": 0.01},
                ),
                paper_scale=_PAPER,
                says="not worse",
            ),
            Claim(
                "There it ends at a lower loss than a constant rate, peaks tuned alike.",
                _study(
                    "constant",
                    "Constant(4e-3, warmup='5%')",
                    compare={"margin": 0.05, "trials": 3},
                    tune={"*.lr.peak": "times(1/4, 4)"},
                ),
                paper_scale=_PAPER,
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse shapes that never reach 0 on the way to it."""
        refuse_zero(self.decay_shape, self.peak, self.floor, "decay_shape")

    @property
    def floor(self) -> float:
        """Value of the constant end."""
        return self.peak / 10.0 if self.final is None else self.final

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place decay and constant at the end of the stretch."""
        length, rest = self.share_of(span, "decay"), self.share_of(span, "constant", above=None)
        if length + rest > 1.0 + EDGE:
            raise DeclarationError(
                f"got '{self.constant}'; warm-up, decay ('{self.decay}') and constant together exceed the stretch",
                "constant",
            )
        return held_then(fall(self.decay_shape, self.peak, self.floor), self.peak, 1.0 - length - rest, length)
