"""Rounds over a part of the data that shrinks and grows, easy examples more often."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, RunFailed
from regimes.core.kinds import Draw, DrawContext, Sampler, SourceView, State
from regimes.core.permutation import Feistel, permutation
from regimes.core.progress import Progress
from regimes.core.randomness import philox
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd
from regimes.samplers.columns import column
from regimes.samplers.reshuffle import Reshuffle


def _study(sampler: str, baseline: str) -> dict[str, Any]:
    """Forty epochs on 400 digits, 15% of them mislabelled."""
    return {
        "workload": {"name": "digits_mlp", "hidden": [64, 64], "examples": 400, "label_noise": 0.15},
        "compare": {"baseline": "plain", "metric": "acc", "better": "higher", "margin": 0.02, "seeds": 12, "trials": 4},
        "tune": {"*.lr": "times(1/4, 4)"},
        "arms": {
            "plain": {
                "optimizer": "SGD(lr=0.05, momentum=0.9)",
                "batch_size": 32,
                "budget": "40 epochs",
                "sampler": baseline,
            },
            "cyclical": {"like": "plain", "sampler": sampler},
        },
    }


@register
class CyclicalCurriculum(Sampler):
    r"""Round k walks once through ceil(S_k N) examples, drawn without replacement in favor of the easy ones.

    .. math:: p_i \propto \frac{1}{\ell_i}

    where l_i is the loss of example i under a model of the same recipe: a trial trains one from the weights with which
    the phase begins for `scoring`, in uniform order, and a scoring pass over the training data follows; both are
    charged. Steps of it that are not finite are skipped, as a run skips them. An example whose own loss is not finite
    counts as the hardest. The shares
    S_0 = start_share, S_1, ... go by `pacing`:

    - ``cycle``: grow by 1 / alpha up to `end_share`, then shrink by alpha down to `start_share`, and again;
    - ``sharp_cycle``: grow up to `end_share`, then begin again at `start_share`;
    - ``increase``: grow up to `end_share` and stay; ``decrease``: begin there, shrink to `start_share` and stay.

    A round of all examples walks through them in random order.

    Parameters
    ----------
    start_share, end_share : float
        Least and largest share of the data in a round. Defaults 0.25 and 1 (reference code).
    alpha : float
        Factor between two rounds. Default 0.5 (reference code).
    pacing : "cycle", "sharp_cycle", "increase" or "decrease"
        Default cycle.
    scoring : Duration
        How long the model that scores is trained. Default 100% of the phase, as the paper's.
    by : str or None
        Column that holds l_i, instead of a scoring run.

    Raises
    ------
    DeclarationError
        If end_share < start_share, or the column is missing or holds a number below 0.
    RunFailed
        If the scoring run diverges: as many steps in a row are not finite as a run gives up at.

    References
    ----------
    H. T. Kesgin and M. F. Amasyali, Cyclical Curriculum Learning, IEEE Transactions on Neural Networks and Learning
    Systems 2023, arXiv:2202.05531.

    Examples
    --------
    >>> from itertools import islice
    >>> list(islice(CyclicalCurriculum().shares(), 7))
    [0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 1.0]
    >>> list(islice(CyclicalCurriculum(pacing="sharp_cycle").shares(), 5))
    [0.25, 0.5, 1.0, 0.25, 0.5]
    """

    start_share: float = fixed(0.25, above=0, high=1)
    end_share: float = fixed(1.0, above=0, high=1)
    alpha: float = fixed(0.5, above=0, below=1)
    pacing: Literal["cycle", "sharp_cycle", "increase", "decrease"] = fixed("cycle")
    scoring: Duration = fixed(Duration(100, "%"))
    by: str | None = fixed(None)

    trial_lengths = ("scoring",)

    card = Card(
        title="Rounds over a waxing and waning part, easy examples first",
        axes=("order",),
        source="Kesgin and Amasyali 2023, arXiv:2202.05531; its code",
        when="Small data with noisy labels.",
        cost="one more training, in trials, to score the examples",
        shelf="atlas",
        rows=("cyclical-curriculum",),
        defaults={
            "start_share": "0.25, the reference code",
            "end_share": "1, the reference code",
            "alpha": "0.5, the reference code",
        },
        deviations=(
            "A batch may span two rounds; the code ends a round with a smaller batch.",
            "Self-paced scores (of the model as it trains) are not built.",
        ),
        claims=(
            Claim(
                "Right more often after training on few digits with 15% wrong labels than in uniform order.",
                _study("CyclicalCurriculum()", "Reshuffle()"),
                paper_scale="18 data sets of images and text, 15 architectures",
            ),
            Claim(
                "So it is than with the easier half alone in every round: it is the cycle, not only the easy examples.",
                _study("CyclicalCurriculum()", "CyclicalCurriculum(0.5, 0.5)"),
                paper_scale="18 data sets of images and text, 15 architectures",
            ),
            Claim(
                "So it is than in the same cycle with scores of chance: it is what is easy, not only the cycle.",
                {
                    "seeds": 12,
                    "margin": 0.02,
                    "scale": "digits, 400 images, 15% wrong labels, 8,970 parameters, 16,000 samples",
                },
                paper_scale="18 data sets of images and text, 15 architectures",
                measure="regimes.claims.cycles:random_scores",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[CyclicalCurriculum]:
        """Short scoring runs, in which every setting shows."""
        kinds = ("cycle", "sharp_cycle", "increase", "decrease")
        return [cls(0.2, 0.8, 0.6, kind, "3 steps") for kind in kinds]

    def validate(self) -> None:
        """Refuse a range that is empty."""
        if self.end_share < self.start_share:
            raise DeclarationError(
                f"got {self.end_share}; allowed: from start_share ({self.start_share}) on", "end_share"
            )

    def shares(self) -> Iterator[float]:
        """Yield S_0, S_1, ..."""
        size, rising = (self.end_share if self.pacing == "decrease" else self.start_share), True
        while True:
            yield size
            if self.pacing == "decrease":
                size = max(size * self.alpha, self.start_share)
            elif self.pacing == "sharp_cycle" and size >= self.end_share:
                size = self.start_share
            elif self.pacing == "increase" or (rising and size < self.end_share) or size <= self.start_share:
                size, rising = min(size / self.alpha, self.end_share), True
            else:
                size, rising = max(size * self.alpha, self.start_share), False

    def init(self, view: SourceView) -> State:
        """No scores yet, unless a column holds them."""
        scores = None if self.by is None else torch.as_tensor(column(view, self.by), dtype=torch.float64)
        if scores is not None and not bool((scores >= 0).all()):
            raise DeclarationError(f"got '{self.by}', which holds numbers below 0 or none; allowed: losses", "by")
        return {"scores": scores, "sources": list(view.sizes)}

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Before the first round."""
        return {"key": list(key), "round": -1, "size": 0, "next": 0}

    def propose(self, state: State, at: Progress) -> Trial | None:
        """One scoring run, before the first step, in uniform order."""
        if state["scores"] is not None:
            return None
        return Trial({"": Reshuffle()}, self.scoring, address=("scoring",), score=True, skips=True)

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Keep the scores; a scoring run that failed has found none."""
        if end.failed is not None:
            raise RunFailed(f"the scoring run ended with: {end.failed}; lower its learning rate")
        scores = torch.cat([end.scores[name] for name in state["sources"]])
        return state | {"scores": scores.nan_to_num(torch.inf, torch.inf)}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Walk on by `n`, into the next round if need be."""
        pieces, missing, members = [], n, cursor.get("cache:members")
        while missing > 0:
            if cursor["next"] == cursor["size"]:
                cursor, members = self._next_round(cursor, ctx.view.size), None
            if members is None:
                members = _members(state["scores"], cursor, ctx)
            piece = members[cursor["next"] : min(cursor["next"] + missing, cursor["size"])]
            pieces.append(piece)
            missing -= len(piece)
            cursor = cursor | {"next": cursor["next"] + len(piece)}
        return Draw(np.concatenate(pieces), cursor | {"cache:members": members})

    def _next_round(self, cursor: State, total: int) -> State:
        number = cursor["round"] + 1
        share = next(share for place, share in enumerate(self.shares()) if place == number)
        # 0.07 * 100 is 7.000000000000001, which is meant to be 7.
        size = min(max(math.ceil(share * total - 1e-9), 1), total)
        return {"key": cursor["key"], "round": number, "size": size, "next": 0}


def _members(scores: Any, cursor: State, ctx: DrawContext) -> np.ndarray | Feistel:
    """The examples of the cursor's round, in its order; perhaps more than there are in it."""
    generator = philox(ctx.streams.seed, *cursor["key"], "epoch", cursor["round"])
    if scores is None or cursor["size"] == ctx.view.size:
        return permutation(ctx.view.size, generator)
    order = generator.permutation(ctx.view.size)
    return order[easy_first(scores.numpy()[order], cursor["size"], generator)]


def easy_first(losses: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Return the places of `size` losses, drawn one after the other with chances in proportion to 1 / loss, sorted.

    The first `size` of independent exponential times with rates 1 / loss are such a draw; of losses of 0 all come
    before any other.

    Examples
    --------
    >>> easy_first(np.array([9.0, 0.0, 9.0, 0.0]), 2, np.random.default_rng(0)).tolist()
    [1, 3]
    """
    times = generator.exponential(size=len(losses)) * losses
    return np.sort(np.argsort(times, kind="stable")[:size])
