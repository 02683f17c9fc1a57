"""Warm-up, stable, decay, again and again: several budgets from one run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.registry import register
from regimes.schedules.shapes import Shape, fall, held_then, refuse_zero

_SCALE = "char_lm, 0.04 M parameters, 600 steps, budgets of 150, 300 and 600"
_PAPER = "language models of 0.1 to 1.2 billion parameters"


#: A cosine that begins anew at each budget.
_CYCLIC = (
    "Then(Then(Cosine(1.0, final=0.1, warmup='30 steps'), second=Cosine(1.0, final=0.1), at='150 steps'), "
    "second=Cosine(1.0, final=0.1), at='300 steps')"
)


@register
class WSDS(Schedule):
    r"""Hold the peak, decay before each budget, and jump back to the peak after it: from the decayed weights on.

    With budgets T_1 < T_2 < ..., decays of length D_k that end at them, u = (f - (T_k - D_k)) / D_k, h = peak and l =
    final

    .. math:: s(f) = \begin{cases} h & T_{k-1} \le f < T_k - D_k \\
              1 / ((1 - u) / h + u / l) & T_k - D_k \le f < T_k \end{cases}

    or with another shape of `WSD`. With one budget, the end, it is `WSD`.

    Parameters
    ----------
    peak : float
        Value of the stable parts.
    budgets : tuple of Duration
        T_1, T_2 ...: where a decayed model is wanted, in order, counted from the beginning of the stretch, warm-up
        included. After the last it holds the peak, unless that is the end.
    decay : Duration
        Length of each decay: a percentage is of the budget that it ends at, other amounts are the same for each. Default
        10%, the paper's as we recall it.
    final : float, optional
        Value at each budget. Default a tenth of the peak, the paper's as we recall it.
    decay_shape : {"linear", "sqrt", "cosine", "exponential", "inverse"}
        As of `WSD`. Default "inverse", the paper's.
    warmup : Duration
        Linear rise from 0; default none.

    Raises
    ------
    DeclarationError
        If there is no budget, budgets are not in order between the warm-up and the end, a decay begins before the budget
        before it, or an exponential or inverse decay goes to 0.

    Notes
    -----
    The last step of a decay is the one before the budget; what it leaves behind is the model of that budget. To rewind
    to the weights before the decay instead, branch: `regimes.branch`.

    References
    ----------
    K. Wen, Z. Li, J. Wang, D. Hall, P. Liang and T. Ma, Understanding Warmup-Stable-Decay Learning Rates: A River Valley
    Loss Landscape Perspective, ICLR 2025, arXiv:2410.05192.

    Examples
    --------
    >>> s = WSDS(1.0, budgets=["50%", "100%"], decay="20%", final=0.25)
    >>> [round(s(f), 6) for f in (0.0, 0.4, 0.45, 0.5, 0.8, 0.9, 1.0)]
    [1.0, 1.0, 0.4, 1.0, 1.0, 0.4, 0.25]
    """

    repeats = True

    peak: float = fixed()
    budgets: tuple[Duration, ...] = fixed()
    decay: Duration = fixed(Duration(10.0, "%"))
    final: float | None = fixed(None)
    decay_shape: Shape = fixed("inverse")

    card = Card(
        title="Warm-up, stable, decay, for several budgets in one run",
        axes=("rates", "phases"),
        source="Wen et al. 2025, WSD-S, arXiv:2410.05192",
        when="Finished models of several budgets are wanted, and no decay should be thrown away.",
        shelf="atlas",
        rows=("wsd-river-valley",),
        defaults={
            "decay": "10% of each budget, the paper's as we recall it",
            "final": "a tenth of the peak, the paper's as we recall it",
            "decay_shape": "inverse, the paper's",
        },
        deviations=(
            "A percentage is of the budget that the decay ends at; a public implementation takes it of the stretch between "
            "two budgets, and which is the paper's we do not know.",
        ),
        claims=(
            Claim(
                "At the third of three budgets its loss is no higher than that of a cosine that begins anew at each, peaks "
                "tuned alike.",
                {
                    "workload": {"name": "char_lm", "width": 32, "length": 32},
                    "compare": {
                        "baseline": "cyclic",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.01,
                        "seeds": 8,
                        "trials": 3,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": {
                        "cyclic": {
                            "optimizer": f"AdamW(lr=4e-3 * {_CYCLIC})",
                            "batch_size": 16,
                            "budget": "600 steps",
                        },
                        "wsds": {
                            "like": "cyclic",
                            "optimizer.lr": "WSDS(4e-3, budgets=['150 steps', '300 steps', '600 steps'], warmup='30 steps')",
                        },
                    },
                },
                paper_scale=_PAPER,
                says="not worse",
            ),
            Claim(
                "At the end it is lower than that of a run which goes back to before each decay, and pays for it in steps.",
                {"seeds": 8, "margin": 0.01, "scale": _SCALE},
                paper_scale=_PAPER,
                measure="regimes.claims.rates:against_going_back",
            ),
            Claim(
                "In the last decay the loss falls at least three times as much as in as many steps before it.",
                {"seeds": 8, "margin": 0.01, "scale": _SCALE},
                paper_scale=_PAPER,
                measure="regimes.claims.rates:falls_in_a_decay",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[WSDS]:
        """Several budgets, the last of them the end or not."""
        return [cls(0.1, ["30%", "100%"]), cls(0.1, ["20%", "50%", "80%"], "9%", 0.02, "cosine")]

    def validate(self) -> None:
        """Refuse a schedule without a budget, and shapes that never reach 0 on the way to it."""
        if not self.budgets:
            raise DeclarationError("got none; allowed: one at least", "budgets")
        refuse_zero(self.decay_shape, self.peak, self.floor, "decay_shape")

    @property
    def floor(self) -> float:
        """Value at each budget."""
        return self.peak / 10.0 if self.final is None else self.final

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the budgets, and a decay before each."""
        ends = [1.0 if place > 1.0 - EDGE else place for place in self.moments_of(span, "budgets")]
        peak, falls, pieces = self.peak, fall(self.decay_shape, self.peak, self.floor), []
        for before, end, budget in zip([0.0, *ends], ends, self.budgets):
            length = self._length(span, end)
            if end - length < before - EDGE:
                raise DeclarationError(
                    f"got '{self.decay}'; allowed: decays that begin after the warm-up and the budget before, which that of "
                    f"'{budget}' does not",
                    "decay",
                )
            pieces.append(held_then(falls, peak, end - length, length))
        pieces.append(pieces[-1] if ends[-1] == 1.0 else lambda x: peak)
        # The nudge puts the step that begins after a budget there although its place is rounded.
        return lambda x: pieces[bisect_right(ends, x + EDGE)](x)

    def _length(self, span: Span, end: float) -> float:
        """Length of the decay that ends there, of which a percentage is of all that lies before that end."""
        length = self.share_of(span, "decay")
        return length * ((end + span.before) / (1.0 + span.before)) if self.decay.unit == "%" else length
