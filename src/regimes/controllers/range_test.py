"""A learning-rate range test at the beginning of a phase, and the rate that it suggests."""

from __future__ import annotations

import math
from typing import Any, Literal

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Controller, State
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd
from regimes.schedules.exponential import Exponential


@register
class RangeTest(Controller):
    r"""Try rates from `low` to `high` in one short trial, go back, and train at the rate that the losses suggest.

    The trial's rate rises as

    .. math:: \eta(x) = \text{low} \left(\frac{\text{high}}{\text{low}}\right)^x, \qquad x \in [0, 1)

    Its losses are smoothed, :math:`s_t = \beta s_{t-1} + (1 - \beta) \ell_t`, over :math:`1 - \beta^t`, and looked at
    until they exceed `diverged` times their least value. With m the rate of the least smoothed loss the suggestion is
    m / `safety` (``rule="minimum"``), or the rate at which the smoothed loss falls fastest per log-rate
    (``rule="steepest"``).

    Parameters
    ----------
    low, high : float
        The range. A product such as ``RangeTest(1e-5, 1.0) * Cosine(1.0)`` scales a schedule of height 1.
    budget : Duration
        Length of the trial. Default 100 steps.
    rule : "minimum" or "steepest"
        Default minimum.
    safety : float
        By what the rate of the least loss is divided. Default 10.
    smooth : float
        beta. Default 0.98.
    diverged : float
        Default 4.

    Raises
    ------
    DeclarationError
        If high <= low.

    References
    ----------
    L. N. Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017, arXiv:1506.01186, section 3.3. The
    smoothing, the stop at four times the least loss and a tenth of the minimum are of the fastai library.

    Examples
    --------
    >>> test = RangeTest(1e-4, 1.0, safety=1.0, smooth=0.0); state = test.init()
    >>> test.propose(state, Progress()).edit
    {'': Exponential(0.0001, factor=10000.0, every='100%')}
    >>> rows = [{"fraction": f, "loss": loss} for f, loss in ((0.0, 3.0), (0.25, 2.0), (0.5, 1.0), (0.75, 9.0))]
    >>> test.value(test.absorb(state, TrialEnd(Progress(), rows)), Progress())
    0.01
    """

    low: float = fixed(above=0)
    high: float = fixed(above=0)
    budget: Duration = fixed(Duration(100, "steps"))
    rule: Literal["minimum", "steepest"] = fixed("minimum")
    safety: float = fixed(10.0, low=1)
    smooth: float = fixed(0.98, low=0, below=1)
    diverged: float = fixed(4.0, above=1)

    trial_lengths = ("budget",)

    card = Card(
        title="Learning-rate range test",
        axes=("rates",),
        source="Smith 2017, arXiv:1506.01186",
        when="Nothing is known of the rate.",
        cost="the steps of the trial, once",
        defaults=dict.fromkeys(("budget", "safety", "smooth", "diverged"), "fastai"),
        deviations=("The range rises geometrically, as in fastai; the paper's rises linearly.",),
    )

    @classmethod
    def example(cls) -> list[RangeTest]:
        """Short ones, in which every setting shows."""
        wide = [cls(0.001, 1000.0, "5 steps", rule, 2.0, 0.5, 1.5) for rule in ("minimum", "steepest")]
        return [*wide, cls(0.001, 10.0, "7 steps", "minimum", 2.0, 0.1, 1.01)]

    def validate(self) -> None:
        """Refuse an empty range."""
        if self.high <= self.low:
            raise DeclarationError(f"got {self.high}; allowed: above low ({self.low})", "high")

    def init(self) -> State:
        """Nothing tried."""
        return {"rate": None, "rates": [], "losses": []}

    def value(self, state: State, at: Progress) -> float:
        """The rate that was suggested; before that, the lowest."""
        return self.low if state["rate"] is None else state["rate"]

    def propose(self, state: State, at: Progress) -> Trial | None:
        """One trial, at the beginning."""
        if state["rate"] is not None:
            return None
        return Trial({"": Exponential(self.low, self.high / self.low, every="100%")}, self.budget)

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Choose the rate from the losses."""
        rows = [row for row in end.records if "loss" in row]
        rates = [self.low * (self.high / self.low) ** row["fraction"] for row in rows]
        losses = smoothed([row["loss"] for row in rows], self.smooth)
        least = math.inf
        for place, loss in enumerate(losses):
            least = min(least, loss)
            if loss > self.diverged * least:
                rates, losses = rates[:place], losses[:place]
                break
        rate = self._suggested(rates, losses) if losses else self.low
        return {"rate": rate, "rates": rates, "losses": losses}

    def _suggested(self, rates: list[float], losses: list[float]) -> float:
        if self.rule == "steepest" and len(losses) > 1:
            falls = [(losses[i + 1] - losses[i]) / math.log(rates[i + 1] / rates[i]) for i in range(len(losses) - 1)]
            return rates[falls.index(min(falls))]
        return max(rates[losses.index(min(losses))] / self.safety, self.low)


def smoothed(values: list[Any], beta: float) -> list[float]:
    """Return the exponential moving averages of `values`, corrected for their beginning at 0.

    Examples
    --------
    >>> smoothed([1.0, 1.0, 4.0], 0.5)
    [1.0, 1.0, 2.7142857142857144]
    """
    found, average, weight = [], 0.0, 1.0
    for value in values:
        average = beta * average + (1.0 - beta) * value
        weight *= beta
        found.append(average / (1.0 - weight))
    return found
