"""A fresh permutation every epoch, walked through from end to end."""

from __future__ import annotations

import numpy as np

from regimes.core.card import Card
from regimes.core.kinds import Draw, DrawContext, Sampler, SourceView, State
from regimes.core.permutation import Feistel, permutation
from regimes.core.randomness import philox
from regimes.core.registry import register


@register
class Reshuffle(Sampler):
    r"""Random reshuffling: epoch e walks through a permutation pi_e drawn afresh; the last batch may span two.

    The cursor is (key, epoch, next): pi_e is drawn at the address (key, e), so a carried cursor keeps its
    permutation over a seam, and a resume in mid-epoch draws the same rest.

    Of N examples up to 2^20, pi_e is the shuffle of Fisher and Yates, drawn as a whole. Above, it is a Feistel
    permutation, computed in blocks of 4,096 places as they are walked through, whatever N is. With the least even
    number 2 h of bits for which :math:`N \le 2^{2h}` and 64-bit words k_0 ... k_12 of the stream at (key, e), place i
    becomes the two halves (l, r) of :math:`(i + k_0) \bmod 2^{2h}`, then for t = 1 ... 12

    .. math:: (l, r) \leftarrow (r, \; l \oplus \lfloor m(r + k_t) \, / \, 2^{64 - h} \rfloor)

    (m: the finalizer of splitmix64), and all of it again while the result is N or more.

    References
    ----------
    K. Mishchenko, A. Khaled and P. Richtárik, Random Reshuffling: Simple Analysis with Vast Improvements,
    NeurIPS 2020, arXiv:2006.05988; of the Feistel permutation `regimes.core.permutation.Feistel`.

    Examples
    --------
    >>> from regimes.samplers import preview
    >>> drawn = preview(Reshuffle(), size=6, batches=3, n=2)
    >>> sorted(drawn[0] + drawn[1] + drawn[2])
    [0, 1, 2, 3, 4, 5]
    >>> preview(Reshuffle(), size=10**12, batches=1, n=3)
    [[408561349793, 311957669419, 5363247000]]
    """

    is_default = True
    card = Card(
        title="A fresh permutation every epoch",
        axes=("order",),
        source="Mishchenko et al. 2020, Random Reshuffling, arXiv:2006.05988",
        when="The default.",
    )

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Begin at the first place of epoch 0."""
        return {"key": list(key), "epoch": 0, "next": 0}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Walk on by `n`, into the next epoch if need be."""
        size, epoch, place = ctx.view.size, cursor["epoch"], cursor["next"]
        order = cursor.get("cache:order")
        if order is None:
            order = _permutation(cursor, epoch, size, ctx)
        if place + n <= size:
            drawn = order[place : place + n]
            place += n
        else:
            drawn, epoch, place, order = _over_the_end(cursor, order, n, ctx)
        after = {"key": cursor["key"], "epoch": epoch, "next": place, "cache:order": order}
        return Draw(drawn, after)


def _permutation(cursor: State, epoch: int, size: int, ctx: DrawContext) -> np.ndarray | Feistel:
    return permutation(size, philox(ctx.streams.seed, *cursor["key"], "epoch", epoch))


def _over_the_end(
    cursor: State, order: np.ndarray | Feistel, n: int, ctx: DrawContext
) -> tuple[np.ndarray, int, int, np.ndarray | Feistel]:
    size, epoch, place = ctx.view.size, cursor["epoch"], cursor["next"]
    pieces, missing = [order[place:]], n - (size - place)
    while missing > 0:
        epoch, order = epoch + 1, _permutation(cursor, epoch + 1, size, ctx)
        pieces.append(order[:missing])
        place, missing = min(missing, size), missing - size
    return np.concatenate(pieces), epoch, place, order
