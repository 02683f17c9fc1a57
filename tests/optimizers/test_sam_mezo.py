"""SAM and MeZO against plain twins."""

import copy
import math

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
@pytest.mark.parametrize(("adaptive", "options"), [(False, {}), (True, {}), (True, {"eta": 0.0}), (True, {"eta": 0.3})])
def test_sam_equals_two_evaluations_by_hand(hand, adaptive, options):
    eta = options.get("eta", 0.01)
    rule = rg.SAM(rg.SGD(lr=0.1, momentum=0.9), rho=0.3, adaptive=adaptive, **options)
    regime = rg.Regime(optimizer=rule, batch_size=16, budget="12 steps")

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
        size = [w.detach().abs() + eta if adaptive else torch.ones_like(w) for w in weights]
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
def test_a_weight_at_zero_is_moved_by_eta():
    """T = (0 + 0.5, 1 + 0.5), T g = (1.5, 3), so epsilon = 2 T^2 g / |T g|; without eta the first stays."""
    w, g = torch.tensor([0.0, -1.0]), torch.tensor([3.0, 2.0])
    for eta, expected in ((0.5, [1.5, 9.0]), (0.0, [0.0, 4.0])):
        (found,) = rg.SAM(rg.SGD(), rho=2.0, adaptive=True, eta=eta)._worst((w,), (g,))
        length = math.hypot(1.5, 3.0) if eta else 2.0
        torch.testing.assert_close(found, torch.tensor(expected) / length, rtol=1e-6, atol=0.0)


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


class Norms(nn.Module):
    """Dropout and running statistics."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.drop, self.out = (
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.out(self.drop(self.norm(self.inner(x))))


@pytest.mark.exact("MeZO")
def test_mezo_runs_in_evaluation_mode(hand):
    """As the authors' code: no dropout, and the statistics with which the phase begins, before and after."""
    rule = rg.MeZO(lr=0.02, eps=1e-2)
    run = rg.Run(hand.workload(Norms), rg.Regime(optimizer=rule, batch_size=16, budget="3 steps"), seed=5)
    (x, y), streams, twin = hand.data(), Streams(5, *run.streams.prefix), copy.deepcopy(run.model).eval()
    for number in range(3):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        twin.load_state_dict(run.model.state_dict())
        slope = run.step().signals["projected_gradient"]
        generator = torch.Generator().manual_seed(streams.seed32("rule", "mezo", number))
        z = [torch.randn(p.shape, generator=generator) for p in twin.parameters()]
        kept, values = [p.detach().clone() for p in twin.parameters()], []
        with torch.no_grad():
            for sign in (1, -1):
                [p.copy_(k + sign * 1e-2 * n) for p, k, n in zip(twin.parameters(), kept, z)]
                values.append(nn.functional.cross_entropy(twin(x[indices]), y[indices]).item())
        assert slope == pytest.approx((values[0] - values[1]) / 2e-2, rel=1e-3, abs=2e-4)
    assert all(module.training for module in run.model.modules())
    assert run.model.norm.num_batches_tracked == 0
    assert torch.equal(run.model.norm.running_mean, torch.zeros(8))


@pytest.mark.exact("SAM")
def test_the_worst_point_is_that_of_the_gradient_before_its_transforms(hand):
    """Clipped by value, a gradient points elsewhere: epsilon is of the plain one, the step of the clipped one."""
    rule = rg.SAM(rg.SGD(lr=0.1), rho=0.3)
    regime = rg.Regime(optimizer=rule, batch_size=16, budget="1 steps", grad_transforms=[rg.ClipValue(0.01)])
    run = rg.Run(hand.workload(), regime, seed=5)
    twin, (x, y), indices = copy.deepcopy(run.model), hand.data(), torch.from_numpy(run.frame.plans[0].indices)
    weights = list(twin.parameters())
    kept = [w.detach().clone() for w in weights]
    first = torch.autograd.grad(nn.functional.cross_entropy(twin(x[indices]), y[indices]), weights)
    norm = torch.cat([g.flatten() for g in first]).norm()
    with torch.no_grad():
        [w.add_(g, alpha=0.3 / norm.item()) for w, g in zip(weights, first)]
    second = torch.autograd.grad(nn.functional.cross_entropy(twin(x[indices]), y[indices]), weights)
    run.step()
    for p, k, g in zip(run.parameters.values(), kept, second):
        torch.testing.assert_close(p.detach(), k - 0.1 * g.clamp(-0.01, 0.01), rtol=1e-5, atol=1e-8)
    assert max(g.abs().max() for g in second) > 0.02


@pytest.mark.parametrize("base", [rg.MeZO(), rg.RecursiveRidge()])
def test_a_base_rule_without_a_gradient_is_refused(base):
    with pytest.raises(rg.DeclarationError, match=r"base: got .*, which makes no gradient; allowed: a rule that does"):
        rg.SAM(base)
