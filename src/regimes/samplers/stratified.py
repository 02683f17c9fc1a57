"""Every batch holds the classes in proportion."""

from __future__ import annotations

import numpy as np

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Draw, DrawContext, Sampler, SourceView, State
from regimes.core.permutation import permutation
from regimes.core.randomness import philox
from regimes.core.registry import register
from regimes.samplers.columns import column
from regimes.samplers.shares import deal


@register
class Stratified(Sampler):
    r"""Proportional stratified sampling without replacement.

    Class k of N_k among N examples has had, after t examples, c_k(t) of them with

    .. math:: |c_k(t) - t N_k / N| < 1

    so every batch of n holds n N_k / N of them, give or take less than two, and over one epoch every example comes
    exactly once. Each class walks through its own permutation, drawn afresh each time; the order inside a batch is
    random.

    Parameters
    ----------
    by : str
        Column that holds the class of each example. Default "label".

    Raises
    ------
    DeclarationError
        If a source has no such column, or one of real numbers.

    References
    ----------
    P. Zhao and T. Zhang, Accelerating Minibatch Stochastic Gradient Descent using Stratified Sampling,
    arXiv:1405.3080, 2014 (strata by class or cluster reduce the variance of the gradient).

    Examples
    --------
    >>> from regimes.samplers import preview
    >>> labels = [0, 0, 0, 0, 1, 1, 2, 2]
    >>> [sorted(labels[i] for i in batch) for batch in preview(Stratified(), size=8, batches=2, n=4, label=labels)]
    [[0, 0, 1, 2], [0, 0, 1, 2]]
    """

    by: str = fixed("label")

    card = Card(
        title="Every batch holds the classes in proportion",
        axes=("order", "distribution"),
        source="Zhao and Zhang 2014, arXiv:1405.3080",
        when="Small batches, many or rare classes.",
        deviations=("Allocation is proportional; the paper also weights strata by their variance.",),
    )

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Begin every class at the first place of its first permutation."""
        members = self._members(view)
        zeros = [0] * len(members)
        places = {"passes": zeros, "nexts": zeros, "credit": zeros}
        return {"key": list(key), "by": self.by, **places, "cache:members": members, "cache:orders": {}}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Deal `n` to the classes, walk each of them on, and mix."""
        if cursor["by"] != self.by:
            raise DeclarationError(f"got a place among strata by '{cursor['by']}'; carry no cursor here", "by")
        members = cursor.get("cache:members") or self._members(ctx.view)
        sizes = np.array([len(examples) for examples in members])
        counts, credit = deal(np.array(cursor["credit"]), sizes, n)
        passes, nexts, orders = list(cursor["passes"]), list(cursor["nexts"]), dict(cursor.get("cache:orders", {}))
        pieces = []
        for place in np.flatnonzero(counts).tolist():
            missing = int(counts[place])
            while missing > 0:
                if place not in orders:
                    address = (*cursor["key"], "class", place, "epoch", passes[place])
                    orders[place] = permutation(len(members[place]), philox(ctx.streams.seed, *address))
                piece = members[place][orders[place][nexts[place] : nexts[place] + missing]]
                pieces.append(piece)
                missing, nexts[place] = missing - len(piece), nexts[place] + len(piece)
                if nexts[place] == len(members[place]):
                    passes[place], nexts[place] = passes[place] + 1, 0
                    del orders[place]
        indices = ctx.rng("stratified").permutation(np.concatenate(pieces))
        after = {"key": cursor["key"], "by": self.by, "passes": passes, "nexts": nexts, "credit": credit.tolist()}
        return Draw(indices, after | {"cache:members": members, "cache:orders": orders})

    def _members(self, view: SourceView) -> list[np.ndarray]:
        """Examples of each class, classes in sorted order."""
        labels = column(view, self.by)
        if np.issubdtype(labels.dtype, np.floating):
            raise DeclarationError(f"got '{self.by}', a column of real numbers; allowed: one of classes", "by")
        _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
