"""SAM and MeZO against plain twins."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams


def trained(hand, optimizer, steps=12, **more):
    run = rg.Run(
        hand.workload(), rg.Regime(optimizer=optimizer, batch_size=16, budget=f"{steps} steps", **more), seed=5
    )
    list(run)
    return [p.detach().clone() for p in run.parameters.values()]


@pytest.mark.exact("SAM")
@pytest.mark.parametrize("base", [rg.SGD(lr=0.1, momentum=0.9), rg.AdamW(lr=0.02)])
@pytest.mark.parametrize("adaptive", [False, True])
def test_radius_zero_is_the_base_rule(hand, base, adaptive):
    alone, around = trained(hand, base), trained(hand, rg.SAM(base, rho=0.0, adaptive=adaptive))
    assert all(torch.equal(p, q) for p, q in zip(alone, around))


@pytest.mark.exact("SAM")
@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_equals_two_evaluations_by_hand(hand, adaptive):
    regime = rg.Regime(
        optimizer=rg.SAM(rg.SGD(lr=0.1, momentum=0.9), rho=0.3, adaptive=adaptive), batch_size=16, budget="12 steps"
    )

    def loss(model, indices):
        x, y = hand.data()
        return nn.functional.cross_entropy(model(x[indices]), y[indices])

    run = rg.Run(hand.workload(), regime, seed=5)
    twin = copy.deepcopy(run.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    while not run.finished:
        indices = torch.from_numpy(run.frame.plans[0].indices)
        run.step()
        weights = list(twin.parameters())
        first = torch.autograd.grad(loss(twin, indices), weights)
        size = [w.detach().abs() if adaptive else torch.ones_like(w) for w in weights]
        norm = torch.cat([(s * g).flatten() for s, g in zip(size, first)]).norm()
        moves = [0.3 * s * s * g / norm for s, g in zip(size, first)]
        kept = [w.detach().clone() for w in weights]
        with torch.no_grad():
            [w.add_(e) for w, e in zip(weights, moves)]
        optimizer.zero_grad()
        loss(twin, indices).backward()
        with torch.no_grad():
            [w.copy_(k) for w, k in zip(weights, kept)]
        optimizer.step()
    for p, q in zip(run.parameters.values(), twin.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.exact("SAM")
def test_sam_leaves_the_second_gradient_to_the_transforms(hand):
    """Clipping sees the gradient that the base rule uses, once: no step is longer than lr c."""
    before = [
        p.detach()
        for p in rg.Run(
            hand.workload(), rg.Regime(optimizer=rg.SGD(), batch_size=16, budget="1 steps"), seed=5
        ).parameters.values()
    ]
    after = trained(hand, rg.SAM(rg.SGD(lr=1.0), rho=0.3), steps=1, grad_transforms=[rg.ClipNorm(1e-3)])
    moved = torch.cat([(p - q).flatten() for p, q in zip(before, after)]).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.exact("MeZO")
def test_mezo_equals_a_twin_that_stores_its_noise(hand):
    """The twin keeps z and the first weights; rounding of the walk back is all that may differ."""
    rule = rg.MeZO(lr=0.02, eps=1e-2, weight_decay=0.1)
    run = rg.Run(hand.workload(), rg.Regime(optimizer=rule, batch_size=16, budget="10 steps"), seed=5)
    twin, (x, y) = copy.deepcopy(run.model).double(), hand.data()
    streams, number = Streams(5, *run.streams.prefix), 0
    while not run.finished:
        indices = torch.from_numpy(run.frame.plans[0].indices)
        record = run.step()
        generator = torch.Generator().manual_seed(streams.seed32("rule", "mezo", number))
        z = [torch.randn(p.shape, generator=generator).double() for p in twin.parameters()]
        kept, values = [p.detach().clone() for p in twin.parameters()], []
        with torch.no_grad():
            for sign in (1, -1):
                [p.copy_(k + sign * 1e-2 * n) for p, k, n in zip(twin.parameters(), kept, z)]
                values.append(nn.functional.cross_entropy(twin(x[indices].double()), y[indices]).item())
            slope = (values[0] - values[1]) / 2e-2
            [p.copy_(k - 0.02 * (slope * n + 0.1 * k)) for p, k, n in zip(twin.parameters(), kept, z)]
        number += 1
        assert record.signals["projected_gradient"] == pytest.approx(slope, rel=1e-4, abs=2e-5)
    for p, q in zip(run.parameters.values(), twin.parameters()):
        torch.testing.assert_close(p.double(), q, rtol=1e-5, atol=2e-6)


@pytest.mark.exact("MeZO")
def test_mezo_moves_weights_that_do_not_lie_in_rows(hand):
    weight = nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
    rg.MeZO._add({"w": weight}, hand.Stub((), seed=3).rng("mezo"), 2.0)
    expected = 2.0 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(weight.detach(), expected)
