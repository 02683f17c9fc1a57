"""Estimators, ZerothOrder and BlackBox against closed forms and a plain twin."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError, UserCodeError
from regimes.core.randomness import Streams
from regimes.engine import trees
from regimes.optimizers.zeroth_order.estimators import Estimator

#: Sums and halves of these are exact in float64.
SLOPE = torch.tensor([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], dtype=torch.float64)
HESSIAN = torch.tensor([[4.0, 1.0, -2.0], [1.0, 2.0, 0.5], [-2.0, 0.5, 8.0]], dtype=torch.float64)
POINT = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)


def quadratic(x):
    """Of one point or of rows; its gradient is x H + 1."""
    return 0.5 * ((x @ HESSIAN) * x).sum(-1) + x.sum(-1)


# -- estimators --------------------------------------------------------------------------------------------


@pytest.mark.exact("CoordinateDifferences")
@pytest.mark.parametrize("mu", [2.0**-10, 0.5, 64.0])
@pytest.mark.parametrize("central", [False, True])
def test_of_a_linear_function_differences_are_the_gradient_for_any_mu(mu, central):
    x, b = torch.ones(2, 3, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    found = rg.CoordinateDifferences(mu=mu, central=central).estimate(lambda: (SLOPE * x).sum() - 4.0 * b, [x, b])
    assert torch.equal(found[0], SLOPE)
    assert torch.equal(found[1], torch.tensor(-4.0, dtype=torch.float64))


@pytest.mark.exact("CoordinateDifferences")
@pytest.mark.parametrize("mu", [2.0**-8, 0.25, 4.0])
def test_of_a_quadratic_a_difference_is_off_by_half_of_mu_times_its_curvature(mu):
    x, true = POINT.clone(), POINT @ HESSIAN + 1.0
    found = rg.CoordinateDifferences(mu=mu).estimate(lambda: quadratic(x), [x])[0]
    assert torch.equal(found - true, mu * HESSIAN.diagonal() / 2)
    assert torch.equal(rg.CoordinateDifferences(mu=mu, central=True).estimate(lambda: quadratic(x), [x])[0], true)


@pytest.mark.exact("RandomDirections")
@pytest.mark.parametrize("central", [False, True])
def test_random_directions_are_unbiased_for_a_quadratic(central):
    """A row a draw: the mean of 1e5 is within five of its standard errors of the gradient, and these are small."""
    x = POINT.repeat(100_000, 1)
    estimator, draw = rg.RandomDirections(1, mu=0.05, central=central), torch.Generator().manual_seed(1)
    found = estimator.estimate(lambda: quadratic(x), [x], draw, rows=True)[0]
    error = found.std(0) / 100_000**0.5
    assert (((found.mean(0) - (POINT @ HESSIAN + 1.0)) / error).abs() < 5).all()
    assert error.max() < 0.1


@pytest.mark.exact("RandomDirections")
def test_several_directions_are_averaged():
    """Against the formula, with directions drawn again."""
    x, draw = POINT.clone(), torch.Generator().manual_seed(3)
    found = rg.RandomDirections(4, mu=0.5).estimate(lambda: quadratic(x), [x], draw)[0]
    draw.manual_seed(3)
    drawn = [torch.randn(3, generator=draw, dtype=torch.float64) for _ in range(4)]
    mean = sum((quadratic(POINT + 0.5 * u) - quadratic(POINT)) / 0.5 * u for u in drawn) / 4
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-12)


@pytest.mark.exact("CoordinateDifferences")
def test_a_share_of_the_coordinates_is_that_of_each_tensor_and_its_mean_that_share_of_the_gradient():
    x, b = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    estimator, draw, total = rg.CoordinateDifferences(0.5, mu=1.0), torch.Generator().manual_seed(0), 0.0
    for _ in range(4000):
        found = estimator.estimate(lambda: (SLOPE * x).sum() + b.sum(), [x, b], draw)
        assert [int(g.count_nonzero()) for g in found] == [3, 2]
        total = total + found[0]
    error = SLOPE.abs() * (0.25 / 4000) ** 0.5
    assert (((total / 4000 - 0.5 * SLOPE) / error).abs() < 5).all()


@pytest.mark.exact("CoordinateDifferences")
def test_all_of_the_coordinates_draw_nothing_and_shares_of_tensors_come_first():
    x, b, draw = torch.ones(2, 3, dtype=torch.float64), torch.ones(4, dtype=torch.float64), torch.Generator()
    before = draw.get_state()

    def f():
        return (SLOPE * x).sum() + b.sum()

    whole = rg.CoordinateDifferences(mu=1.0).estimate(f, [x, b], draw)
    assert torch.equal(draw.get_state(), before)
    some = rg.CoordinateDifferences(0.5, mu=1.0).estimate(f, [x, b], draw, shares=[1.0, 0.0])
    assert torch.equal(some[0], whole[0])
    assert not some[1].any()


@pytest.mark.exact("CoordinateDifferences", "RandomDirections")
@pytest.mark.parametrize("estimator", [rg.CoordinateDifferences(), rg.RandomDirections(7)])
def test_rows_are_points_of_their_own(estimator):
    """Rows together are as one after the other; of random directions, those that were drawn for the row."""
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = estimator.estimate(lambda: quadratic(x), [x], torch.Generator().manual_seed(2), rows=True)[0]
    drawn = [
        torch.randn(4, 3, generator=g, dtype=x.dtype) for g in [torch.Generator().manual_seed(2)] for _ in range(7)
    ]
    for place in range(4):
        row = x[place].clone()
        if isinstance(estimator, rg.CoordinateDifferences):
            alone = estimator.estimate(lambda: quadratic(row), [row])[0]  # noqa: B023 (called at once)
        else:
            mu = estimator.mu
            alone = sum((quadratic(row + mu * u[place]) - quadratic(row)) / mu * u[place] for u in drawn) / 7
        torch.testing.assert_close(together[place], alone, rtol=0, atol=1e-10)


@pytest.mark.exact("CoordinateDifferences", "RandomDirections")
@pytest.mark.parametrize(
    "estimator", [rg.CoordinateDifferences(), rg.RandomDirections(2), rg.RandomDirections(2, central=True)]
)
def test_arguments_return_to_the_bit_also_after_an_error(estimator):
    """Where x + mu - mu is not x, in memory that does not lie in rows; values seen in between are moved ones."""
    x = 0.01 * torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last)
    kept, seen = x.clone(), []

    def f():
        seen.append(torch.equal(x, kept))
        if len(seen) == 30:
            raise ZeroDivisionError
        return x.sum().item()

    estimator.estimate(f, [x])
    assert torch.equal(x, kept)
    assert sum(seen) == (0 if estimator.central else 1)
    while len(seen) < 30:
        try:
            estimator.estimate(f, [x])
        except ZeroDivisionError:
            break
    assert torch.equal(x, kept)


@pytest.mark.exact("zo_grasp_layer_ratios")
@pytest.mark.parametrize("seed", range(3))
def test_layer_ratios_equal_scores_by_hand(seed):
    """Directions, both estimates, Hessian product, scores and the cut, as the paper writes them."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 5), "b": (6, 4), "c": (8, 6), "d": (3, 8)}
    weights = {name: torch.randn(shape, generator=draw).double() for name, shape in shapes.items()}
    x = torch.randn(16, 5, generator=draw).double()

    def loss(*layers):
        y = x
        for w in layers:
            y = (y @ w.T).tanh()
        return y.square().mean()

    kept = {name: w.clone() for name, w in weights.items()}
    found = rg.zo_grasp_layer_ratios(
        lambda: loss(*weights.values()), weights, 0.3, torch.Generator().manual_seed(7), queries=24, mu=1e-3
    )
    assert all(torch.equal(weights[name], kept[name]) for name in kept)

    again = torch.Generator().manual_seed(7)
    directions = [[torch.randn(w.shape, generator=again, dtype=w.dtype) for w in kept.values()] for _ in range(24)]

    def gradient(at):
        out = [torch.zeros_like(w) for w in at]
        for u in directions:
            slope = (loss(*[w + 1e-3 * d for w, d in zip(at, u)]) - loss(*at)) / 1e-3
            out = [g + slope * d / 24 for g, d in zip(out, u)]
        return out

    here = gradient(list(kept.values()))
    there = gradient([w + 1e-3 * g for w, g in zip(kept.values(), here)])
    scores = [-w * (after - before) / 1e-3 for w, before, after in zip(kept.values(), here, there)]
    total = sum(s.numel() for s in scores)
    cut = torch.cat([s.flatten() for s in scores]).sort().values[round(0.3 * total)]
    assert found == pytest.approx({name: (s < cut).double().mean().item() for name, s in zip(kept, scores)}, abs=1e-12)
    assert sum(found[name] * w.numel() for name, w in kept.items()) == pytest.approx(round(0.3 * total))
    assert len(set(found.values())) > 1


# -- ZerothOrder -------------------------------------------------------------------------------------------


def double_data(n=32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=draw).double()
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def double_net():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def run_of(rule, model=double_net, steps=100, loss=None, data=None, **more):
    work = rg.Workload(model=model, train=double_data() if data is None else data, loss=loss or nn.CrossEntropyLoss())
    regime = rg.Regime(optimizer=rule, batch_size=16, budget=f"{steps} steps", **more)
    return rg.Run(work, regime, seed=5, count_flops=False)


@pytest.mark.exact("ZerothOrder")
def test_deepzero_equals_a_plain_twin():
    """Forward differences of random coordinates by the layers' shares, into momentum; written out, for 100 steps."""
    mu, share = 5e-3, 0.3
    rule = rg.ZerothOrder(rg.SGD(lr=0.1, momentum=0.9), rg.CoordinateDifferences(share), grasp_queries=6)
    run = run_of(rule)
    twin, (x, y), streams = copy.deepcopy(run.model), double_data(), Streams(5, *run.streams.prefix)
    weights = dict(twin.named_parameters())
    buffers = {name: torch.zeros_like(w) for name, w in weights.items()}
    [w.requires_grad_(False) for w in weights.values()]
    for number in range(100):
        batch = torch.from_numpy(run.frame.plans[0].indices)

        def loss(batch=batch):
            return nn.functional.cross_entropy(twin(x[batch]), y[batch]).item()

        if number == 0:
            layers = {name: w for name, w in weights.items() if w.ndim == 2}
            draw = torch.Generator().manual_seed(streams.seed32("rule", "grasp", 0))
            shares = rg.zo_grasp_layer_ratios(loss, layers, share, draw, queries=6)
        run.step()
        draw = torch.Generator().manual_seed(streams.seed32("rule", "estimate", number))
        base, found = loss(), {}
        for name, w in weights.items():
            found[name], places = torch.zeros_like(w), range(w.numel())
            count = round(shares.get(name, 1.0) * w.numel())
            if count < w.numel():
                places = torch.randperm(w.numel(), generator=draw)[:count].tolist() if count else []
            for place in places:
                kept = w.view(-1)[place].item()
                w.view(-1)[place] = kept + mu
                found[name].view(-1)[place] = (loss() - base) / mu
                w.view(-1)[place] = kept
        for name, w in weights.items():
            buffers[name] = found[name] if number == 0 else 0.9 * buffers[name] + found[name]
            w.sub_(0.1 * buffers[name])
    assert run.states["optimizer"]["shares"] == pytest.approx(shares)
    assert len(set(shares.values())) == 2
    worst = max((p.detach() - w).abs().max().item() for p, w in zip(run.parameters.values(), weights.values()))
    assert worst < 1e-10


@pytest.mark.exact("ZerothOrder")
@pytest.mark.parametrize("base", [rg.SGD(lr=0.05, momentum=0.9), rg.AdamW(lr=0.02)])
@pytest.mark.parametrize("draws", [False, True])
def test_where_differences_are_exact_it_is_the_base_rule(base, draws):
    """Least squares and central differences: the same as with gradients; the masks of dropout are the same, too."""
    x = double_data()[0]
    y = x @ torch.linspace(-1.0, 1.0, 12).double().view(6, 2)

    def model():
        return nn.Sequential(nn.Dropout(0.5 if draws else 0.0), nn.Linear(6, 2)).double()

    rule = rg.ZerothOrder(base, rg.CoordinateDifferences(mu=0.25, central=True))
    pair = [run_of(one, model, loss=nn.MSELoss(), data=(x, y)) for one in (base, rule)]
    for _ in range(100):
        losses = [run.step().loss for run in pair]
        assert losses[0] == pytest.approx(losses[1], abs=1e-10)
    for p, q in zip(pair[0].trained, pair[1].trained):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)


@pytest.mark.exact("ZerothOrder")
def test_batch_norm_sees_each_batch_once_and_every_forward_its_statistics():
    """Running statistics are those of training with gradients; the loss of every forward is that of training mode."""

    def model():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()

    rule = rg.ZerothOrder(rg.SGD(lr=0.0), rg.RandomDirections(3))
    first, second = run_of(rg.SGD(lr=0.0), model, steps=4), run_of(rule, model, steps=4)
    for _ in range(4):
        assert first.step().loss == second.step().loss
    assert second.model[1].num_batches_tracked == 4
    assert all(torch.equal(a, b) for a, b in zip(first.model.buffers(), second.model.buffers()))


@pytest.mark.exact("ZerothOrder")
def test_a_step_asks_one_forward_for_each_coordinate_and_one():
    rule = rg.ZerothOrder(rg.SGD(lr=0.1), rg.CoordinateDifferences(0.25), grasp_queries=5)
    run, calls = run_of(rule, steps=4), []
    run.model.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for _ in range(3):
        calls.clear()
        run.step()
        counts.append(len(calls))
    shares = run.states["optimizer"]["shares"]
    coordinates = round(shares["0.weight"] * 48) + round(shares["2.weight"] * 24) + 8 + 3
    assert counts == [coordinates + 1 + 2 * (5 + 1), coordinates + 1, coordinates + 1]


@pytest.mark.exact("ZerothOrder")
def test_a_run_goes_on_to_the_bit_with_the_shares_that_it_had():
    rule = rg.ZerothOrder(rg.AdamW(lr=0.05), rg.CoordinateDifferences(0.4), grasp_queries=4)
    whole, begun = run_of(rule, steps=9), run_of(rule, steps=9)
    for _ in range(4):
        begun.step()
    again = run_of(rule, steps=9)
    again.load(trees.clone(begun.tree()))
    list(whole), list(again)
    assert not trees.differences(trees.clone(whole.tree()), trees.clone(again.tree()))


@pytest.mark.parametrize(
    "base", [rg.MeZO(), rg.SAM(rg.SGD(lr=0.1)), rg.RecursiveRidge(), rg.AdaHessian(), rg.FedAvg(rg.SGD(lr=0.1))]
)
def test_bases_that_ask_otherwise_are_refused(base):
    with pytest.raises(DeclarationError, match=r"^base: "):
        rg.ZerothOrder(base)


def test_where_gradients_are_wanted_it_is_refused():
    rule = rg.ZerothOrder(rg.SGD(lr=0.1))
    with pytest.raises(DeclarationError, match="makes no gradient"):
        rg.SAM(rule)
    with pytest.raises(DeclarationError, match="makes no gradient"):
        run_of(rule, grad_transforms=[rg.ClipNorm(1.0)])


# -- BlackBox ----------------------------------------------------------------------------------------------


class Backprop(Estimator):
    """The true gradient of a function that has one."""

    def estimate(self, function, tensors, generator=None, *, base=None, rows=False, moved=None):
        with torch.enable_grad():
            [t.requires_grad_() for t in tensors]
            return list(torch.autograd.grad(function().sum(), tensors))


@pytest.mark.exact("BlackBox")
@pytest.mark.parametrize("mu", [2.0**-10, 0.5, 64.0])
def test_a_linear_black_box_has_its_exact_gradient(mu):
    box = rg.BlackBox(lambda z: z @ SLOPE, rg.CoordinateDifferences(mu=mu))
    z = torch.tensor([[1.0, 2.0], [0.5, -4.0]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[1.0, 0.0, 2.0], [-0.5, 1.0, 0.25]], dtype=torch.float64)
    box(z).backward(v)
    assert torch.equal(z.grad, v @ SLOPE.T)


@pytest.mark.exact("BlackBox")
def test_central_differences_of_a_quadratic_black_box_are_exact():
    z = torch.tensor([[1.0, 2.0, -0.5], [0.5, -4.0, 1.0]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([2.0, -0.5], dtype=torch.float64)
    rg.BlackBox(quadratic, rg.CoordinateDifferences(mu=0.5, central=True))(z).backward(v)
    assert torch.equal(z.grad, v[:, None] * (z.detach() @ HESSIAN + 1.0))


@pytest.mark.exact("BlackBox")
def test_with_the_true_gradient_for_an_estimate_it_is_backprop():
    """Of a deep part behind a deep part, with a loss that is not linear: the same bits."""
    torch.manual_seed(0)
    head, tail = (
        double_net(),
        nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, 4)).double().requires_grad_(False),
    )
    x, y = double_data()
    found = []
    for model in (nn.Sequential(head, tail), nn.Sequential(head, rg.BlackBox(tail, Backprop()))):
        found.append(torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(head.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.exact("BlackBox")
def test_a_run_through_a_linear_black_box_is_a_run_through_the_layer():
    """100 steps of AdamW, with cross-entropy behind."""
    torch.manual_seed(0)
    last = nn.Linear(3, 3).double().requires_grad_(False)
    pair = [
        run_of(rg.AdamW(lr=0.02), lambda tail=tail: nn.Sequential(double_net(), copy.deepcopy(tail)))
        for tail in (last, rg.BlackBox(last, rg.CoordinateDifferences(mu=0.5)))
    ]
    assert list(pair[0].parameters) == list(pair[1].parameters)
    [list(run) for run in pair]
    for p, q in zip(pair[0].trained, pair[1].trained):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)


@pytest.mark.exact("BlackBox")
def test_random_directions_in_a_run_go_on_to_the_bit():
    """They are drawn from the generator that the engine addresses: a resumed run draws the same, the caller's is as it was."""
    box = rg.BlackBox(lambda z: z.square(), rg.RandomDirections(2))

    def make():
        return run_of(rg.SGD(lr=0.05), lambda: nn.Sequential(double_net(), copy.deepcopy(box)), steps=6)

    torch.manual_seed(11)
    before = torch.get_rng_state()
    whole, begun, again = make(), make(), make()
    [begun.step() for _ in range(3)]
    again.load(trees.clone(begun.tree()))
    list(whole), list(again)
    assert torch.equal(torch.get_rng_state(), before)
    assert not trees.differences(trees.clone(whole.tree()), trees.clone(again.tree()))


def test_a_black_box_is_asked_no_more_than_it_has_to_be_and_may_keep_what_it_is_given():
    given = []

    def query(z):
        given.append(z)
        found = torch.from_numpy(np.sin(z.numpy())).sum(1)
        z.zero_()
        return found

    box, z = rg.BlackBox(query, rg.CoordinateDifferences(mu=1e-6)), torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    kept = z.clone()
    box(z)
    assert len(given) == 1
    z.requires_grad_()
    box(z).sum().backward()
    assert len(given) == 2 + 3
    assert torch.equal(z.detach(), kept)
    torch.testing.assert_close(z.grad, kept.cos(), rtol=0, atol=1e-6)


def test_what_is_inside_of_a_black_box_is_not_seen():
    box = rg.BlackBox(nn.Linear(2, 2))
    assert list(box.parameters()) == []
    assert list(box.state_dict()) == []
    assert list(box.modules()) == [box]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (lambda z: z.argmax(1), "int64 of shape"),
        (lambda z: z.sum(), r"shape \(\)"),
        (lambda z: z.numpy(), "ndarray"),
    ],
)
def test_answers_that_are_no_rows_of_real_numbers_are_refused(query, said):
    with pytest.raises(UserCodeError, match=said):
        rg.BlackBox(query)(torch.zeros(2, 3))


def test_what_is_no_box_is_refused():
    with pytest.raises(DeclarationError, match="query"):
        rg.BlackBox(3)
    with pytest.raises(DeclarationError, match="estimator"):
        rg.BlackBox(torch.sin, rg.SGD())
    with pytest.raises(DeclarationError, match=r"estimator\.mu"):
        rg.BlackBox(torch.sin, rg.CoordinateDifferences(mu=rg.Linear(0.1, 0.01)))
