"""Draw examples in proportion to fixed weights, by example or by class."""

from __future__ import annotations

from typing import Any

import numpy as np

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Draw, DrawContext, Knob, Sampler, SourceView, State
from regimes.core.registry import register
from regimes.samplers.columns import column


@register
class Weighted(Sampler):
    r"""Sample with replacement, p_i proportional to a fixed weight v_i.

    .. math:: p_i = \frac{v_i}{\sum_j v_j}, \qquad w_i = \left(\frac{1}{N p_i}\right)^{c}

    where v_i is the column `by` itself, or `classes` [k] for an example whose column says class k, or, `balanced`,
    1/N_k (N_k the examples of its class), so that all classes come equally often.

    Parameters
    ----------
    by : str
        Column that holds the weight, or the class, of each example. Default "weight".
    classes : list of float
        Weight of an example of class 0, 1, ...; left out, the column is the weights.
    balanced : bool
        Weight classes so that all come equally often. Default False.
    correction : knob
        c; 0 trains on the re-weighted distribution, 1 keeps the expected gradient that of the uniform mean (of the
        examples with v_i > 0). Default 0.

    Raises
    ------
    DeclarationError
        For a column that is missing, weights that are negative, not finite or all zero, classes without weight.

    References
    ----------
    D. Needell, N. Srebro and R. Ward, Stochastic Gradient Descent, Weighted Sampling, and the Randomized Kaczmarz
    Algorithm, NeurIPS 2014, arXiv:1310.5715.

    Examples
    --------
    >>> from regimes.samplers import preview
    >>> sampler = Weighted(by="label", classes=[0.0, 1.0])
    >>> sorted(set(preview(sampler, size=4, batches=1, n=50, label=[0, 1, 0, 1])[0]))
    [1, 3]
    """

    by: str = fixed("weight")
    classes: tuple[float, ...] = fixed((), low=0)
    balanced: bool = fixed(False)
    correction: Knob = knob(0.0, low=0, high=1)

    card = Card(
        title="Draw in proportion to fixed weights",
        axes=("distribution",),
        source="Needell, Srebro and Ward 2014, arXiv:1310.5715",
        when="Rare classes, or examples of known worth.",
    )

    def validate(self) -> None:
        """Refuse two ways at once of weighting classes."""
        if self.classes and self.balanced:
            raise DeclarationError("got weights of classes and balanced=True; allowed: one of them", "classes")

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Draws are addressed by step: there is no place in the data; refuse weights that cannot be."""
        return {"cache:table": self._table(view)}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Draw `n` with replacement by inverting the cumulative distribution."""
        table = cursor.get("cache:table")
        if table is None or table[0] != self._kind():
            table = self._table(ctx.view)
        _, chances, edges, last = table
        places = ctx.rng("weighted").random(n) * edges[-1]
        indices = np.minimum(np.searchsorted(edges, places, side="right"), last)
        weights = (len(chances) * chances[indices]) ** -self.correction if self.correction else None
        return Draw(indices, {"cache:table": table}, weights)

    def _kind(self) -> tuple[Any, ...]:
        """What the table depends on; a cursor carried from another declaration brings another table."""
        return self.by, self.classes, self.balanced

    def _table(self, view: SourceView) -> tuple[Any, ...]:
        """(what it depends on, p of every example, its cumulative sum, the last example with p > 0)."""
        worth = self._worth(column(view, self.by))
        if not np.isfinite(worth).all() or (worth < 0).any() or not (worth > 0).any():
            raise DeclarationError("got weights that are negative, not finite or all zero", "by")
        chances = worth / worth.sum()
        return self._kind(), chances, np.cumsum(chances), np.flatnonzero(chances)[-1]

    def _worth(self, values: np.ndarray) -> np.ndarray:
        """v of every example."""
        if self.balanced:
            _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
            return 1.0 / counts[place]
        if not self.classes:
            return values.astype(np.float64)
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() >= len(self.classes):
            raise DeclarationError(
                f"got {len(self.classes)} weights for a column of {values.dtype} from {values.min()} to "
                f"{values.max()}; allowed: one weight for each class 0, 1, ...",
                "classes",
            )
        return np.asarray(self.classes)[values]
