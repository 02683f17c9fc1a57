"""A training until all is fitted against a loop by hand; what is told of it; noise by rate over batch."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.workloads.perceptron import draw_points, perceptron
from regimes.workloads.synthetic import philox


def regime(rate=0.5, alpha=10.0, steps=5000, batch=4, **more):
    settings = {"optimizer": rg.SGD(lr=rate), "batch_size": batch, "loss": rg.Hinge(alpha)} | more
    return rg.Regime(budget=f"{steps} steps", on_entry=[rg.CenteredOutput(alpha)], **settings)


@pytest.mark.exact("until_fitted", "Unfitted")
@pytest.mark.parametrize("batch", [4, 16])
def test_it_is_a_loop_that_ends_when_every_margin_is_there(batch):
    work = perceptron(inputs=8, examples=16)
    found = rg.until_fitted(work, regime(batch=batch), seed=1)
    # By hand, in the order that the run has: w moves by rate * y x / sqrt(d), where alpha y F is below 1.
    run = Run(work, regime(batch=batch), seed=1)
    x, y = (part.double() for part in work.sources["train"]["train"].parts.values())
    sign, moved, steps = 2 * y[:, 0] - 1, torch.zeros(8).double(), 0
    while steps == 0 or (10 * sign * (x @ moved) / 8**0.5 < 1).any():
        i = torch.as_tensor(run.frame.plans[0].indices)
        run.step()
        short = (10 * sign[i] * (x[i] @ moved) / 8**0.5 < 1).double()
        moved, steps = moved + 0.5 * (short * sign[i]) @ x[i] / 8**0.5 / len(i), steps + 1
    assert found.fitted
    assert found.steps == steps > 3
    assert (found.time, found.temperature) == (0.5 * steps, 0.5 / batch)
    assert found.distance == pytest.approx(moved.norm().item(), rel=1e-5)
    begun = dict(run.model.named_buffers())["start.linear.weight"]
    assert found.weight_change == pytest.approx(moved.norm().item() / begun.norm().item(), rel=1e-5)
    assert set(found.metrics) == {"test/loss", "test/acc"}


@pytest.mark.exact("until_fitted")
def test_rates_and_batches_that_move_are_summed():
    work = perceptron(inputs=8, examples=64)
    lr = rg.Linear(0.4, 0.1)
    found = rg.until_fitted(work, regime(steps=20, optimizer=rg.SGD(lr=lr), batch_size=rg.Linear(4, 8)), seed=0)
    records = rg.run(
        work, regime(steps=20, optimizer=rg.SGD(lr=lr), batch_size=rg.Linear(4, 8)), seed=0, progress=False
    ).records
    knobs = [(record["knobs"]["optimizer.lr"], record["knobs"]["batch_size"]) for record in records][: found.steps]
    assert len(set(knobs)) == found.steps
    assert found.time == pytest.approx(math.fsum(rate for rate, _ in knobs), rel=1e-12)
    assert found.temperature == pytest.approx(math.fsum(rate / size for rate, size in knobs) / found.steps, rel=1e-12)


def test_a_budget_that_ends_first_says_so():
    work = perceptron(inputs=8, examples=64)
    found = rg.until_fitted(work, regime(0.01, steps=3))
    assert (found.fitted, found.steps) == (False, 3)
    assert str(found).startswith(
        "not fitted at the end of the budget: 3 steps, t* = 0.03, T = 0.0025, weights changed by"
    )
    late = rg.until_fitted(work, regime(steps=4000), every="7 steps")
    assert late.fitted
    assert late.steps % 7 == 0


def test_phases_and_rules_without_a_rate_are_refused():
    work = perceptron(inputs=8, examples=16)
    two = rg.Regime(
        phases=[rg.Phase("a", budget="2 steps"), rg.Phase("b", budget="2 steps")],
        optimizer=rg.SGD(lr=0.1),
        batch_size=4,
    )
    with pytest.raises(rg.DeclarationError, match="regime: got 2 phases; allowed: one"):
        rg.until_fitted(work, two)
    grouped = regime(optimizer=rg.groups.no_decay(rg.SGD(lr=0.1, weight_decay=0.1)))
    with pytest.raises(rg.DeclarationError, match="allowed: one rule for all"):
        rg.until_fitted(work, grouped)


@pytest.mark.exact("Unfitted")
def test_all_training_examples_are_looked_at_in_evaluation_mode():
    """More than a forward takes at once, with dropout that would take some of the margins."""
    n = 2500
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0)).double()
    work = rg.Workload(
        model=lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1)).double(),
        train=(x, torch.ones(n, 1).double()),
        loss=rg.Hinge(),
    )
    declared = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=10, budget="2 steps")
    found = rg.run(work, declared, seed=0, probes=[rg.Unfitted(every="1 steps")], progress=False)
    margins = found.model.eval()(x)
    assert found.records[-1]["unfitted"] == pytest.approx((margins < 1).double().mean().item(), abs=1e-12)
    assert found.records[-1]["unfitted/loss"] == pytest.approx((1 - margins).clamp_min(0).mean().item(), rel=1e-9)
    few = rg.run(work, declared, seed=0, probes=[rg.Unfitted(10, every="1 steps")], progress=False)
    assert few.records[-1]["unfitted"] * 10 == pytest.approx(round(few.records[-1]["unfitted"] * 10))


# -- the perceptron's points ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chi", [0.0, 1.0, 3.0])
def test_the_first_coordinate_has_the_density_of_its_power(chi):
    """Moments of |x_1|: E x^2 = chi + 1, E x^4 = (chi + 1)(chi + 3), within four standard errors; signs are even."""
    n = 40_000
    x, y = draw_points(n, 3, chi, philox("test", 0))
    first = x[:, 0].double()
    squares = first.square()
    for value, wanted in ((squares, chi + 1), (squares.square(), (chi + 1) * (chi + 3))):
        assert abs(value.mean() - wanted) < 4 * value.std() / n**0.5
    assert abs(y.mean() - 0.5) < 4 * 0.5 / n**0.5
    assert torch.equal(y[:, 0], (x[:, 0] > 0).float())
    near = (first.abs() < 0.1).double().mean()
    whole = math.gamma((chi + 1) / 2) * 2 ** ((chi + 1) / 2)  # of the density over both sides
    inside = sum((0.1 * (k + 0.5) / 1000) ** chi * math.exp(-((0.1 * (k + 0.5) / 1000) ** 2) / 2) for k in range(1000))
    wanted = 2 * inside * 1e-4 / whole
    assert abs(near - wanted) < 4 * (wanted / n) ** 0.5
    with pytest.raises(ValueError, match="chi: got -1.0"):
        draw_points(3, 3, -1.0, philox("test", 0))


def test_fewer_points_are_a_part_of_more():
    few, more = perceptron(examples=10), perceptron(examples=20)
    a, b = (work.sources["train"]["train"].parts for work in (few, more))
    assert torch.equal(a["0"], b["0"][:10])
    model = few.build(0)
    x = torch.randn(2, 128)
    torch.testing.assert_close(model(x)[:, 0], x @ model.linear.weight[0] / 128**0.5)


# -- noise ----------------------------------------------------------------------------------------------------------


def scattered(rate, batch, runs=60, time=1.0):
    """Squared distance at a time of every run from the full-batch course: a linear model, squared loss, same start."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.randn(64, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    work = rg.Workload(model=nn.Linear(4, 1, bias=False).double(), train=(x, y), loss=rg.MSE())

    def end(rate, batch, seed):
        declared = rg.Regime(
            optimizer=rg.SGD(lr=rate),
            batch_size=batch,
            budget=f"{round(time / rate)} steps",
            sampler=rg.WithReplacement(),
        )
        run = Run(work, declared, seed, count_flops=False)
        list(run)
        return run.model.weight.detach()

    full = work.build(0).weight.detach()
    for _ in range(round(time / rate)):
        full = full - rate * 2 * ((x @ full.T - y).T @ x) / 64
    return torch.stack([(end(rate, batch, seed) - full).square().sum() for seed in range(runs)])


@pytest.mark.exact("until_fitted")
def test_noise_hangs_on_rate_over_batch_alone():
    """At the same T the mean scatter of 60 runs is the same, within three standard errors; at twice the T it is twice."""
    one, same, twice = scattered(0.01, 2), scattered(0.02, 4), scattered(0.02, 2)

    def z(a, b):
        return ((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()).item()

    assert abs(z(one, same)) < 3
    assert abs(z(2 * one, twice)) < 3
    assert z(twice, one) > 4
