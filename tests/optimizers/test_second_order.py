"""AdaHessian and Sophia against plain twins, and their estimates against explicit Hessians."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes import optim
from regimes.core.randomness import Streams
from regimes.losses import BCE, MSE, CrossEntropy, NextToken
from regimes.optimizers.second_order.ada_hessian import spatial_average
from regimes.optimizers.second_order.diagonals import (
    gauss_newton_bartlett_diagonal,
    hutchinson_diagonal,
    signs,
)


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def double():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def run_of(hand, rule, steps=100, model=double, **more):
    x, y = hand.data()
    work = rg.Workload(model=model, train=(x.double(), y), val=(x.double(), y), loss=nn.CrossEntropyLoss())
    return rg.Run(work, rg.Regime(optimizer=rule, batch_size=16, budget=f"{steps} steps", **more), seed=5)


def hessian_vector(loss, weights, z):
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(gradients, z))
    return [g.detach() for g in gradients], torch.autograd.grad(inner, weights)


@pytest.mark.exact("AdaHessian")
@pytest.mark.parametrize(
    "options",
    [{}, {"hessian_power": 0.5, "weight_decay": 0.1}, {"signed_average": True, "update_every": 3, "samples": 2}],
)
def test_ada_hessian_equals_a_plain_twin(hand, options):
    """The twin draws the same signs, makes H z by two backwards, and keeps m, v and D in lists."""
    rule = rg.AdaHessian(lr=0.05, **options)
    power, decay, every = rule.hessian_power, rule.weight_decay, rule.update_every
    run = run_of(hand, rule)
    twin, (x, y), streams = copy.deepcopy(run.model), hand.data(), Streams(5, *run.streams.prefix)
    weights = list(twin.parameters())
    m, v, d = ([torch.zeros_like(w) for w in weights] for _ in range(3))
    for t in range(1, 101):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        run.step()
        loss = functional.cross_entropy(twin(x[indices].double()), y[indices])
        if (t - 1) % every == 0:
            draw = torch.Generator().manual_seed(streams.seed32("rule", "hutchinson", t - 1))
            made = []
            for _ in range(rule.samples):
                z = [signs(w, draw) for w in weights]
                made.append([a * b for a, b in zip(z, hessian_vector(loss, weights, z)[1])])
                loss = functional.cross_entropy(twin(x[indices].double()), y[indices])
            estimate = [torch.stack(parts).mean(0) for parts in zip(*made)]
            if not rule.signed_average:
                estimate = [e.abs() for e in estimate]
            d = [e if e.ndim == 1 else e.mean(1, keepdim=True).expand_as(e) for e in estimate]
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for i, (w, g) in enumerate(zip(weights, gradients)):
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * d[i] ** 2
                below = (v[i] / (1 - 0.999**t)).sqrt() ** power + 1e-4
                w -= 0.05 * (m[i] / (1 - 0.9**t) / below + decay * w)
    torch.testing.assert_close(flat(run.model.parameters()), flat(weights), rtol=0, atol=1e-10)


@pytest.mark.exact("Sophia")
@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_sophia_equals_a_plain_twin(hand, estimator):
    """The twin draws classes from its own softmax (or signs), every third step, and clips element by element."""
    rule = rg.Sophia(lr=0.02, betas=(0.9, 0.8), gamma=0.3, weight_decay=0.1, update_every=3, estimator=estimator)
    run = run_of(hand, rule)
    twin, (x, y), streams = copy.deepcopy(run.model), hand.data(), Streams(5, *run.streams.prefix)
    weights = list(twin.parameters())
    m, h = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for t in range(1, 101):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        record = run.step()
        inputs, targets = x[indices].double(), y[indices]
        gradients = torch.autograd.grad(functional.cross_entropy(twin(inputs), targets), weights)
        if (t - 1) % 3 == 0:
            if estimator == "gnb":
                draw = torch.Generator().manual_seed(streams.seed32("targets", t - 1, 0))
                logits = twin(inputs)
                drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=draw)[:, 0]
                ghat = torch.autograd.grad(functional.cross_entropy(logits, drawn), weights)
                estimate = [len(indices) * g * g for g in ghat]
            else:
                draw = torch.Generator().manual_seed(streams.seed32("rule", "hutchinson", t - 1))
                z = [signs(w, draw) for w in weights]
                products = hessian_vector(functional.cross_entropy(twin(inputs), targets), weights, z)[1]
                estimate = [a * b for a, b in zip(z, products)]
            h = [0.8 * old + 0.2 * new for old, new in zip(h, estimate)]
        inside = 0
        with torch.no_grad():
            for i, (w, g) in enumerate(zip(weights, gradients)):
                m[i] = 0.9 * m[i] + 0.1 * g
                ratio = m[i] / torch.maximum(0.3 * h[i], torch.tensor(1e-12).double())
                inside += (ratio.abs() < 1).sum().item()
                w *= 1 - 0.02 * 0.1
                w -= 0.02 * torch.minimum(torch.maximum(ratio, -torch.ones_like(w)), torch.ones_like(w))
        if (t - 1) % 3 == 0:
            assert record.signals["unclipped_fraction"] == inside / sum(w.numel() for w in weights)
            assert t < 10 or 0.05 < record.signals["unclipped_fraction"] < 0.95
        else:
            assert "unclipped_fraction" not in record.signals
    torch.testing.assert_close(flat(run.model.parameters()), flat(weights), rtol=0, atol=1e-10)


# -- estimates ----------------------------------------------------------------------------------------------


def small():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 7)).double()  # 199 parameters


def explicit(model, loss):
    names = list(dict(model.named_parameters()))
    shapes = [p.shape for p in model.parameters()]

    def of(vector):
        parts = vector.split([s.numel() for s in shapes])
        return loss(
            torch.func.functional_call(model, dict(zip(names, (p.view(s) for p, s in zip(parts, shapes)))), (X,))
        )

    return torch.autograd.functional.hessian(of, flat(model.parameters()))


X = torch.randn(20, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(20) % 7


@pytest.mark.exact("AdaHessian", "Sophia")
@pytest.mark.parametrize("distribution", ["signs", "normal"])
def test_hutchinson_is_within_sampling_error_of_an_explicit_hessian(distribution):
    """Diagonal and trace, at four standard errors of the variance that the formula gives for 400 draws."""
    model, draw, n = small(), torch.Generator().manual_seed(7), 400
    h = explicit(model, lambda out: functional.cross_entropy(out, Y))
    weights = list(model.parameters())

    def loss():
        return functional.cross_entropy(model(X), Y)

    estimate = flat(hutchinson_diagonal(loss, weights, n, draw, distribution))
    beside = (h - torch.diag(h.diag())).square().sum(1)
    variance = beside if distribution == "signs" else beside + 2 * h.diag().square()
    assert ((estimate - h.diag()).abs() <= 4.5 * (variance / n).sqrt()).all()
    of_trace = 2 * ((h - torch.diag(h.diag())) if distribution == "signs" else h).square().sum()
    assert (estimate.sum() - h.trace()).abs() <= 4 * (of_trace / n).sqrt()
    assert 3 * (of_trace / n).sqrt() < h.trace()  # or the bound would say nothing


@pytest.mark.exact("AdaHessian")
def test_signs_are_both_and_average_to_the_true_diagonal():
    """Over all sign vectors the mean is exact: a probe that is always -1 would give row sums."""
    h = torch.tensor([[2.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 1.0]], dtype=torch.float64)
    every = [torch.tensor(z, dtype=torch.float64) for z in itertools.product((-1.0, 1.0), repeat=3)]
    torch.testing.assert_close(torch.stack([z * (h @ z) for z in every]).mean(0), h.diag(), rtol=0, atol=1e-15)
    drawn = signs(torch.zeros(100_000), torch.Generator().manual_seed(0))
    assert drawn.abs().eq(1.0).all()
    assert abs(drawn.mean().item()) < 4 / 100_000**0.5


@pytest.mark.exact("Sophia")
def test_labels_weighted_by_their_probability_give_the_gauss_newton_diagonal():
    """Softmax regression, one example: B g g summed over all classes by p equals diag(J^T (diag p - p p^T) J)."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), torch.randn(1, 4, dtype=torch.float64)
    p = model(x).softmax(-1).detach()[0]
    total = [torch.zeros_like(w) for w in model.parameters()]
    for label in range(3):
        g = torch.autograd.grad(functional.cross_entropy(model(x), torch.tensor([label])), list(model.parameters()))
        total = [t + p[label] * one * one for t, one in zip(total, g)]
    shape = p - p * p
    torch.testing.assert_close(total[0], shape[:, None] * x.square(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(total[1], shape, rtol=1e-12, atol=1e-14)


LOSSES = [
    (CrossEntropy(label_smoothing=0.1), lambda: nn.Linear(3, 4), (torch.tensor([0, -100, 2]),)),
    (
        NextToken(),
        lambda: nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 4))),
        (torch.tensor([[0, 1], [-100, 2], [3, 3]]),),
    ),
    (MSE(), lambda: nn.Linear(3, 2), (torch.zeros(3, 2).double(),)),
    (BCE(), lambda: nn.Linear(3, 2), (torch.zeros(3, 2).double(),)),
]


@pytest.mark.exact("Sophia")
@pytest.mark.parametrize(("loss", "make", "target"), LOSSES, ids=lambda value: type(value).__name__)
def test_drawn_targets_have_the_gauss_newton_matrix_as_second_moment(loss, make, target):
    """Over 20,000 draws B g g is the diagonal of the explicit Hessian of the loss (the models are linear: H is GGN)."""
    torch.manual_seed(1)
    model, x = make().double(), torch.randn(3, 3, dtype=torch.float64)
    weights, batch = list(model.parameters()), (x, *target)
    names, shapes = list(dict(model.named_parameters())), [p.shape for p in weights]

    def of(vector):
        parts = vector.split([s.numel() for s in shapes])
        named = dict(zip(names, (p.view(s) for p, s in zip(parts, shapes))))
        units = loss.per_unit(torch.func.functional_call(model, named, (x,)), *target)
        own = torch.ones_like(units.values) if units.weights is None else units.weights
        return (units.values * own).sum() / own.sum()

    h = torch.autograd.functional.hessian(of, flat(weights)).diag()
    draw = torch.Generator().manual_seed(2)
    found = torch.stack([flat(gauss_newton_bartlett_diagonal(model, batch, loss, weights, draw)) for _ in range(4000)])
    error = found.std(0) / 4000**0.5
    assert ((found.mean(0) - h).abs() <= 4 * error + 1e-12).all()
    assert (error < 0.1 * h + 1e-12).all()


def test_padding_is_drawn_no_target():
    drawn = CrossEntropy().per_unit_drawn(torch.zeros(2, 3), torch.tensor([1, -100]), torch.Generator())
    assert drawn.weights.tolist() == [1.0, 0.0]
    assert drawn.values[1] == 0.0


class Bowl:
    """Evaluates the quadratic of diagonal h at w."""

    compiled = False

    def __init__(self, hand, h, w):
        self.h, self.w, self.rng, self.log = h, w, hand.Stub(()).rng, hand.Stub(()).log
        self.given = hand.Given

    def __call__(self, vectors):
        return self.given(0.0, ((self.h * self.w).detach(),), {"hessian_products": [(self.h * vectors[0][0],)]})


# -- reductions and closed forms ------------------------------------------------------------------------------


@pytest.mark.exact("AdaHessian")
def test_on_a_diagonal_quadratic_one_step_is_newtons(hand):
    h, w = torch.tensor([4.0, 0.5, -2.0]).double(), nn.Parameter(torch.tensor([1.0, -3.0, 2.0]).double())
    rule = rg.AdaHessian(lr=1.0, betas=(0.0, 0.999), eps=1e-30)
    rule.step(rule.init({"w": w}), {"w": w}, Bowl(hand, h, w))
    torch.testing.assert_close(w.detach(), torch.tensor([0.0, 0.0, 4.0]).double(), rtol=0, atol=1e-12)


@pytest.mark.exact("AdaHessian")
def test_power_zero_is_bias_corrected_momentum(hand):
    parameters, gradients = hand.given([(4, 3), (5,)], 10)
    expected = {name: p.detach().clone() for name, p in parameters.items()}
    m = {name: torch.zeros_like(p) for name, p in expected.items()}
    for t, given in enumerate(gradients, start=1):
        for (name, p), g in zip(expected.items(), given):
            m[name] = 0.9 * m[name] + 0.1 * g
            p -= 0.1 * m[name] / (1 - 0.9**t) / (1 + 1e-4)
    hand.drive(rg.AdaHessian(lr=0.1, hessian_power=0.0), parameters, gradients)
    for name, p in parameters.items():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=1e-12)


@pytest.mark.exact("AdaHessian")
@pytest.mark.parametrize(("shape", "axes"), [((4,), ()), ((4, 3), (1,)), ((4, 3, 5), (2,)), ((4, 3, 2, 2), (2, 3))])
def test_averages_run_over_rows_and_kernels(shape, axes):
    d = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_hand = d if not axes else d.mean(axes, keepdim=True).expand_as(d)
    torch.testing.assert_close(spatial_average(d), by_hand)


@pytest.mark.exact("Sophia")
def test_no_element_moves_farther_than_the_rate_and_without_curvature_it_is_the_sign(hand):
    rule = rg.Sophia(lr=0.1, weight_decay=0.0, gamma=0.5)
    p, g = (
        torch.zeros(1000).double(),
        torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    )
    slot = rule.slots(p)
    rule.update(p, g, slot, 1)
    assert torch.equal(p, -0.1 * g.sign())
    slot["hessian"].copy_(g.roll(1))  # some negative, some small
    before = p.clone()
    rule.update(p, g, slot, 2)
    assert (p - before).abs().max() <= 0.1 * (1 + 1e-12)
    assert ((p - before).abs() < 0.099).any()


@pytest.mark.exact("Sophia")
def test_a_newton_step_shorter_than_one_lands_on_the_minimum(hand):
    h, w = torch.tensor([4.0, 0.5]).double(), nn.Parameter(torch.tensor([0.9, -0.7]).double())
    rule = rg.Sophia(lr=1.0, betas=(0.0, 0.0), gamma=1.0, weight_decay=0.0, estimator="hutchinson")
    rule.step(rule.init({"w": w}), {"w": w}, Bowl(hand, h, w))
    torch.testing.assert_close(w.detach(), torch.zeros(2).double(), rtol=0, atol=1e-12)


@pytest.mark.exact("Sophia")
def test_curvatures_1_and_1000_do_not_slow_it_down():
    """A smooth bowl of condition 1000: Sophia is near the minimum in 60 steps, where gradient descent at its best
    constant rate, 2 / 1001, has kept (999/1001)^60 = 0.89 of the flat direction."""
    h, w, rule = torch.tensor([1.0, 1000.0]), torch.tensor([3.0, 3.0]), rg.Sophia(lr=0.1, gamma=1.0, weight_decay=0.0)
    slot = rule.slots(w)
    for t in range(1, 61):
        if t % 10 == 1:
            rule.refresh(w, h, slot)
        rule.with_values({"lr": 0.1 * (1 - t / 61)}).update(w, h * w, slot, t)
    assert w.abs().max() < 0.1 * 3 * 0.89


# -- in the engine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [rg.AdaHessian(lr=0.05), rg.Sophia(lr=0.02, estimator="hutchinson")])
def test_micro_batches_add_up(hand, rule):
    whole, parts = run_of(hand, rule, 6), run_of(hand, rule, 6, micro_batch=4)
    list(whole), list(parts)
    torch.testing.assert_close(flat(whole.model.parameters()), flat(parts.model.parameters()), rtol=0, atol=1e-12)


@pytest.mark.exact("Sophia", "AdaHessian")
def test_groups_ask_once_for_all(hand):
    """Two groups of Sophia-G, alike, are one; the record of a step holds each group's share."""
    one = rg.Sophia(lr=0.02, betas=(0.9, 0.8), gamma=0.3, update_every=2)
    alone, grouped = run_of(hand, one, 8), run_of(hand, rg.Groups([rg.Group("@vectors", one), rg.Group("*", one)]), 8)
    list(alone)
    records = list(grouped)
    torch.testing.assert_close(flat(alone.model.parameters()), flat(grouped.model.parameters()), rtol=0, atol=1e-14)
    assert {"group 0 unclipped_fraction", "group 1 unclipped_fraction"} <= set(records[0].signals)
    mixed = rg.Groups([rg.Group("@vectors", rg.AdaHessian(lr=0.05)), rg.Group("*", one)])
    list(run_of(hand, mixed, 3))


def test_work_is_counted(hand):
    """A step that estimates costs more than one that does not; with gnb another forward and backward: twice."""
    run = run_of(hand, rg.Sophia(update_every=2), 2)
    costs = []
    while not run.finished:
        before = run.work.spent
        run.step()
        costs.append(run.work.spent - before)
    assert costs[0] == 2 * costs[1] > 0
    products = run_of(hand, rg.AdaHessian(update_every=2), 2)
    products.step()
    first = products.work.spent
    products.step()
    assert first > 1.5 * (products.work.spent - first) > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda hand: run_of(hand, rg.MKOR(rg.Sophia())),
            "base: Sophia asks for more than the gradient",
        ),
        (lambda hand: rg.Sophia(estimator="fisher"), "estimator: got 'fisher'"),
    ],
)
def test_refusals(hand, make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        make(hand)
    assert sentence in str(why.value)


def test_a_loss_without_a_distribution_is_refused_before_anything_is_spent(hand):
    x, y = hand.data()
    work = rg.Workload(model=hand.net, train=(x, y), val=(x, y), loss=nn.MultiMarginLoss())
    with pytest.raises(
        rg.DeclarationError, match=r"got FromCriterion\(MultiMarginLoss\(.*, which says no distribution"
    ):
        rg.run(work, rg.Regime(optimizer=rg.Sophia(), batch_size=16, budget="2 steps"), seed=0)


# -- in a loop of one's own -----------------------------------------------------------------------------------


@pytest.mark.exact("AdaHessian", "Sophia")
@pytest.mark.parametrize(
    "rule", [rg.AdaHessian(lr=0.05), rg.Sophia(lr=0.02, gamma=0.3, update_every=3, estimator="gnb")]
)
def test_a_loop_of_ones_own_makes_the_weights_of_the_engine(hand, rule):
    run = run_of(hand, rule, 20)
    model, (x, y), streams = copy.deepcopy(run.model), hand.data(), Streams(5, *run.streams.prefix)
    options = {"lr": rule.lr} if isinstance(rule, rg.AdaHessian) else {"lr": rule.lr, "gamma": rule.gamma}
    optimizer = getattr(optim, type(rule).__name__)(model.parameters(), **options)
    for t in range(20):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        run.step()
        inputs, targets = x[indices].double(), y[indices]
        if t % rule.update_every == 0:
            if isinstance(rule, rg.AdaHessian):
                draw = torch.Generator().manual_seed(streams.seed32("rule", "hutchinson", t))
                loss = lambda: functional.cross_entropy(model(inputs), targets)  # noqa: B023, E731
                found = optim.hutchinson_diagonal(loss, list(model.parameters()), generator=draw)
            else:
                draw = torch.Generator().manual_seed(streams.seed32("targets", t, 0))
                batch, leaves = (inputs, targets), list(model.parameters())
                found = optim.gauss_newton_bartlett_diagonal(model, batch, CrossEntropy(), leaves, draw)
            optimizer.update_hessian(found)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        before = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before))
    torch.testing.assert_close(flat(run.model.parameters()), flat(model.parameters()), rtol=0, atol=1e-12)


def test_an_optimizer_that_was_told_no_curvature_refuses_to_step():
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    optimizer = optim.Sophia([w])
    with pytest.raises(RuntimeError, match=r"before step\(\).*hutchinson_diagonal\(lambda: criterion"):
        optimizer.step()
    with pytest.raises(ValueError, match="shorter"):
        optimizer.update_hessian([])
    with pytest.raises(TypeError, match="AdamW reads no curvature"):
        optim.AdamW([w]).update_hessian([torch.ones(2)])


def test_the_calls_that_the_refusal_shows_are_right():
    x, y, draw = torch.randn(8, 6).double(), torch.arange(8) % 3, torch.Generator
    model, criterion = double(), nn.CrossEntropyLoss()
    optimizer = optim.Sophia(model.parameters())
    criterion(model(x), y).backward()
    with pytest.raises(RuntimeError) as why:
        optimizer.step()
    calls = str(why.value).split(": ", 1)[1].split(", or of ")
    names = {"rg": rg, "optimizer": optimizer, "criterion": criterion, "model": model, "x": x, "y": y}
    exec(calls[0], names)
    optimizer.step()
    torch.manual_seed(3)
    found = eval(calls[1], names)
    own = gauss_newton_bartlett_diagonal(model, (x, y), CrossEntropy(), list(model.parameters()), draw().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(found, own, strict=True))


def test_a_loss_that_is_no_function_is_refused_with_the_call():
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(
        rg.DeclarationError, match=r"loss: got a Tensor; allowed: a function .*\(lambda: criterion\(model"
    ):
        hutchinson_diagonal((w**3).sum(), [w])
