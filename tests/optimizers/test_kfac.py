"""KFAC against explicit Fisher matrices, closed forms, and a twin with hooks by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.optimizers.kronecker.kfac import damped
from regimes.optimizers.layers import Layer, layers_of

PLAIN = rg.SGD(lr=1.0)


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 4, 2, stride=(1, 2), padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.conv(x.view(-1, 1, 2, 3))).mean((2, 3)))


class Recurrent(nn.Module):
    """Three steps of two inputs each: two layers are called three times, the last once."""

    def __init__(self):
        super().__init__()
        self.given, self.back, self.out = nn.Linear(2, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x):
        h = x.new_zeros(len(x), 5)
        for step in x.view(-1, 3, 2).unbind(1):
            h = torch.tanh(self.given(step) + self.back(h))
        return self.out(h)


MODELS = {"net": None, "conv": Conv, "recurrent": Recurrent}


def run_of(hand, rule, *, steps=100, model=None, data=None, loss=None, batch=16, **fields):
    x, y = hand.data() if data is None else data
    made = model or hand.net
    work = rg.Workload(
        model=lambda: made().double(), train=(x.double(), y), val=(x.double(), y), loss=loss or nn.CrossEntropyLoss()
    )
    return Run(work, rg.Regime(optimizer=rule, batch_size=batch, budget=f"{steps} steps", **fields), seed=5)


def state_of(run, name="weight"):
    return run.states["optimizer"]["slots"][name]


# -- the Fisher matrix ----------------------------------------------------------------------------------------


@pytest.mark.exact("KFAC")
def test_of_one_example_the_product_of_the_factors_is_the_fisher_block(hand):
    """And the step is the damped natural gradient, with the two factors' damping written out."""
    x, y = hand.data(1)
    run = run_of(
        hand,
        rg.KFAC(PLAIN, damping=0.04, fisher="labels", kl_clip=None),
        model=lambda: nn.Linear(6, 3),
        data=(x, y),
        batch=1,
    )
    twin = copy.deepcopy(run.model)
    functional.cross_entropy(twin(x.double()), y).backward()
    gradient = torch.cat([twin.weight.grad, twin.bias.grad[:, None]], 1)
    fisher = gradient.flatten().outer(gradient.flatten())
    run.step()
    slot = state_of(run)
    torch.testing.assert_close(torch.kron(slot["S"], slot["A"]), fisher, rtol=1e-12, atol=1e-15)
    pi = ((slot["A"].trace() / 7) / (slot["S"].trace() / 3)).sqrt()
    a, s = slot["A"] + 0.2 * pi * torch.eye(7).double(), slot["S"] + 0.2 / pi * torch.eye(3).double()
    step = torch.linalg.solve(torch.kron(s, a), gradient.flatten()).view(3, 7)
    moved = torch.cat([twin.weight - run.model.weight, (twin.bias - run.model.bias)[:, None]], 1)
    torch.testing.assert_close(moved.detach(), step, rtol=1e-10, atol=1e-13)


class Places(nn.Module):
    """One layer at three places of an example, an output each."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)

    def forward(self, x):
        return self.linear(x.view(-1, 3, 2))[..., 0]


@pytest.mark.exact("KFAC")
@pytest.mark.parametrize("kind", ["softmax", "squares", "places"])
def test_drawn_targets_make_the_true_fisher_matrix(hand, kind):
    """One input, 3,200 draws, decay 1 (a plain mean): S is the Hessian in the outputs, within 4.5 standard errors."""
    x = torch.tensor([[0.3, -1.0, 0.3, -1.0, 0.3, -1.0]]).expand(16, 6)
    model = Places if kind == "places" else lambda: nn.Linear(6, 3)
    y = torch.zeros(16).long() if kind == "softmax" else torch.zeros(16, 3).double()
    loss = nn.CrossEntropyLoss() if kind == "softmax" else rg.MSE()
    rule = rg.KFAC(rg.SGD(lr=0.0), decay=1.0, inverse_every=1000)
    run = run_of(hand, rule, steps=200, model=model, data=(x, y), loss=loss)
    p = run.model(x[:1].double()).softmax(-1)[0].detach()
    list(run)
    slot = state_of(run, "linear.weight" if kind == "places" else "weight")
    if kind == "softmax":  # diag p - p p^T; of an entry drawn with share q the variance is below q
        expected, variance = torch.diag(p) - p.outer(p), torch.full((3, 3), p.max().item()).double()
    elif kind == "squares":  # the loss is a mean over three outputs: 2 / 3 each, with normal draws
        expected, variance = 2 / 3 * torch.eye(3).double(), 4 / 9 * (1 + torch.eye(3).double())
    else:  # of three places 2 / 3 each, which add up
        expected, variance = torch.full((1, 1), 2.0).double(), torch.full((1, 1), 3 * 2 * 4 / 9).double()
    assert slot["count"] == 200
    assert ((slot["S"] - expected).abs() <= 4.5 * (variance / 3200).sqrt()).all()
    ones = torch.ones(1).double()
    a = x[0, :2].double() if kind == "places" else torch.cat([x[0].double(), ones])
    torch.testing.assert_close(slot["A"], a.outer(a), rtol=1e-6, atol=1e-12)


class Layered(dict):
    """Parameters of one linear layer."""

    layers = (Layer("", "weight", "bias"),)


class Captured:
    """An evaluate of a linear regression on all data, with drawn gradients whose second moment is that of all draws."""

    compiled = False

    def __init__(self, hand, parameters, x, y):
        self.hand, self.parameters, self.x, self.y = hand, parameters, x, y

    def __call__(self, capture=(), sampled=False):
        weight, bias = self.parameters.values()
        residual = (self.x @ weight.T + bias - self.y).detach()
        gradients = residual.T @ self.x / len(self.x), residual.mean(0)  # of half the squares: the Hessian is 1
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=self.x.dtype).repeat(len(self.x) // 2, 1)
        captured = {"input:": [self.x], "output_gradient:": [signs]} if capture else {}
        assert sampled == bool(capture)
        return self.hand.Given(0.0, gradients, captured, float(len(self.x)))


def regression(hand):
    draw = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(20, n, generator=draw, dtype=torch.float64) for n in (4, 2))
    y = x @ torch.randn(4, 2, generator=draw, dtype=torch.float64) + noise
    w = Layered(weight=nn.Parameter(torch.randn(2, 4).double()), bias=nn.Parameter(torch.randn(2).double()))
    return w, x, y


@pytest.mark.exact("KFAC")
def test_with_exact_factors_one_step_solves_a_linear_regression(hand):
    w, x, y = regression(hand)
    rule = rg.KFAC(PLAIN, damping=1e-24, kl_clip=None)
    rule.step(rule.init(w), w, Captured(hand, w, x, y))
    solved = torch.linalg.lstsq(torch.cat([x, torch.ones(20, 1).double()], 1), y).solution.T
    torch.testing.assert_close(torch.cat([w["weight"], w["bias"][:, None]], 1).detach(), solved, rtol=0, atol=1e-10)


@pytest.mark.exact("KFAC")
def test_infinite_damping_is_scaled_gradient_descent(hand):
    """Delta is the gradient over lambda: with the rate times lambda it is the base rule's own step."""
    w, x, y = regression(hand)
    evaluate = Captured(hand, w, x, y)
    expected = [p.detach() - 0.1 * g for p, g in zip(w.values(), evaluate().gradients)]
    rule = rg.KFAC(rg.SGD(lr=0.1 * 1e24), damping=1e24, kl_clip=None)
    rule.step(rule.init(w), w, evaluate)
    for p, q in zip(w.values(), expected):
        torch.testing.assert_close(p.detach(), q, rtol=0, atol=1e-10)


@pytest.mark.exact("KFAC")
@pytest.mark.parametrize("kappa", [1e-3, 1e6])
def test_the_clip_bounds_the_product_of_direction_and_gradient(hand, kappa):
    w, x, y = regression(hand)
    evaluate, before = Captured(hand, w, x, y), [p.detach().clone() for p in w.values()]
    gradients = evaluate().gradients
    free = rg.KFAC(PLAIN, kl_clip=None)
    free.step(free.init(w), w, evaluate)
    steps = [q - p.detach() for p, q in zip(w.values(), before)]
    inner = sum((s * g).sum() for s, g in zip(steps, gradients))
    for p, q in zip(w.values(), before):
        p.data.copy_(q)
    rule = rg.KFAC(PLAIN, kl_clip=kappa)
    rule.step(rule.init(w), w, evaluate)
    scale = min(1.0, (kappa / inner).sqrt().item())
    assert (scale < 1) == (kappa < 1)
    for p, q, s in zip(w.values(), before, steps):
        torch.testing.assert_close(q - p.detach(), scale * s, rtol=1e-10, atol=1e-14)


def test_pi_balances_the_traces_and_is_one_where_a_factor_is_zero():
    a, s = torch.diag(torch.tensor([3.0, 5.0])).double(), torch.diag(torch.tensor([0.5, 1.5, 1.0])).double()
    da, ds = damped(a, s, 0.09)
    torch.testing.assert_close(da - a, 0.6 * torch.eye(2).double())  # pi = sqrt(4 / 1)
    torch.testing.assert_close(ds - s, 0.15 * torch.eye(3).double())
    for pair in ((a, 0 * s), (0 * a, s)):
        torch.testing.assert_close(damped(*pair, 0.09)[0] - pair[0], 0.3 * torch.eye(2).double())


# -- a twin ---------------------------------------------------------------------------------------------------


class Twin:
    """The rule, written plainly: hooks by hand, sums over rows, and a solve with the whole Kronecker product."""

    def __init__(self, model, *, damping, decay, every, inverse_every, kappa, lr, momentum):
        self.model, self.t, self.k = model, 0, 0
        self.damping, self.decay, self.kappa = damping, decay, kappa
        self.every, self.inverse_every = every, inverse_every
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        self.layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        self.factors, self.blocks, self.clipped = {}, {}, 0

    def rows(self, x, targets):
        """Rows of inputs and unit gradients of every layer, of all its calls."""
        kept = {layer: [] for layer in self.layers}
        handles = [
            layer.register_forward_hook(lambda m, args, out: kept[m].append((args[0].detach(), out)))
            for layer in self.layers
        ]
        logits = self.model(x)
        [handle.remove() for handle in handles]
        loss = functional.cross_entropy(logits, targets(logits), reduction="sum")
        outs = [out for layer in self.layers for _, out in kept[layer]]
        gradients = iter(torch.autograd.grad(loss, outs))
        found = {}
        for layer in self.layers:
            pairs = [laid_out(layer, given, next(gradients)) for given, _ in kept[layer]]
            found[layer] = torch.cat([a for a, _ in pairs]), torch.cat([g for _, g in pairs])
        return found

    def step(self, x, y, targets):
        if self.t % self.every == 0:
            self.k += 1
            rho = min(1 - 1 / self.k, self.decay)
            for layer, (a, g) in self.rows(x, targets).items():
                if layer.bias is not None:
                    a = torch.cat([a, torch.ones(len(a), 1).double()], 1)
                new = torch.einsum("ri,rj->ij", a, a) / len(a), torch.einsum("ri,rj->ij", g, g) / len(x)
                old = self.factors.get(layer, new)
                self.factors[layer] = [rho * o + (1 - rho) * n for o, n in zip(old, new)]
        if self.t % self.inverse_every == 0:
            for layer, (a, s) in self.factors.items():
                pi = ((a.trace() / len(a)) / (s.trace() / len(s))) ** 0.5
                da = a + pi * self.damping**0.5 * torch.eye(len(a)).double()
                ds = s + self.damping**0.5 / pi * torch.eye(len(s)).double()
                self.blocks[layer] = torch.kron(ds, da)
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(x), y).backward()
        made, inner = {}, 0.0
        for layer in self.layers:
            whole = layer.weight.grad.flatten(1)
            if layer.bias is not None:
                whole = torch.cat([whole, layer.bias.grad[:, None]], 1)
            made[layer] = torch.linalg.solve(self.blocks[layer], whole.flatten()).view_as(whole)
            inner += (made[layer] * whole).sum().item()
        scale = min(1.0, (self.kappa / inner) ** 0.5)
        self.clipped += scale < 1
        for layer, direction in made.items():
            columns = layer.weight[0].numel()
            layer.weight.grad.copy_(scale * direction[:, :columns].reshape(layer.weight.shape))
            if layer.bias is not None:
                layer.bias.grad.copy_(scale * direction[:, columns])
        self.t += 1
        self.optimizer.step()


def laid_out(layer, given, g):
    """Rows of a linear layer's call, or of a convolution's cut into patches by hand."""
    if isinstance(layer, nn.Linear):
        return given, g
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    padded = functional.pad(given, (1, 1, 1, 1))
    patches = [
        padded[:, :, i * down : i * down + high, j * right : j * right + wide].flatten(1)
        for i in range(g.shape[2])
        for j in range(g.shape[3])
    ]
    return torch.cat(patches), g.permute(2, 3, 0, 1).reshape(-1, g.shape[1])


@pytest.mark.exact("KFAC")
@pytest.mark.parametrize(
    ("model", "fisher", "micro"),
    [("net", "drawn", None), ("net", "labels", 4), ("conv", "drawn", None), ("recurrent", "drawn", None),
     ("recurrent", "labels", None)],
)  # fmt: skip
def test_kfac_equals_a_plain_twin(hand, model, fisher, micro):
    """100 steps in float64; drawn classes are the engine's, as their address says."""
    settings = {"damping": 0.03, "decay": 0.9, "every": 2, "inverse_every": 3}
    rule = rg.KFAC(rg.SGD(lr=0.2, momentum=0.5), fisher=fisher, kl_clip=0.5, **settings)
    run = run_of(hand, rule, model=MODELS[model], micro_batch=micro)
    twin = Twin(copy.deepcopy(run.model), kappa=0.5, lr=0.2, momentum=0.5, **settings)
    (x, y), streams = hand.data(), Streams(5, *run.streams.prefix)
    for t in range(100):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        run.step()

        def drawn(logits, t=t):
            draw = torch.Generator().manual_seed(streams.seed32("targets", t, 0))
            return torch.multinomial(logits.detach().softmax(-1), 1, generator=draw)[:, 0]

        labels = y[indices]
        twin.step(x[indices].double(), labels, drawn if fisher == "drawn" else lambda logits, y=labels: y)
    for p, q in zip(run.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-10)
    names = [layer.weight for layer in layers_of(run.model)]
    for name, layer in zip(names, twin.layers, strict=True):
        for key, theirs in zip(("A", "S"), twin.factors[layer]):
            torch.testing.assert_close(state_of(run, name)[key], theirs, rtol=0, atol=1e-10)
    assert 0 < twin.clipped < 100


# -- in the engine --------------------------------------------------------------------------------------------


class Handed(rg.SGD):
    """Keeps the gradients that it was handed."""

    def step(self, state, parameters, evaluate):
        self.seen.append(dict(zip(parameters, (g.clone() for g in evaluate().gradients))))
        return super().step(state, parameters, evaluate)


def test_what_belongs_to_no_layer_and_what_is_skipped_keeps_its_gradient(hand):
    Handed.seen = []
    model = lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))  # noqa: E731
    run = run_of(hand, rg.KFAC(Handed(lr=0.1), skip=["2.*"]), steps=1, model=model)
    twin, (x, y), indices = copy.deepcopy(run.model), hand.data(), torch.from_numpy(run.frame.plans[0].indices)
    functional.cross_entropy(twin(x[indices].double()), y[indices]).backward()
    run.step()
    same = {name for name, p in twin.named_parameters() if torch.allclose(p.grad, Handed.seen[0][name], rtol=1e-9)}
    assert same == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert set(run.states["optimizer"]["slots"]) == {"0.weight"}


class Later(nn.Module):
    """A second layer that is called once it is wanted."""

    def __init__(self):
        super().__init__()
        self.used, self.later, self.wanted = nn.Linear(6, 3), nn.Linear(6, 3), False

    def forward(self, x):
        return self.used(x) + (self.later(x) if self.wanted else 0.0)


def test_a_layer_that_is_called_later_has_its_first_factors_inverted_at_once(hand):
    """Called first between two updates of the factors, it keeps its gradient until the next."""
    Handed.seen = []
    run = run_of(hand, rg.KFAC(Handed(lr=0.1), every=2, inverse_every=100, kl_clip=None), steps=4, model=Later)
    run.step()
    assert Handed.seen[-1]["later.weight"].count_nonzero() == 0
    run.model.wanted = True
    twin, (x, y), indices = copy.deepcopy(run.model), hand.data(), torch.from_numpy(run.frame.plans[0].indices)
    functional.cross_entropy(twin(x[indices].double()), y[indices]).backward()
    run.step()
    assert state_of(run, "later.weight")["count"] == 0
    torch.testing.assert_close(Handed.seen[-1]["later.weight"], twin.later.weight.grad, rtol=1e-9, atol=1e-12)
    run.step()
    slot = state_of(run, "later.weight")
    assert slot["count"] == 1
    torch.testing.assert_close(
        slot["A_inverse"] @ damped(slot["A"], slot["S"], 1e-3)[0], torch.eye(7).double(), rtol=0, atol=1e-8
    )


def test_a_frozen_bias_is_no_column(hand):
    run = run_of(hand, rg.KFAC(rg.SGD(lr=0.1)), steps=2, trainable=["*.weight"])
    list(run)
    assert state_of(run, "0.weight")["A"].shape == (6, 6)


def test_a_factor_that_has_no_inverse_skips_the_step(hand):
    """One example, no damping to speak of: nothing is written, and the record says of which layer."""
    run = run_of(
        hand, rg.KFAC(PLAIN, damping=1e-60), model=lambda: nn.Linear(6, 3), data=hand.data(1), batch=1, steps=2
    )
    before = copy.deepcopy(run.states["optimizer"]), run.model.weight.detach().clone()
    assert "damped Kronecker factor of ''" in run.step().signals["skipped"]
    assert torch.equal(run.model.weight, before[1])
    slot = state_of(run)
    assert slot["count"] == 0
    assert all(torch.equal(slot[name], before[0]["slots"]["weight"][name]) for name in ("A", "S"))


def test_work_is_counted(hand):
    """A step that draws targets costs another forward and backward; of labels it costs none."""
    costs = {}
    for fisher in ("drawn", "labels"):
        run, costs[fisher] = run_of(hand, rg.KFAC(rg.SGD(lr=0.1), every=2, fisher=fisher), steps=2), []
        while not run.finished:
            before = run.work.spent
            run.step()
            costs[fisher].append(run.work.spent - before)
    assert costs["drawn"][0] == 2 * costs["drawn"][1] > 0
    assert costs["labels"][0] == costs["labels"][1] == costs["drawn"][1]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rg.KFAC(rg.SAM(PLAIN)), "cannot stand inside KFAC; write SAM(KFAC(...))"),
        (lambda: rg.Groups([rg.Group("*", rg.KFAC(PLAIN))]), "write KFAC(Groups(...))"),
        (lambda: rg.KFAC(PLAIN, skip=["1.*"]), "skip.0: got '1.*', which matches no layer's weight"),
        (lambda: rg.KFAC(PLAIN, skip=["*"]), "none is trained here"),
        (lambda: rg.KFAC(PLAIN, fisher="empirical"), "fisher: got 'empirical'"),
    ],
)
def test_refusals(hand, make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        run_of(hand, make(), steps=1)
    assert sentence in str(why.value)


def test_a_loss_without_a_distribution_is_refused_unless_labels_will_do(hand):
    x, y = hand.data()
    work = rg.Workload(model=hand.net, train=(x, y), val=(x, y), loss=nn.MultiMarginLoss())
    regime = rg.Regime(optimizer=rg.KFAC(rg.SGD(lr=0.1)), batch_size=16, budget="2 steps")
    with pytest.raises(
        rg.DeclarationError, match=r"got FromCriterion\(MultiMarginLoss\(.*, which says no distribution"
    ):
        rg.run(work, regime, seed=0)
    rg.run(work, regime.but(optimizer=rg.KFAC(rg.SGD(lr=0.1), fisher="labels")), seed=0)
