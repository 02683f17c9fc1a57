"""A growing first part of the examples in an order: easy ones first, hard ones first, or by chance."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Draw, DrawContext, Sampler, SourceView, State
from regimes.core.permutation import BLOCK, Feistel, permutation
from regimes.core.progress import Progress
from regimes.core.randomness import philox
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd

#: The c of the logarithmic and the exponential form.
_C = 10.0


_PAPER = "image classification, clients by Dirichlet(0.05) and alike; no number in the abstract"


def _study(baseline: str) -> dict[str, Any]:
    """Easy examples first, beside another order under the same pacing: ten clients of Dirichlet 0.05, thirty rounds."""

    def rule(order: str) -> str:
        return f"FedAvg(SGD(lr=0.1), local='5 epochs', sampler=OrderedPrefix('{order}', over='4 epochs'))"

    return {
        "workload": {"name": "digits_clients", "clients": 10, "alpha": 0.05},
        "compare": {
            "baseline": baseline,
            "metric": "acc",
            "better": "higher",
            "margin": 0.02,
            "equal": "steps",
            "seeds": 6,
            "trials": 2,
        },
        "tune": {"*.lr": "times(1/4, 4)"},
        "arms": {
            baseline: {"optimizer": rule(baseline), "batch_size": 32, "budget": "30 steps"},
            "easy": {"like": baseline, "optimizer": rule("easy")},
        },
    }


@register
class OrderedPrefix(Sampler):
    r"""Batches come from the first g(t) of the n examples in an order, and g grows from b n to n.

    With t the amount drawn and x = min(t / (a T), 1)

    .. math:: g(t) = n \, (b + (1 - b) \, p(x)), \qquad
              p(x) = x, \; x^2, \; \sqrt{x}, \; 1 + \tfrac{1}{10} \ln(x + e^{-10}), \;
              \frac{e^{10 x} - 1}{e^{10} - 1}, \; \lfloor x \rfloor

    rounded down, but not below 1. The order is that of the losses of the examples under the weights at which the sampler
    begins: easy first, hard first, or, without a look at the losses, by chance. Inside the first part examples come in the
    order of an epoch's permutation, those that are not yet in it left out: b = 1 is `Reshuffle`, batch for batch.

    As the ``sampler`` of `FedAvg` it begins with every client's round: scores are those of the incoming global model.

    Parameters
    ----------
    order : "easy", "hard" or "random"
        Default easy: curriculum. "hard" is anti-curriculum.
    pacing : "linear", "quadratic", "root", "log", "exponential" or "step"
        p. Default linear.
    start_share : float
        b. Default 0.2 (paper).
    over : Duration
        a T: when all examples are in, in epochs of the sampler's own data, samples or steps. Default 4 epochs, which is the
        paper's a = 0.8 of five local epochs.

    Raises
    ------
    DeclarationError
        If `over` is nothing or in another unit.

    References
    ----------
    S. Vahidian, S. Kadaveru, W. Baek, W. Wang, V. Kungurtsev, C. Chen, M. Shah and B. Lin, When Do Curricula Work in
    Federated Learning?, ICCV 2023, arXiv:2212.12712; X. Wu, E. Dyer and B. Neyshabur, When Do Curricula Work?, ICLR 2021,
    arXiv:2012.03107 (pacing).

    Examples
    --------
    >>> sampler = OrderedPrefix(pacing="quadratic", start_share=0.25)
    >>> [sampler.size(x, 100) for x in (0.0, 0.5, 1.0)]
    [25, 43, 100]
    """

    order: Literal["easy", "hard", "random"] = fixed("easy")
    pacing: Literal["linear", "quadratic", "root", "log", "exponential", "step"] = fixed("linear")
    start_share: float = fixed(0.2, above=0, high=1)
    over: Duration = fixed(Duration(4, "epochs"))

    card = Card(
        title="A growing first part of the examples in order of loss",
        axes=("order",),
        source="Vahidian et al. 2023, arXiv:2212.12712; pacing of Wu et al. 2021, arXiv:2012.03107, and its code",
        when="Federated clients whose data differ much; short or noisy training.",
        cost="a scoring pass over its examples where it begins (none for a random order)",
        shelf="atlas",
        rows=("fl-curricula",),
        defaults={
            "start_share": "0.2, a copy of the pacing code in federated use; not confirmed in the paper",
            "over": "0.8 of five epochs, a copy of the pacing code in federated use; not confirmed in the paper",
        },
        deviations=(
            "Scores are of the incoming global model; those of the client's last model or of an expert are not built.",
            "An order of clients is `FedAvg`'s: its `share` and `first`.",
        ),
        claims=(
            Claim(
                "With federated averaging over ten clients of skewed classes (Dirichlet 0.05) easy examples first are right "
                "more often than the same amounts in an order of chance.",
                _study("random"),
                paper_scale=_PAPER,
            ),
            Claim("So they are than the hard ones first.", _study("hard"), paper_scale=_PAPER),
            Claim(
                "What easy examples first add to an order of chance is more where clients' classes are skewed (Dirichlet 0.05) "
                "than where they are alike (100), by two points.",
                {
                    "seeds": 8,
                    "margin": 0.02,
                    "scale": "digits, ten clients, 4,810 parameters, 30 rounds of 5 local epochs",
                },
                paper_scale=_PAPER,
                measure="regimes.claims.federated:gaps",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[OrderedPrefix]:
        """Short ones, in which every setting shows."""
        return [
            cls(order, pacing, 0.4, over)
            for order, pacing, over in (
                ("easy", "linear", "3 epochs"),
                ("hard", "log", "9 steps"),
                ("random", "exponential", "30 samples"),
            )
        ]

    def validate(self) -> None:
        """Refuse growth over nothing, or over an amount that a sampler cannot count."""
        if self.over.unit not in ("epochs", "samples", "steps") or self.over.value <= 0:
            raise DeclarationError(
                f"got '{self.over}'; allowed: more than nothing, in epochs, samples or steps", "over"
            )

    def size(self, x: float, n: int) -> int:
        """g at a share x of the growth, of `n` examples."""
        if x >= 1.0:
            return n
        # 0.29 * 100 is 28.999999999999996, which is meant to be 29.
        share = self.start_share + (1.0 - self.start_share) * _paced(self.pacing, x)
        return max(math.floor(share * n + 1e-9), 1)

    def init(self, view: SourceView) -> State:
        """No scores yet; a random order, and all examples from the beginning, need none."""
        return {
            "ranks": None,
            "sources": list(view.sizes),
            "looked": self.order == "random" or self.start_share == 1.0,
        }

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Begin at the first place of epoch 0, nothing drawn."""
        return {"key": list(key), "epoch": 0, "next": 0, "samples": 0, "steps": 0}

    def propose(self, state: State, at: Progress) -> Trial | None:
        """A look at the losses under the present weights."""
        return None if state["looked"] else Trial({}, Duration(0, "steps"), score=True)

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Keep the place of every example in the order."""
        scores = torch.cat([end.scores[name] for name in state["sources"]])
        order = torch.argsort(scores, descending=self.order == "hard", stable=True)
        return state | {"ranks": torch.argsort(order), "looked": True}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Walk on through the epoch's permutation, over `n` examples of the first part."""
        total = ctx.view.size
        drawn = cursor["steps"] if self.over.unit == "steps" else cursor["samples"]
        whole = self.over.value * (total if self.over.unit == "epochs" else 1.0)
        size, ranks = self.size(drawn / whole, total), self._ranks(state, cursor, ctx)
        epoch, place, pieces, missing = cursor["epoch"], cursor["next"], [], n
        order = cursor.get("cache:order")
        while missing > 0:
            if place == total:
                epoch, place, order = epoch + 1, 0, None
            if order is None:
                order = permutation(total, philox(ctx.streams.seed, *cursor["key"], "epoch", epoch))
            ahead = order[place : place + min(2 * missing * total // size + 1, BLOCK)]
            found = np.flatnonzero(ranks[ahead] < size)[:missing]
            pieces.append(ahead[found])
            missing -= len(found)
            place += int(found[-1]) + 1 if missing == 0 else len(ahead)
        after = {"epoch": epoch, "next": place, "samples": cursor["samples"] + n, "steps": cursor["steps"] + 1}
        caches = {"cache:order": order} | ({"cache:ranks": ranks} if state["ranks"] is None else {})
        return Draw(np.concatenate(pieces), cursor | after | caches)

    def _ranks(self, state: State, cursor: State, ctx: DrawContext) -> np.ndarray | Feistel:
        """Place of every example in the order."""
        if state["ranks"] is not None:
            return state["ranks"].numpy()
        found = cursor.get("cache:ranks")
        if found is not None:
            return found
        return permutation(ctx.view.size, philox(ctx.streams.seed, *cursor["key"], "order"))


def _paced(pacing: str, x: float) -> float:
    """p(x) for x in [0, 1)."""
    if pacing == "step":
        return 0.0
    if pacing == "log":
        return min(1.0 + math.log(x + math.exp(-_C)) / _C, 1.0)
    if pacing == "exponential":
        return math.expm1(_C * x) / math.expm1(_C)
    return x ** {"linear": 1.0, "quadratic": 2.0, "root": 0.5}[pacing]
