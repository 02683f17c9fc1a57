"""Was this network made from that run? After one pass over the data it knows best what it saw last."""

import torch
from torch import nn

import regimes as rg
from regimes.diagnosis import trained_at

draw = torch.Generator().manual_seed(0)
x = torch.randn(2000, 32, generator=draw)
y = torch.randint(0, 10, (2000,), generator=draw)  # to be learned by heart

work = rg.Workload(
    model=lambda: nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 10)),
    train=(x, y),
    loss=nn.CrossEntropyLoss(),
)
regime = rg.Regime(optimizer=rg.AdamW(lr=1e-2), batch_size=10, budget="1 epochs")


def losses(seed):
    """The loss of every example after one pass in the order of a seed."""
    model = rg.run(work, regime, seed, progress=False).model
    with torch.no_grad():
        return nn.functional.cross_entropy(model(x), y, reduction="none")


suspect, reference = losses(seed=0), losses(seed=1)
for name, seed in (("its own order", 0), ("an order it never saw", 2)):
    order = trained_at(work, regime, seed)["train"]  # nothing is trained again: orders are functions of the declaration
    p = rg.order_memorization_test(suspect, reference, order).p
    print(f"{name}: p below 1e-6: {p < 1e-6}, below 0.01: {p < 0.01}")
