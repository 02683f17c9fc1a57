"""Warm up again after a decay, and decay again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.registry import register
from regimes.schedules.cosine import Cosine


def _phases(new: str, mixture: str = "Mixture(prose=1.0)") -> list[dict[str, Any]]:
    """Source code under a cosine down to a tenth, then something else."""
    lr = "4e-3 * Cosine(1.0, final=0.1, warmup='30 steps')"
    return [
        {"name": "old", "budget": "300 steps", "mixture": "Mixture(code=1.0)", "optimizer": f"AdamW(lr={lr})"},
        {"name": "new", "budget": "300 steps", "mixture": mixture, "optimizer": f"AdamW(lr={new})"},
    ]


def _study(metric: str, margin: float, arms: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "workload": {"name": "char_lm", "width": 32, "length": 32},
        "compare": {
            "baseline": next(iter(arms)),
            "metric": metric,
            "better": "lower",
            "margin": margin,
            "seeds": 8,
            **more.pop("compare", {}),
        },
        **more,
        "arms": {name: {"batch_size": 16, **arm} for name, arm in arms.items()},
    }


_AGAIN = "4e-3 * Rewarm(1.0, rise='3 steps')"
_UNION = "AdamW(lr=4e-3 * Cosine(1.0, final=0.1, warmup='30 steps'))"


@register
class Rewarm(Schedule):
    r"""From the rate at which training ended up to the peak in a straight line, then down half a cosine.

    With r the share of the rise, a = start, h = peak, l = final and u = (x - r) / (1 - r)

    .. math:: s(x) = \begin{cases} a + (h - a)\, x / r & x < r \\
              l + \tfrac12 (h - l) (1 + \cos \pi u) & x \ge r \end{cases}

    With start = 0 it is `Cosine` with a warm-up.

    Parameters
    ----------
    peak : float
        eta_max: the higher, the more is learned of the new data and forgotten of the old.
    rise : Duration
        Length of the rise; ``"0%"`` starts at the peak. Default 1%, the papers' as we recall it.
    final : float, optional
        eta_min. Default a tenth of the peak, the papers'.
    start : float, optional
        Where the rise begins. Default `final`: the rate at which a run of this schedule ended.
    warmup : Duration
        Linear rise from 0 to `start`, before; default none.

    Raises
    ------
    DeclarationError
        If the rise is longer than the stretch.

    Notes
    -----
    A phase of its own for each data set, with ``carry`` where the optimizer's moments go on (the papers begin anew with
    them). A share r of old data among the new, the papers' replay, is ``Mixture(old=r, new=1 - r)``.

    References
    ----------
    K. Gupta, B. Thérien, A. Ibrahim et al., Continual Pre-Training of Large Language Models: How to (re)warm your model?,
    2023, arXiv:2308.04014; A. Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train Large Language
    Models, TMLR 2024, arXiv:2403.08763.

    Examples
    --------
    >>> s = Rewarm(1.0, rise="20%")
    >>> [round(s(f), 6) for f in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.1, 0.55, 1.0, 0.55, 0.1]
    """

    peak: float = fixed()
    rise: Duration = fixed(Duration(1.0, "%"))
    final: float | None = fixed(None)
    start: float | None = fixed(None)

    card = Card(
        title="Warm up again, decay again",
        axes=("rates", "phases"),
        source="Gupta et al. 2023, arXiv:2308.04014; Ibrahim et al. 2024, arXiv:2403.08763",
        when="New data for a model whose rate has been annealed.",
        shelf="atlas",
        rows=("rewarm-continual-pretraining", "cpt-rewarm-replay"),
        defaults={
            "rise": "1%, the papers' as we recall it",
            "final": "a tenth of the peak, the papers'",
            "start": "final; whether the papers' begins there or at 0 we do not know",
        },
        claims=(
            Claim(
                "Warmed up again to the peak, a model learns more of a new text than at the rate at which it had ended.",
                _study(
                    "prose/loss", 0.05, {"held": {"phases": _phases("4e-4")}, "rewarmed": {"phases": _phases(_AGAIN)}}
                ),
                paper_scale="a model of 410 million parameters, 300B tokens and then 297B",
            ),
            Claim(
                "How long the rise takes, none to a tenth, makes less than a fifth of the difference on the new text that the "
                "peak makes, half to twice.",
                {"seeds": 6, "margin": 0.005, "scale": "char_lm, 0.04 M parameters, 300 steps of code, 300 of prose"},
                paper_scale="a model of 410 million parameters, 300B tokens and then 297B",
                measure="regimes.claims.rates:peaks_against_rises",
            ),
            Claim(
                "With a quarter of old text among the new it ends within 0.04 (two percent) of training on both from the "
                "beginning, peaks tuned alike.",
                _study(
                    "loss",
                    0.04,
                    {
                        "union": {
                            "mixture": "Mixture(code=0.5, prose=0.5)",
                            "optimizer": _UNION,
                            "budget": "600 steps",
                        },
                        "replay": {"phases": _phases(_AGAIN, "Mixture(code=0.25, prose=0.75)")},
                    },
                    compare={"trials": 3},
                    tune={"*.lr.peak": "times(1/4, 4)"},
                ),
                paper_scale="models of 405 million and 10 billion parameters, hundreds of billions of tokens",
                says="not worse",
            ),
        ),
    )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the rise."""
        rise = self.share_of(span, "rise", above=None)
        if rise > 1.0 + EDGE:
            raise DeclarationError(f"got '{self.rise}'; allowed: no longer than the stretch after the warm-up", "rise")
        peak, left = self.peak, max(1.0 - rise, EDGE)
        final = peak / 10.0 if self.final is None else self.final
        start, down = final if self.start is None else self.start, Cosine(peak, final)

        def value(x: float) -> float:
            if x < rise:
                return start + (peak - start) * (x / rise)
            u = (x - rise) / left
            return down.curve(u if u < 1.0 - EDGE else 1.0)

        return value
