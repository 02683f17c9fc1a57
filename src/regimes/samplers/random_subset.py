"""Rounds over a random part of the data, another part each round."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Draw, DrawContext, Knob, Sampler, SourceView, State
from regimes.core.permutation import WHOLE, Feistel, permutation
from regimes.core.randomness import philox
from regimes.core.registry import register


def _study(share: float, steps: int) -> dict[str, Any]:
    """Sixty rounds of a share of the digits: a new one each, or one for good."""
    return {
        "workload": "digits_mlp",
        "compare": {"baseline": "fixed", "metric": "acc", "better": "higher", "margin": 0.02, "seeds": 12, "trials": 4},
        "tune": {"*.lr.peak": "times(1/8, 8)"},
        "arms": {
            "fixed": {
                "optimizer": "SGD(lr=Cosine(0.05, warmup='5%'), momentum=0.9)",
                "batch_size": 25,
                "budget": f"{steps} steps",
                "sampler": f"RandomSubset({share}, 'fixed')",
            },
            "renewed": {"like": "fixed", "sampler": f"RandomSubset({share})"},
        },
    }


@register
class RandomSubset(Sampler):
    r"""Repeated random sampling: round k walks through a subset S_k of the N examples, in random order.

    .. math:: |S_k| = \lceil r N \rceil

    Without replacement the subsets are consecutive pieces of one permutation, drawn afresh when too little of it is
    left: over 1/r rounds every example comes once. With replacement each round draws its subset anew, whatever the
    rounds before had. ``subsets="fixed"`` is what both are compared with: the first subset for ever, each round in
    another order. At r = 1 all three walk through all examples in every round, the first bitwise as `Reshuffle`.

    Parameters
    ----------
    fraction : knob
        r in (0, 1], as it is when a round begins. Default 0.1 (paper).
    subsets : "without_replacement", "with_replacement" or "fixed"
        Default without_replacement (paper).

    Notes
    -----
    A budget in epochs counts epochs of all data: 60 rounds at r = 0.1 are 6 epochs.

    References
    ----------
    P. Okanovic et al., Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning, ICLR 2024,
    arXiv:2305.18424.

    Examples
    --------
    >>> from regimes.samplers import preview
    >>> rounds = preview(RandomSubset(0.5), size=6, batches=4, n=3)
    >>> sorted(rounds[0] + rounds[1]), sorted(rounds[2] + rounds[3])
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    >>> sorted(preview(RandomSubset(0.5, "fixed"), size=6, batches=1, n=9)[0])[::3]
    [2, 3, 4]
    """

    fraction: Knob = knob(0.1, above=0, high=1)
    subsets: Literal["without_replacement", "with_replacement", "fixed"] = fixed("without_replacement")

    card = Card(
        title="A new random part of the data every round",
        axes=("distribution", "order"),
        source="Okanovic et al. 2024, arXiv:2305.18424",
        when="The budget is a small part of an epoch, or a few: before any pruning of data.",
        shelf="atlas",
        rows=("rs2",),
        defaults={"fraction": "0.1, the paper's", "subsets": "without replacement, the paper's"},
        claims=(
            Claim(
                "At the same number of updates a new random twentieth of the data every round teaches more than one random "
                "twentieth for good.",
                _study(0.05, 180),
                paper_scale="ResNet-18 on CIFAR and ImageNet, 10% of an epoch per round, 200 rounds",
            ),
            Claim(
                "So it is with three tenths.",
                _study(0.3, 860),
                paper_scale="ResNet-18 on CIFAR and ImageNet, 10% of an epoch per round, 200 rounds",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[RandomSubset]:
        """Every kind of subset, and a part that grows."""
        from regimes.schedules.linear import Linear

        return [cls(Linear(0.2, 0.9)), cls(0.3, "with_replacement"), cls(0.4, "fixed")]

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Before the first round."""
        return {"key": list(key), "round": -1, "size": 0, "next": 0, "pass": 0, "place": 0}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Walk on by `n`, into the next round if need be."""
        pieces, missing, subset = [], n, cursor.get("cache:subset")
        while missing > 0:
            if cursor["next"] == cursor["size"]:
                cursor, subset = self._next_round(cursor, ctx.view.size), None
            if subset is None:
                subset = self._subset(cursor, ctx)
            piece = subset.read(cursor["next"], min(cursor["next"] + missing, cursor["size"]))
            pieces.append(piece)
            missing -= len(piece)
            cursor = cursor | {"next": cursor["next"] + len(piece)}
        return Draw(np.concatenate(pieces), cursor | {"cache:subset": subset})

    def _next_round(self, cursor: State, total: int) -> State:
        # 0.07 * 100 is 7.000000000000001, which is meant to be 7.
        size = min(max(math.ceil(self.fraction * total - 1e-9), 1), total)
        begins = cursor["place"] + cursor["size"]
        number, place = (cursor["pass"], begins) if begins + size <= total else (cursor["pass"] + 1, 0)
        after = {"round": cursor["round"] + 1, "size": size, "next": 0, "pass": number, "place": place}
        return {"key": cursor["key"], **after}

    def _subset(self, cursor: State, ctx: DrawContext) -> _Subset:
        """The examples of the cursor's round, in its order."""
        total, size = ctx.view.size, cursor["size"]

        def shuffled(n: int, *address: str | int) -> np.ndarray | Feistel:
            return permutation(n, philox(ctx.streams.seed, *cursor["key"], *address))

        if self.subsets == "without_replacement":
            return _Subset(shuffled(total, "epoch", cursor["pass"]), cursor["place"])
        if self.subsets == "with_replacement":
            return _Subset(shuffled(total, "round", cursor["round"]), 0)
        chosen, address = shuffled(total, "subset"), ("order", cursor["round"])
        if total > WHOLE:
            return _Subset(shuffled(size, *address), 0, chosen)
        return _Subset(np.argsort(shuffled(total, *address)[:size], kind="stable"), 0, chosen)


class _Subset(NamedTuple):
    """What a round walks through: places of an order from `begin` on, of the chosen examples where there are such."""

    order: np.ndarray | Feistel
    begin: int
    chosen: np.ndarray | Feistel | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Examples at the places [start, stop) of the round."""
        piece = self.order[self.begin + start : self.begin + stop]
        return piece if self.chosen is None else self.chosen[piece]
