"""Ghost batch norm against torch's, forward by forward and micro-batch by micro-batch; the distance from the start."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.testing.conformance import tiny

PLAIN = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
SHAPES = {2: (3,), 3: (3, 4), 4: (3, 4, 2), 5: (3, 2, 2, 2)}


def inputs(n, axes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, *SHAPES[axes], generator=g, dtype=torch.float64) * 3 + 2).requires_grad_()


def pair(axes, size, **options):
    """Torch's batch norm with weights of its own, and the same one converted."""
    plain = PLAIN[axes](3, dtype=torch.float64, **options)
    if plain.affine:
        nn.init.uniform_(plain.weight)
        nn.init.uniform_(plain.bias)
    return plain, rg.GhostBatchNorms(size).structure(copy.deepcopy(plain))


def same(a, b):
    assert torch.equal(a, b)


def all_same(plain, ghost):
    assert list(plain.state_dict()) == list(ghost.state_dict())
    for name, value in plain.state_dict().items():
        same(value, ghost.state_dict()[name])


OPTIONS = [{}, {"momentum": None}, {"momentum": 0.3, "eps": 0.1}, {"affine": False}, {"track_running_stats": False}]


@pytest.mark.exact("GhostBatchNorms")
@pytest.mark.parametrize("axes", [2, 3, 4, 5])
@pytest.mark.parametrize("options", OPTIONS)
def test_one_ghost_is_batch_norm(axes, options):
    """Outputs, gradients and running statistics, over three batches, to the bit."""
    plain, ghost = pair(axes, 8, **options)
    for seed, n in enumerate((8, 8, 5)):
        x, y = inputs(n, axes, seed), inputs(n, axes, seed)
        left, right = plain(x), ghost(y)
        same(left, right)
        weights = torch.randn_like(left)
        for a, b in zip(
            torch.autograd.grad((left * weights).sum(), [x, *plain.parameters()]),
            torch.autograd.grad((right * weights).sum(), [y, *ghost.parameters()]),
        ):
            same(a, b)
    all_same(plain, ghost)


@pytest.mark.exact("GhostBatchNorms")
@pytest.mark.parametrize("axes", [2, 4])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("n", "parts"), [(12, (4, 4, 4)), (10, (4, 3, 3)), (9, (3, 3, 3)), (5, (3, 2))])
def test_ghosts_are_as_many_forward_passes_one_after_the_other(axes, options, n, parts):
    """The last batch is cut as evenly as can be; batch norm's own count of batches grows by the parts."""
    plain, ghost = pair(axes, 4, **options)
    x, y = inputs(n, axes), inputs(n, axes)
    left, right = torch.cat([plain(part) for part in x.split(parts)]), ghost(y)
    same(left, right)
    weights = torch.randn_like(left)
    for a, b in zip(
        torch.autograd.grad((left * weights).sum(), [x, *plain.parameters()]),
        torch.autograd.grad((right * weights).sum(), [y, *ghost.parameters()]),
    ):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    all_same(plain, ghost)


@pytest.mark.exact("GhostBatchNorms")
def test_running_statistics_by_the_formula():
    ghost = rg.GhostBatchNorm(3, 4, momentum=0.2).double()
    x = inputs(12, 2).detach()
    mean, var = torch.zeros(3).double(), torch.ones(3).double()
    for part in (x[:4], x[4:8], x[8:]):
        mean, var = 0.8 * mean + 0.2 * part.mean(0), 0.8 * var + 0.2 * part.var(0)
    ghost(x)
    torch.testing.assert_close(ghost.running_mean, mean, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(ghost.running_var, var, rtol=1e-14, atol=1e-14)


@pytest.mark.exact("GhostBatchNorms")
@pytest.mark.parametrize("options", [{}, {"track_running_stats": False}])
def test_evaluation_uses_running_statistics_or_else_those_of_all(options):
    plain, ghost = pair(2, 2, **options)
    for part in inputs(8, 2).split(2):
        plain(part)
    ghost(inputs(8, 2))
    same(plain.eval()(inputs(7, 2, 1)), ghost.eval()(inputs(7, 2, 1)))


def test_a_ghost_of_one_value_per_channel_is_torchs_error():
    ghost = rg.GhostBatchNorm(3, 2).double()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ghost(inputs(3, 2))
    assert ghost(inputs(3, 4)).shape == (3, 3, 4, 2)
    for act in (lambda: rg.GhostBatchNorm(3, 0), lambda: ghost(torch.zeros(3))):
        with pytest.raises(ValueError, match="ghost_size has to be at least 1|expected 2 to 5 axes"):
            act()


# -- the transform ------------------------------------------------------------------------------------------------


@pytest.mark.exact("GhostBatchNorms")
def test_it_gives_the_gradients_of_accumulated_micro_batches():
    """One pass over four ghosts of 8, and four passes over 8, with batch norm as it was: weights and statistics."""
    runs = []
    for fields in ({"on_entry": [rg.GhostBatchNorms(8)]}, {"micro_batch": 8}, {}):
        regime = rg.Regime(optimizer=rg.SGD(lr=0.1, momentum=0.9), batch_size=32, budget="10 steps", **fields)
        work = rg.Workload(model=net, train=(data()[0].detach(), data()[1]), loss=rg.CrossEntropy())
        run = Run(work, regime, seed=2)
        list(run)
        runs.append({name: value.clone() for name, value in run.model.state_dict().items()})
    ghosts, micro, whole = runs
    for name, value in ghosts.items():
        torch.testing.assert_close(value, micro[name], rtol=1e-11, atol=1e-11)
    assert (ghosts["0.weight"] - whole["0.weight"]).abs().max() > 1e-3


def net():
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).double()


def data():
    x = inputs(96, 2)
    return x, (x[:, 0] > 2).long().detach()


@pytest.mark.exact("GhostBatchNorms")
def test_every_batch_norm_is_converted_in_its_place():
    """Nested ones, one that stands twice, ghosts again; other norms and all names and tensors stay."""
    twice = nn.BatchNorm2d(3)
    model = nn.ModuleDict(
        {
            "a": nn.Sequential(twice, nn.GroupNorm(1, 3)),
            "b": twice,
            "c": nn.BatchNorm1d(3).eval(),
            "d": nn.BatchNorm3d(3),
        }
    )
    before = dict(model.state_dict(keep_vars=True))
    made = rg.GhostBatchNorms(4).structure(model)
    after = dict(made.state_dict(keep_vars=True))
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    norms = [module for module in made.modules() if isinstance(module, rg.GhostBatchNorm)]
    assert [norm.ghost_size for norm in norms] == [4, 4, 4]
    assert made["a"][0] is made["b"]
    assert isinstance(made["a"][1], nn.GroupNorm)
    assert [norm.training for norm in norms] == [True, False, True]
    again = rg.GhostBatchNorms(2).structure(made)
    assert [norm.ghost_size for norm in again.modules() if isinstance(norm, rg.GhostBatchNorm)] == [2, 2, 2]


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(rg.DeclarationError, match="and the model has none"):
        rg.GhostBatchNorms(4).structure(nn.Linear(2, 2))


@pytest.mark.exact("scale_batch")
@pytest.mark.parametrize("rule", ["updates", "sqrt"])
def test_the_same_batch_keeps_the_regime(rule):
    regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1)), batch_size=32, budget="60 epochs")
    assert rg.scale_batch(regime, 1, rule).regime == regime


# -- the distance ---------------------------------------------------------------------------------------------------


@pytest.mark.exact("DistanceFromStart")
def test_the_distance_is_that_of_all_trained_weights_in_a_run():
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=6, budget="6 steps", trainable=["0.*"])
    run = Run(tiny.workload("classes"), regime, seed=1)
    first = torch.cat([p.detach().clone().flatten() for p in run.parameters.values()]).double()
    wanted = []
    while not run.finished:
        run.step()
        now = torch.cat([p.detach().flatten() for p in run.parameters.values()]).double()
        wanted.append((now - first).square().sum().sqrt().item())
    found = [
        record.signals["distance_from_start"]
        for record in rg.stream(
            tiny.workload("classes"), regime, seed=1, probes=[rg.DistanceFromStart(every="1 steps")]
        )
    ]
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("initial", [None, {}, {"weight": torch.zeros(3, 3)}])
def test_a_start_that_does_not_fit_is_refused(initial):
    with pytest.raises(
        rg.DeclarationError, match="initial: (needs a value|got weights without a 'weight' of the shape)"
    ):
        rg.DistanceFromStart()(nn.Linear(2, 1, bias=False), None, None, initial=initial)


@pytest.mark.exact("DistanceFromStart")
def test_the_fit_is_numpys():
    g = np.random.default_rng(0)
    steps = [3, 7, 8, 20, 90, 400]
    distances = [1.5 * math.log(t) - 2.0 for t in steps]
    fit = rg.log_growth(steps, distances)
    assert fit == pytest.approx((1.5, -2.0, 1.0), abs=1e-12)
    noisy = [d + e for d, e in zip(distances, g.normal(size=6))]
    fit = rg.log_growth(steps, noisy)
    slope, intercept = np.polyfit(np.log(steps), noisy, 1)
    assert fit == pytest.approx((slope, intercept, np.corrcoef(np.log(steps), noisy)[0, 1] ** 2), rel=1e-10)
    assert rg.log_growth([1, 2], [3.0, 3.0]) == (0.0, 3.0, 1.0)


@pytest.mark.parametrize("steps", [[1.0], [2.0, 2.0], [0.0, 1.0]])
def test_a_fit_of_nothing_is_refused(steps):
    with pytest.raises(rg.DeclarationError, match="steps: got"):
        rg.log_growth(steps, [1.0, 2.0])
