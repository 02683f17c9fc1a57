"""Trains a net by `rg.run(..., reduce="all_reduce")` and by a plain loop around DistributedDataParallel: both weights."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import regimes as rg
from regimes.core.notation import parse

BATCH, STEPS = 8, 12


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x, (x.prod(1) > 0).long()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()


RULES = {
    "SGD(lr=0.1, momentum=0.9)": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "AdamW(lr=0.01, weight_decay=0.1)": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def by_hand(start: dict[str, torch.Tensor], rule) -> dict[str, torch.Tensor]:
    x, y = data()
    model = net()
    model.load_state_dict(start)
    model = DistributedDataParallel(model)
    optimizer = rule(model.parameters())
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = BATCH // size
    for step in range(STEPS):
        rows = slice(step * BATCH + rank * own, step * BATCH + (rank + 1) * own)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.module.state_dict()


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for text, rule in RULES.items():
        work = rg.Workload(model=net, train=data(), loss=nn.CrossEntropyLoss(), name="ddp")
        regime = rg.Regime(
            optimizer=parse(text), sampler=rg.Sequential(), batch_size=BATCH, micro_batch=2, budget=f"{STEPS} steps"
        )
        ours = {how: rg.run(work, regime, 0, reduce=how).model.state_dict() for how in ("all_reduce", "tree")}
        found[text] = {**ours, "ddp": by_hand(rg.Run(work, regime, 0).model.state_dict(), rule)}
    if torch.distributed.get_rank() == 0:
        torch.save(found, sys.argv[1])


if __name__ == "__main__":
    main()
