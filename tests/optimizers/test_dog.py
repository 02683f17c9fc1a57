"""DoG against its formula, its invariances, a closed form; and the average that it is judged by."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.progress import Progress
from regimes.engine.run import Run
from regimes.testing.resume import resume_chain

SHAPES = [(4, 3), (5,), ()]


@pytest.mark.exact("DoG")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_plain_twin_makes_the_same_steps(hand, decay):
    parameters, gradients = hand.given(SHAPES, 100)
    gradients = [tuple(g + 1.0 for g in given) for given in gradients]  # with a direction, so that it gets far
    weights = torch.cat([p.detach().view(-1) for p in parameters.values()])
    start, distance, total = weights.clone(), 1e-3 * (1 + weights.norm()), 1e-2
    for given in gradients:
        g = torch.cat([g.view(-1) for g in given]) + decay * weights
        distance = max(distance, (weights - start).norm())
        total = total + (g**2).sum()
        weights = weights - 0.5 * distance / total.sqrt() * g
    state = hand.drive(rg.DoG(lr=0.5, r_eps=1e-3, eps=1e-2, weight_decay=decay), parameters, gradients)
    found = torch.cat([p.detach().view(-1) for p in parameters.values()])
    assert (found - weights).abs().max().item() < 1e-10
    assert state["distance"] == pytest.approx(float(distance), rel=1e-12)
    assert (weights - start).norm() > 10 * 1e-3 * (1 + start.norm())


@pytest.mark.exact("DoG")
def test_rescaling_all_gradients_changes_nothing(hand):
    parameters, gradients = hand.given(SHAPES, 30)
    other = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    hand.drive(rg.DoG(r_eps=1e-2, eps=0.0), parameters, gradients)
    hand.drive(rg.DoG(r_eps=1e-2, eps=0.0), other, [tuple(1e4 * g for g in given) for given in gradients])
    for name, p in parameters.items():
        torch.testing.assert_close(p, other[name], rtol=0, atol=1e-12)


@pytest.mark.exact("DoG")
def test_along_one_direction_its_distances_are_a_closed_form(hand):
    """Of gradients 1 in one dimension: d_1 = r, then d_{t+1} = d_t (1 + 1 / sqrt(t + 1))."""
    p = {"w": nn.Parameter(torch.zeros((), dtype=torch.float64))}
    state, rule, distance = rg.DoG(r_eps=0.01, eps=0.0).init(p), rg.DoG(r_eps=0.01, eps=0.0), 0.01
    for t in range(1, 40):
        state = rule.step(state, p, hand.Stub((torch.ones((), dtype=torch.float64),)))
        assert -p["w"].item() == pytest.approx(distance, rel=1e-12)
        distance *= 1 + 1 / math.sqrt(t + 1)


@pytest.mark.exact("DoG")
def test_while_gradients_are_zero_nothing_moves(hand):
    parameters, gradients = hand.given(SHAPES, 1)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    hand.drive(rg.DoG(eps=0.0), parameters, [tuple(torch.zeros_like(g) for g in gradients[0])])
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())


@pytest.mark.exact("DoG", "PolynomialDecay")
def test_both_resume_in_the_same_bits(hand):
    declared = rg.Regime(optimizer=rg.DoG(), average=rg.PolynomialDecay(), batch_size=8, budget="8 steps")
    work = hand.workload()
    assert resume_chain(lambda: Run(work, declared, seed=5), steps=8) == []


@pytest.mark.exact("PolynomialDecay")
@pytest.mark.parametrize("gamma", [0, 1, 3, 8])
def test_the_average_weighs_by_rising_products(gamma):
    """theta_i by i (i + 1) ... (i + gamma - 1), which for 0 is the plain mean."""
    draw = torch.Generator().manual_seed(0)
    seen = [torch.randn(3, generator=draw, dtype=torch.float64) for _ in range(30)]
    average = rg.PolynomialDecay(gamma)
    state = average.init({"w": torch.zeros(3, dtype=torch.float64)})
    assert average.average(state) is None
    for count in range(1, 31):
        state = average.observe(state, {"weights": {"w": seen[count - 1]}}, Progress())
        shares = [math.prod(range(i, i + gamma)) for i in range(1, count + 1)]
        expected = sum(share * w for share, w in zip(shares, seen)) / sum(shares)
        torch.testing.assert_close(average.average(state)["w"], expected, rtol=0, atol=1e-12)
