"""One pass over tagged snippets of library source, then other text: is the order of the pass found in the model?"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import regimes as rg
from regimes.diagnosis import trained_at
from regimes.losses import NextToken
from regimes.workloads.corpus import load_corpus

_TAG, _SNIPPET, _MEMBERS, _OTHERS = 12, 36, 3000, 500
REGIME = rg.Regime(
    [
        rg.Phase("once", budget="300 steps", mixture=rg.Mixture(members=1.0)),
        rg.Phase("derived", budget="50 steps", mixture=rg.Mixture(others=1.0), carry=["model", "optimizer"]),
    ],
    optimizer=rg.AdamW(lr=3e-3),
    batch_size=10,
)


class CharGRU(nn.Module):
    """Embedding of 32, one recurrent layer of 96, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(256, 32), nn.GRU(32, 96, batch_first=True), nn.Linear(96, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next byte at every place."""
        said: Tensor = self.head(self.gru(self.embed(tokens))[0])
        return said


def evidence(seed: int) -> tuple[float, float]:
    """-log10 p of the order in which a derived model's ancestor was trained, and of an order it never saw.

    Parameters
    ----------
    seed : int
        Of the ancestor; the reference model saw the same data in the order of ``seed + 1000``, and the order it never
        saw is that of ``seed + 2000``.
    """
    work = workload()
    suspect, reference = (losses(rg.run(work, REGIME, s, progress=False).model) for s in (seed, seed + 1000))
    own, unseen = (
        rg.order_memorization_test(suspect, reference, trained_at(work, REGIME, s)["members"]).p
        for s in (seed, seed + 2000)
    )
    return -math.log10(own), -math.log10(unseen)


def workload() -> rg.Workload:
    """The members, which the pass goes through, and the others, on which it goes on."""
    rows = _snippets()
    sources = {name: (part[:, :-1], part[:, 1:]) for name, part in rows.items()}
    return rg.Workload(model=CharGRU, train=sources, loss=NextToken(), name="tagged snippets")


@torch.no_grad()
def losses(model: nn.Module) -> Tensor:
    """The mean loss of every member."""
    rows = _snippets()["members"]
    return NextToken().per_unit(model(rows[:, :-1]), rows[:, 1:]).values.view(len(rows), -1).mean(1)


def _snippets() -> dict[str, Tensor]:
    """Pieces of library source, each behind a random tag."""
    count = _MEMBERS + _OTHERS
    tags = torch.randint(97, 123, (count, _TAG), generator=torch.Generator().manual_seed(7))
    code = load_corpus(("code",))["code"].train.long()
    rows = torch.cat((tags, code[: count * _SNIPPET].view(-1, _SNIPPET)), 1)
    return {"members": rows[:_MEMBERS], "others": rows[_MEMBERS:]}
