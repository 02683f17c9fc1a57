"""Tests of the batch against their definitions on linear regression, where every gradient is known."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.controllers.adaptive_batch import moments
from regimes.core.progress import Progress
from regimes.engine.run import Run
from regimes.optimizers import AdaGradNorm

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(60, 3, generator=G).double(), torch.randn(60, generator=G).double()


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]).double())

    def forward(self, x):
        return x @ self.w


def half_square(model, batch):
    return 0.5 * (model(batch[0]) - batch[1]).square()


def known(indices, w):
    """Gradients of the examples: (x . w - y) x."""
    x, y = X[indices], Y[indices]
    return (x @ w - y)[:, None] * x


@pytest.mark.exact("AdaptiveBatch")
def test_moments_are_those_of_known_gradients():
    rows = known(torch.arange(20), torch.tensor([0.5, -1.0, 2.0]).double())
    mean = rows.mean(0)
    found = moments({"a": rows[:, :1], "b": rows[:, 1:]})
    assert found.square == pytest.approx(float(mean @ mean), rel=1e-12)
    assert found.trace == pytest.approx(float(torch.cov(rows.T).trace()), rel=1e-12)
    assert found.along == pytest.approx(float(mean @ torch.cov(rows.T) @ mean), rel=1e-10)


def asked(test, rows, **fields):
    control = rg.AdaptiveBatch(2, 10**9, test=test, **fields)
    state = control.observe(control.init(), {"example_gradients": {"a": rows[:, :1], "b": rows[:, 1:]}}, Progress())
    return control.value(state, Progress())


@pytest.mark.exact("AdaptiveBatch")
@pytest.mark.parametrize("eta", [0.1, 0.5, 3.0])
def test_the_size_is_the_least_at_which_the_test_is_passed(eta):
    rows = known(torch.arange(25), torch.tensor([0.5, -1.0, 2.0]).double())
    mean, variance = rows.mean(0), rows.var(0)
    size = asked("norm", rows, eta=eta)
    assert variance.sum() / size <= eta**2 * (mean @ mean)
    assert size == 2 or variance.sum() / (size - 1) > eta**2 * (mean @ mean)
    size = asked("coordinate", rows, eta=eta)
    assert (variance / size <= eta**2 * mean**2).all()
    assert size == 2 or not (variance / (size - 1) <= eta**2 * mean**2).all()
    size = asked("inner_product", rows, eta=eta, nu=0.7)
    products = rows @ mean
    across = rows - (products / (mean @ mean))[:, None] * mean
    orthogonal = across.square().sum() / 24

    def passed(b):
        return products.var() / b <= eta**2 * (mean @ mean) ** 2 and orthogonal / b <= 0.7**2 * (mean @ mean)

    assert passed(size)
    assert size == 2 or not passed(size - 1)


def run_of(batch, steps=12, workload=None):
    optimizer = AdaGradNorm(lr=0.3)
    work = workload or rg.Workload(model=Linear, train=(X, Y), loss=half_square)
    return Run(work, rg.Regime(optimizer=optimizer, batch_size=batch, budget=f"{steps} steps"), seed=0)


def test_in_a_run_it_reads_the_gradients_before_each_step():
    control = rg.AdaptiveBatch(4, 40, eta=0.5)
    run, size = run_of(control), 4
    for _ in range(12):
        plan, w = run.frame.plans[0], run.model.w.detach().clone()
        assert len(plan) == size
        record = run.step()
        assert record.knobs["batch_size"] == size
        rows = known(torch.from_numpy(plan.indices), w)
        ratio = float(rows.var(0).sum() / (0.5**2 * rows.mean(0).square().sum()))
        size = min(max(size, math.ceil(ratio)), 40)
    assert size > 4


@pytest.mark.exact("AdaptiveBatch")
@pytest.mark.parametrize("test", ["norm", "coordinate", "inner_product"])
def test_it_never_shrinks_and_examples_that_agree_never_make_it_grow(test):
    run = run_of(rg.AdaptiveBatch(4, 30, 0.7, test))
    sizes = [record.knobs["batch_size"] for record in run]
    assert sizes == sorted(sizes)
    assert max(sizes) <= 30
    alike = rg.Workload(model=Linear, train=(X[:1].repeat(60, 1), Y[:1].repeat(60)), loss=half_square)
    assert {r.knobs["batch_size"] for r in run_of(rg.AdaptiveBatch(4, 30, 0.1, test), workload=alike)} == {4}
    far = run_of(rg.AdaptiveBatch(4, 30, 1e9, test, nu=1e9))
    assert {r.knobs["batch_size"] for r in far} == {4}


def test_where_there_is_no_gradient_the_batch_is_the_largest():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert asked("norm", rows) == 10**9
    assert asked("coordinate", rows) == 2


@pytest.mark.exact("AdaptiveBatch")
def test_coordinates_that_fall_count_as_those_that_rise():
    """Of means -1 and 2, variances 8 and 2: the first decides, at 8 / eta^2; alone, too."""
    rows = torch.tensor([[1.0, 1.0], [-3.0, 3.0]])
    assert asked("coordinate", rows, eta=1.0) == 8
    assert asked("coordinate", -rows, eta=1.0) == 8
    assert asked("coordinate", rows[:, [0, 0]], eta=1.0) == 8


@pytest.mark.exact("AdaptiveBatch")
def test_schedules_follow_samples_not_steps():
    """The rate falls with the samples, whatever the batches; a rate of nothing leaves the data order alone."""
    optimizer = rg.SGD(lr=rg.Linear(0.1))
    regime = rg.Regime(optimizer=optimizer, batch_size=rg.AdaptiveBatch(4, 30, 1.0), budget="240 samples")
    run = Run(rg.Workload(model=Linear, train=(X, Y), loss=half_square), regime, seed=0)
    for record in run:
        assert record.knobs["optimizer.lr"] == pytest.approx(0.1 * (1 - record.at.samples / 240), abs=1e-15)


@pytest.mark.exact("AdaGradNorm")
def test_ada_grad_norm_is_its_formula():
    run, w, total = run_of(6), torch.tensor([0.5, -1.0, 2.0]).double(), 1e-8
    for _ in range(12):
        g = known(torch.from_numpy(run.frame.plans[0].indices), w).mean(0)
        run.step()
        total += float(g @ g)
        w = w - 0.3 / total**0.5 * g
        torch.testing.assert_close(run.model.w.detach(), w, rtol=1e-12, atol=1e-14)


@pytest.mark.exact("AdaGradNorm")
def test_ada_grad_norm_of_one_coordinate_is_torchs_adagrad():
    p, q = (nn.Parameter(torch.tensor([2.0]).double()) for _ in range(2))
    theirs = torch.optim.Adagrad([q], lr=0.5, eps=0.0, initial_accumulator_value=1e-8)
    rule, state = AdaGradNorm(lr=0.5), None
    state = rule.init({"p": p})
    for t in range(20):
        q.grad = (q.detach() - 0.3 * t).clone()
        gradient = (p.detach() - 0.3 * t).clone()
        state = rule.step(state, {"p": p}, lambda gradient=gradient: _Given((gradient,)))
        theirs.step()
        assert p.item() == pytest.approx(q.item(), rel=1e-12)


class _Given:
    def __init__(self, gradients):
        self.gradients = gradients


def test_refused_with_a_sentence():
    with pytest.raises(rg.DeclarationError, match="start: got 1; allowed: .* >= 2"):
        rg.AdaptiveBatch(1, 8)
    with pytest.raises(rg.DeclarationError, match="end: got 4; allowed: at least start"):
        rg.AdaptiveBatch(8, 4)
