"""Our rules beside those of pytorch_optimizer, in float64."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg

theirs = pytest.importorskip(
    "pytorch_optimizer", reason="pytorch_optimizer is not installed: pip install 'regimes[dev]'"
)

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.mark.exact("SAM")
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(
    ("base", "torchs", "options"),
    [
        (rg.SGD(lr=0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (rg.AdamW(lr=0.02, weight_decay=0.1), torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    ],
    ids=["SGD", "AdamW"],
)
def test_sam(base, torchs, options, adaptive):
    """Thirty steps on the same batches end at the same weights."""
    work = rg.Workload(model=net, train=(X, Y), val=(X, Y), loss=nn.CrossEntropyLoss())
    rule = rg.SAM(base, rho=0.2, adaptive=adaptive, eta=0.0)  # theirs has none
    run = rg.Run(work, rg.Regime(optimizer=rule, batch_size=16, budget="30 steps"), seed=5)
    twin = copy.deepcopy(run.model)
    start = copy.deepcopy(run.model)
    optimizer = theirs.SAM(twin.parameters(), torchs, rho=0.2, adaptive=adaptive, **options)
    while not run.finished:
        indices = torch.from_numpy(run.frame.plans[0].indices)

        def closure(indices=indices):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(twin(X[indices]), Y[indices])
            loss.backward()
            return loss

        run.step()
        closure()
        optimizer.step(closure)
    for p, q in zip(run.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-7)  # its norm is one of float32
    assert max((p - q).abs().max() for p, q in zip(run.model.parameters(), start.parameters())) > 0.1
