"""A rate without an end: cool down to a constant, hold it for as long as data come, anneal when a model is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.registry import register
from regimes.schedules.shapes import fall, held_then, refuse_zero

_PAPER = "language models of 405 million parameters, hundreds of billions of tokens"


def _phases(old: str, new: str) -> list[dict[str, Any]]:
    """Source code, then prose; the optimizer's moments go on."""
    return [
        {"name": "old", "budget": "300 steps", "mixture": "Mixture(code=1.0)", "optimizer": f"AdamW(lr={old})"},
        {
            "name": "new",
            "budget": "300 steps",
            "mixture": "Mixture(prose=1.0)",
            "optimizer": f"AdamW(lr={new})",
            "carry": ["model", "optimizer"],
        },
    ]


_ENDLESS = (
    "4e-3 * InfiniteLR(1.0, constant=0.55, cooldown='180 steps', anneal='60 steps', warmup='30 steps', over='run')"
)


@register
class InfiniteLR(Schedule):
    r"""Warm up, cool down to a constant, hold it, anneal exponentially.

    With B the share of the cooldown (of what follows the warm-up), A that of the annealing, h = peak, c = constant,
    l = final and u the share of the part that is done

    .. math:: s(x) = \begin{cases} c + (h - c)\, d(u) & x < B \\ c & B \le x < 1 - A \\ c\,(l / c)^u & x \ge 1 - A
              \end{cases}

    with d(u) = (1 + cos(pi u)) / 2 (cosine) or (r(u) - r(1)) / (1 - r(1)), r(u) = 1 / sqrt(1 + 10 u) (inverse_sqrt). With
    c = h it is `WSD` with an exponential decay.

    Parameters
    ----------
    peak : float
        eta_max, reached at the end of the warm-up.
    constant : float
        eta_const. No default: the paper's is not known to us for certain (0.55 of the peak, as recalled).
    cooldown : Duration
        Length of the cooldown, of the whole stretch. No default: the paper's is not known to us.
    anneal : Duration
        Length of the annealing at the end, of the whole stretch; ``"0%"`` for a run that goes on. Default 10%, that of
        `WSD`: the paper's is not known to us.
    final : float, optional
        eta_min, where the annealing ends. Default a tenth of the peak, the paper's as we recall it.
    cooldown_shape : {"cosine", "inverse_sqrt"}
        Default "cosine"; the paper has both.
    warmup : Duration
        Linear rise from 0 to the peak; default none.

    Raises
    ------
    DeclarationError
        If the cooldown is nothing, the parts together are longer than the stretch, or the constant or final value is not
        above 0.

    Notes
    -----
    To go on later, fork the run where it is constant, or anneal branches of it (`regimes.branch`): no warming up again.
    Over several phases it follows them all with ``over="run"``.

    References
    ----------
    A. Ibrahim, B. Thérien, K. Gupta et al., Simple and Scalable Strategies to Continually Pre-train Large Language
    Models, TMLR 2024, arXiv:2403.08763; V. Singh et al., Beyond Cosine Decay: On the effectiveness of Infinite Learning
    Rate Schedule for Continual Pre-training, 2025, arXiv:2503.02844.

    Examples
    --------
    >>> s = InfiniteLR(1.0, constant=0.5, cooldown="30%", anneal="20%", warmup="10%")
    >>> [round(s(f), 6) for f in (0.05, 0.1, 0.25, 0.4, 0.8, 0.9, 1.0)]
    [0.5, 1.0, 0.75, 0.5, 0.5, 0.223607, 0.1]
    """

    peak: float = fixed()
    constant: float = fixed()
    cooldown: Duration = fixed()
    anneal: Duration = fixed(Duration(10.0, "%"))
    final: float | None = fixed(None)
    cooldown_shape: Literal["cosine", "inverse_sqrt"] = fixed("cosine")

    card = Card(
        title="Warm-up, cooldown, constant, annealing",
        axes=("rates", "phases"),
        source="Ibrahim et al. 2024, arXiv:2403.08763",
        when="Data will go on coming: no rate has to be warmed up again, and a finished model is an annealing away.",
        shelf="atlas",
        rows=("cpt-rewarm-replay",),
        defaults={
            "anneal": "10%, that of WSD",
            "final": "a tenth of the peak, the paper's as we recall it",
            "cooldown_shape": "cosine; the paper has both",
        },
        deviations=(
            "The paper's constant value, and the lengths of its parts, are not known to us for certain.",
            "The time scale of inverse_sqrt, 10, is that of a public implementation of the follow-up, arXiv:2503.02844.",
        ),
        claims=(
            Claim(
                "After two texts in turn its loss on both is no higher than with a cosine that is warmed up again for the "
                "second, peaks tuned alike.",
                {
                    "workload": {"name": "char_lm", "width": 32, "length": 32},
                    "compare": {
                        "baseline": "cosines",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.02,
                        "seeds": 8,
                        "trials": 3,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": {
                        "cosines": {
                            "batch_size": 16,
                            "phases": _phases(
                                "4e-3 * Cosine(1.0, final=0.1, warmup='30 steps')",
                                "4e-3 * Rewarm(1.0, rise='30 steps')",
                            ),
                        },
                        "infinite": {"batch_size": 16, "phases": _phases(_ENDLESS, _ENDLESS)},
                    },
                },
                paper_scale=_PAPER,
                says="not worse",
            ),
            Claim(
                "By the step at which that cosine would be back at its peak, it has forgotten less of the first text.",
                {"seeds": 8, "margin": 0.02, "scale": "char_lm, 0.04 M parameters, 300 steps of code, 30 of prose"},
                paper_scale=_PAPER,
                measure="regimes.claims.rates:forgotten_at_the_peak",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[InfiniteLR]:
        """Both shapes."""
        return [cls(0.1, 0.05, "40%"), cls(0.1, 0.02, "30%", "0%", cooldown_shape="inverse_sqrt")]

    def validate(self) -> None:
        """Refuse an annealing from or to 0."""
        refuse_zero("exponential", self.constant, self.floor, "final")

    @property
    def floor(self) -> float:
        """Where the annealing ends."""
        return self.peak / 10.0 if self.final is None else self.final

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the cooldown at the beginning, the annealing at the end."""
        length, last = self.share_of(span, "cooldown"), self.share_of(span, "anneal", above=None)
        if length + last > 1.0 + EDGE:
            raise DeclarationError(
                f"got '{self.cooldown}'; warm-up, cooldown and annealing ('{self.anneal}') together exceed the stretch",
                "cooldown",
            )
        cool = held_then(fall(self.cooldown_shape, self.peak, self.constant), self.peak, 0.0, length)
        rest = held_then(fall("exponential", self.constant, self.floor), self.constant, 1.0 - last, last)
        return lambda x: cool(x) if x < length else rest(x)
