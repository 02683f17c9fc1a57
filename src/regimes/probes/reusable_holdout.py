"""A hold-out set that may be asked many questions, each chosen by the answers before."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from regimes.core.card import Card, Claim, described
from regimes.core.errors import DeclarationError, RegimesError, show
from regimes.core.randomness import philox


@described(
    Card(
        title="A hold-out set that may be asked many questions",
        axes=("regime",),
        source="Dwork et al. 2015, Preserving Statistical Validity in Adaptive Data Analysis, arXiv:1411.2664; "
        "Thresholdout: Dwork et al. 2015, arXiv:1506.02629",
        when="Features, stopping points or settings are chosen by asking one hold-out set again and again.",
        cost="two means per question",
        shelf="atlas",
        rows=("reusable-holdout-adaptive-analysis",),
        defaults={
            "threshold": "0.04, of the authors' demonstration with 10,000 examples a half: 4 / sqrt(n)",
            "noise": "0.01, as threshold: 1 / sqrt(n)",
        },
        deviations=(
            "The stronger result of the first paper (private multiplicative weights, exponentially many questions) is not "
            "built: this is the practical form.",
            "Values may lie in [-1, 1], for correlations; the papers take [0, 1].",
        ),
        claims=(
            Claim(
                "Of 5,000 random features that were chosen and combined by one hold-out set, the accuracy that is reported is "
                "nearer to that on fresh data, by five points, if the hold-out set is read through Thresholdout.",
                {"seeds": 10, "margin": 0.05, "scale": "random labels, 5,000 examples a half"},
                paper_scale="10,000 examples a half, 10,000 features",
                measure="regimes.claims.reusable_holdout:nearer",
            ),
            Claim(
                "With 20 planted features among 2,000, the 50 that are chosen through Thresholdout vote as well on fresh data as "
                "those that are chosen by the raw hold-out set, within two points.",
                {"seeds": 10, "margin": 0.02, "scale": "correlations of 6 / sqrt(n), 2,000 examples a half"},
                paper_scale="10,000 examples a half, 10,000 features",
                says="not worse",
                measure="regimes.claims.reusable_holdout:still_learns",
            ),
        ),
    )
)
class ReusableHoldout:
    r"""Thresholdout: answers mean queries from a hold-out set without over-fitting it.

    A question is a function of the data that gives a value per example, with means m on the training and h on the hold-out
    half. With noise scale s, and :math:`T' = T + \mathrm{Lap}(2 s)` drawn at the beginning and after every answer that
    spent something, the answer is

    .. math:: h + \mathrm{Lap}(s)\ \text{ if } |h - m| > T' + \mathrm{Lap}(4 s),\ \text{ else } m

    Only the first kind tells of the hold-out set, and spends one unit of the budget.

    Parameters
    ----------
    train, holdout
        The halves, as the questions take them: arrays, tuples of them, data sets.
    threshold : float
        T >= 0, in the unit of the values: by how much a mean may over-fit before the hold-out set is read. Default 0.04, of
        the authors' demonstration: 4 / sqrt(n) at 10,000 examples.
    noise : float
        s >= 0, in the same unit. Default 0.01, likewise: 1 / sqrt(n).
    budget : int
        How many answers may come from the hold-out set.
    seed : int
        Of the noise: the same questions in the same order have the same answers.

    Attributes
    ----------
    spent : int
        Answers that came from the hold-out set; never more than `budget`.

    Raises
    ------
    DeclarationError
        A threshold, noise or budget that is none.

    References
    ----------
    C. Dwork, V. Feldman, M. Hardt, T. Pitassi, O. Reingold and A. Roth, Preserving Statistical Validity in Adaptive Data
    Analysis, 2015, arXiv:1411.2664; Generalization in Adaptive Data Analysis and Holdout Reuse, 2015, arXiv:1506.02629,
    algorithm Thresholdout.

    Examples
    --------
    >>> guarded = ReusableHoldout([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], threshold=0.3, noise=0.0, budget=1)
    >>> guarded.query(lambda half: np.array(half) / 4), guarded.spent  # means 0.1875 and 0.0625: near enough
    (0.1875, 0)
    >>> guarded.query(lambda half: half), guarded.spent
    (0.25, 1)
    >>> guarded.left
    0
    """

    budget: int
    spent: int
    asked: int
    _halves: tuple[Any, Any]
    _stream: np.random.Generator
    _threshold: float
    _noise: float
    _moved: float

    def __init__(
        self,
        train: Any,
        holdout: Any,
        threshold: float = 0.04,
        noise: float = 0.01,
        *,
        budget: int,
        seed: int = 0,
    ) -> None:
        for name, value in (("threshold", threshold), ("noise", noise)):
            if not isinstance(value, numbers.Real) or isinstance(value, bool) or not value >= 0:
                raise DeclarationError(f"got {show(value)}; allowed: a number, 0 or more", name)
        if math.isinf(noise):
            raise DeclarationError(f"got {show(noise)}; allowed: a finite number", "noise")
        if not isinstance(budget, numbers.Integral) or isinstance(budget, bool) or budget < 1:
            raise DeclarationError(f"got {show(budget)}; allowed: how many answers, 1 or more", "budget")
        self._halves, self._stream = (train, holdout), philox(seed, "reusable hold-out")
        self._threshold, self._noise, self.budget = float(threshold), float(noise), int(budget)
        self.spent = self.asked = 0
        self._moved = self._drawn(2)

    @property
    def left(self) -> int:
        """Answers that may still come from the hold-out set."""
        return self.budget - self.spent

    def query(self, question: Callable[[Any], Any]) -> float:
        """Return the answer to a question: a mean.

        Parameters
        ----------
        question : callable
            Takes a half, and gives a value in [-1, 1] for each of its examples (or their mean): whether a model is right, a
            label times a feature.

        Raises
        ------
        RegimesError
            If the budget is spent.
        DeclarationError
            For values that are not finite, or lie outside [-1, 1].
        """
        if not self.left:
            raise RegimesError(
                f"the budget of {self.budget} answers from the hold-out set is spent after {self.asked} questions: it says "
                "no more that could be trusted; take fresh data"
            )
        train, holdout = (_mean(question(half)) for half in self._halves)
        self.asked += 1
        if not abs(holdout - train) > self._threshold + self._moved + self._drawn(4):
            return train
        self.spent += 1
        self._moved = self._drawn(2)
        return holdout + self._drawn(1)

    def _drawn(self, times: int) -> float:
        return float(self._stream.laplace(0.0, times * self._noise))


def _mean(values: Any) -> float:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if not array.size or not (np.abs(array) <= 1.0).all():
        worst = "nothing" if not array.size else array.flat[int(np.argmax(~(np.abs(array) <= 1.0)))]
        raise DeclarationError(f"got {worst}; allowed: a value in [-1, 1] per example", "question")
    return float(array.mean())
