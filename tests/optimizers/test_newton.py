"""GradientRegularizedNewton against a twin with explicit matrices, closed forms, and what a try may meet."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.core.errors import NonFinite
from regimes.engine.evaluator import Evaluator
from regimes.engine.run import Run
from regimes.losses import BCE
from regimes.optimizers.second_order import gradient_regularized_newton as newton

EPS = 1e-8


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def small():
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()  # 43 parameters


def run_of(hand, rule, steps=100, model=small, data=None, loss=None, batch=16, **fields):
    x, y = hand.data() if data is None else data
    made = (x.double(), y)
    work = rg.Workload(model=model, train=made, val=made, loss=loss or nn.CrossEntropyLoss())
    return Run(work, rg.Regime(optimizer=rule, batch_size=batch, budget=f"{steps} steps", **fields), seed=5)


class Twin:
    """Algorithm 1, written plainly on one vector, with torch's own Hessian and examples one by one."""

    def __init__(self, model, kind, gamma):
        self.model, self.kind, self.gamma = model, kind, gamma
        self.names, self.shapes = list(dict(model.named_parameters())), [p.shape for p in model.parameters()]
        self.w, self.refused, self.indefinite = flat(model.parameters()), 0, 0

    def loss(self, w, x, y):
        parts = w.split([s.numel() for s in self.shapes])
        named = dict(zip(self.names, (p.view(s) for p, s in zip(parts, self.shapes))))
        return functional.cross_entropy(torch.func.functional_call(self.model, named, (x,)), y)

    def gradient(self, w, x, y):
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(self.loss(leaf, x, y), leaf)[0]

    def step(self, x, y):
        g = self.gradient(self.w, x, y)
        if self.kind == "fisher":
            rows = torch.stack([self.gradient(self.w, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
            a = rows.T @ rows / len(x)
        else:
            a = torch.autograd.functional.hessian(lambda w: self.loss(w, x, y), self.w, vectorize=True)
            a = a.diag().diag() if self.kind == "diagonal" else a
        for tries in range(1, 41):
            weight = g.norm() / (self.gamma + EPS)
            below = a + weight * torch.eye(len(a)).double()
            if torch.linalg.eigvalsh(below)[0] > 0:
                there = self.w - torch.linalg.solve(below, g)
                needed = self.gradient(there, x, y).square().sum() / (8 * weight)
                if self.loss(self.w, x, y) - self.loss(there, x, y) >= needed:
                    self.w, self.gamma = there, 2 * self.gamma
                    return tries
                self.refused += 1
            else:
                self.indefinite += 1
            self.gamma /= 2
        raise AssertionError("nothing was accepted")


@pytest.mark.exact("GradientRegularizedNewton")
@pytest.mark.parametrize(
    ("model", "micro", "kind"),
    [
        *(pytest.param("linear", None, kind) for kind in ("hessian", "fisher", "diagonal")),
        *(pytest.param("net", None, kind) for kind in ("hessian", "fisher")),
        pytest.param("net", None, "diagonal", marks=pytest.mark.slow),
        *(pytest.param("net", 5, kind, marks=pytest.mark.slow) for kind in ("hessian", "fisher", "diagonal")),
    ],
)
def test_newton_equals_a_plain_twin(hand, monkeypatch, kind, model, micro):
    """100 steps on mini-batches, unit vectors in blocks of 10.

    In a network, which is not convex, rounding doubles about every third step: there each step begins alike.
    """
    monkeypatch.setattr(newton, "BLOCK", 10)
    made = small if model == "net" else lambda: nn.Linear(6, 3).double()
    batch = 16 if model == "net" else 48
    run = run_of(hand, rg.GradientRegularizedNewton(kind, gamma=8.0), model=made, micro_batch=micro, batch=batch)
    twin, (x, y) = Twin(copy.deepcopy(run.model), kind, 8.0), hand.data()
    for _ in range(100):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        record = run.step()
        assert record.signals["tries"] == twin.step(x[indices].double(), y[indices])
        assert record.signals["gamma"] == run.states["optimizer"]["gamma"] == twin.gamma
        found = flat(run.model.parameters())
        torch.testing.assert_close(found, twin.w, rtol=0, atol=1e-10)
        twin.w = found if model == "net" else twin.w
    assert twin.refused > 5
    assert (twin.indefinite > 5) == (model == "net" and kind != "fisher")


# -- closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.exact("GradientRegularizedNewton")
def test_without_curvature_it_is_the_normalized_gradient_step(hand):
    """A loss that is linear in the weights: of length gamma, which doubles."""
    x, y = hand.data(16)
    model = nn.Linear(6, 1, bias=False).double()
    run = run_of(
        hand,
        rg.GradientRegularizedNewton(gamma=0.25),
        steps=3,
        model=model,
        data=(x, y),
        loss=lambda m, batch: m(batch[0])[:, 0],
    )
    g, expected = x.double().mean(0), model.weight[0].detach().clone()
    for gamma in (0.25, 0.5, 1.0):
        run.step()
        expected -= (gamma + EPS) * g / g.norm()
        torch.testing.assert_close(run.model.weight[0].detach(), expected, rtol=0, atol=1e-14)


@pytest.mark.exact("GradientRegularizedNewton")
def test_with_a_large_radius_one_step_ends_at_the_minimum_of_a_quadratic():
    work = rg.workloads.load("quadratic", double=True, examples=64)
    run = Run(work, rg.Regime(optimizer=rg.GradientRegularizedNewton(gamma=1e12), batch_size=64, budget="1 steps"), 0)
    run.step()
    torch.testing.assert_close(run.model.w.detach(), work.problem.optimum, rtol=0, atol=1e-10)


def logistic(hand):
    x, _ = hand.data(64)
    return x, (x[:, :1] + 0.7 * x[:, 1:2].sin() > 0.1).double()


@pytest.mark.exact("GradientRegularizedNewton")
def test_the_empirical_fisher_matrix_is_the_hessian_where_all_are_even(hand):
    """Logistic regression at zero: (p - y)^2 = p (1 - p) = 1/4. The next steps differ."""
    model = nn.Linear(6, 1).double()
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    runs = [
        run_of(hand, rg.GradientRegularizedNewton(kind), model=model, data=logistic(hand), loss=BCE(), batch=64)
        for kind in ("hessian", "fisher")
    ]
    distances = []
    for _ in range(2):
        [run.step() for run in runs]
        distances.append((flat(runs[0].model.parameters()) - flat(runs[1].model.parameters())).abs().max().item())
    assert distances[0] < 1e-14 < 1e-3 < distances[1]


@pytest.mark.exact("GradientRegularizedNewton")
@pytest.mark.parametrize("kind", ["hessian", "fisher", "diagonal"])
def test_every_step_that_is_taken_lowers_the_loss_by_what_was_asked(hand, kind):
    x, y = logistic(hand)
    run = run_of(hand, rg.GradientRegularizedNewton(kind), 25, lambda: nn.Linear(6, 1).double(), (x, y), BCE(), 64)

    def found():
        loss = functional.binary_cross_entropy_with_logits(run.model(x.double()), y)
        return loss.item(), flat(torch.autograd.grad(loss, list(run.model.parameters())))

    gamma = 1.0
    while not run.finished:
        loss, gradient = found()
        record = run.step()
        below, there = found()
        used = record.signals["gamma"] / 2  # what the accepted try had
        assert used == gamma * 0.5 ** (record.signals["tries"] - 1)
        assert loss - below >= there.square().sum().item() / (8 * gradient.norm().item() / (used + EPS)) * (1 - 1e-9)
        gamma = record.signals["gamma"]


def test_on_a_convex_problem_it_converges_quadratically(hand):
    """Twelve steps from the start to the last digits of a logistic regression with a penalty."""
    x, y = logistic(hand)

    def loss(model, batch):
        values = functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none")[:, 0]
        return values + 0.01 * sum(p.square().sum() for p in model.parameters())

    run = run_of(hand, rg.GradientRegularizedNewton(), 12, lambda: nn.Linear(6, 1).double(), (x, y), loss, 64)
    list(run)
    gradient = flat(torch.autograd.grad(loss(run.model, (x.double(), y)).mean(), list(run.model.parameters())))
    assert gradient.norm() < 1e-12


# -- what a try may meet --------------------------------------------------------------------------------------


class Line:
    """Evaluates a function of one number, counts its evaluations, and moves as the engine's evaluator does."""

    def __init__(self, hand, w, f):
        self.hand, self.w, self.f, self.seen, self.logged = hand, w, f, [], {}

    def __call__(self, vectors=(), final=True):
        self.seen.append((final, self.w.item()))
        w = self.w.detach().clone().requires_grad_()
        loss = self.f(w)
        if not math.isfinite(loss.item()):
            raise NonFinite("loss")
        (g,) = torch.autograd.grad(loss.sum(), w, create_graph=True)
        products = [torch.autograd.grad(g, w, v[0], retain_graph=True) for v in vectors]
        return self.hand.Given(loss.item(), (g.detach(),), {"hessian_products": products})

    def shifted(self, direction):
        def call(**options):
            kept = self.w.detach().clone()
            self.w.data.add_(direction[0])
            try:
                return self(**options)
            finally:
                self.w.data.copy_(kept)

        return call

    def log(self, name, value):
        self.logged[name] = value


def stepped(hand, f, at, gamma=1.0):
    w = nn.Parameter(torch.tensor([at], dtype=torch.float64))
    evaluate, rule = Line(hand, w, f), rg.GradientRegularizedNewton(gamma=gamma)
    return rule.step(rule.init({"w": w}), {"w": w}, evaluate), w.item(), evaluate


def test_where_the_matrix_is_not_definite_gamma_falls_and_no_old_step_is_taken(hand):
    """-w^2 at 1: g = -2, A = -2; lambda = 2 / gamma must pass 2. At 8, 4, 2 and 1 nothing is evaluated."""
    state, w, evaluate = stepped(hand, lambda w: -w.square(), 1.0, gamma=8.0)
    weight = 2 / (0.5 + EPS)
    assert w == pytest.approx(1 + 2 / (weight - 2), rel=1e-12)
    assert [final for final, _ in evaluate.seen] == [True, False]
    assert (state["gamma"], evaluate.logged) == (1.0, {"gamma": 1.0, "tries": 5})


def test_a_try_that_is_not_finite_is_refused(hand):
    """w - log w at 3: the first tries are below 0."""
    state, w, evaluate = stepped(hand, lambda w: w - w.log(), 3.0, gamma=16.0)
    tried = [at for final, at in evaluate.seen if not final]
    assert [at < 0 for at in tried[:-1]] == [True] * (len(tried) - 1)
    assert len(tried) == evaluate.logged["tries"] > 1
    assert w == tried[-1] > 0
    assert state["gamma"] == 16.0 * 0.5 ** (len(tried) - 2)


def test_where_nothing_is_accepted_the_weights_stay_and_the_search_goes_on_from_there(hand):
    """A loss that falls nowhere, whatever its gradient says."""
    state, w, evaluate = stepped(hand, lambda w: w - w.detach() + 0.0 * w.square() + 1.0, 3.0)
    assert (w, state["gamma"]) == (3.0, 2.0**-40)
    assert evaluate.logged == {"gamma": 2.0**-40, "tries": 40}
    assert len(evaluate.seen) == 41


def test_at_a_stationary_point_nothing_is_tried(hand):
    state, w, evaluate = stepped(hand, lambda w: w.square(), 0.0)
    assert (w, state["gamma"], evaluate.logged["tries"], len(evaluate.seen)) == (0.0, 1.0, 0, 1)


@pytest.mark.parametrize(("gamma", "after"), [(2.0**40, 2.0**40), (0.75 * 2.0**40, 2.0**40), (1e-12, 1e-9)])
def test_gamma_stays_where_tries_can_change_it(hand, gamma, after):
    assert stepped(hand, lambda w: w.square(), 1.0, gamma=gamma)[0]["gamma"] == after


class Wall(nn.Module):
    """Not finite beyond a wall; with a norm, whose statistics a try must not move."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.norm(x)) + torch.where(self.out.weight.abs().sum() > 6.0, torch.nan, 0.0)


def test_refused_tries_leave_running_statistics_as_the_first_evaluation_wrote_them(hand):
    run = run_of(hand, rg.GradientRegularizedNewton(gamma=1e3), steps=4, model=lambda: Wall().double(), batch=64)
    x, _ = hand.data()
    mean, refused = torch.zeros(6).double(), 0
    for _ in range(4):
        refused += run.step().signals["tries"] - 1
        mean = 0.9 * mean + 0.1 * x.double().mean(0)
        torch.testing.assert_close(run.model.norm.running_mean, mean, rtol=1e-12, atol=1e-15)
    assert refused > 3
    assert run.model.norm.num_batches_tracked == 4


def test_a_first_evaluation_that_is_not_finite_skips_the_step(hand):
    run = run_of(hand, rg.GradientRegularizedNewton(), steps=2, model=lambda: Wall().double())
    run.model.out.weight.data.fill_(1.0)
    before = flat(run.model.parameters())
    assert "skipped" in run.step().signals
    assert torch.equal(flat(run.model.parameters()), before)
    assert run.states["optimizer"] == {"gamma": 1.0}


def test_transforms_change_the_gradient_of_the_model_alone(hand):
    """Clipped to a tenth, the step is that of the clipped gradient at the same matrix."""
    plain = run_of(hand, rg.GradientRegularizedNewton(gamma=0.5), steps=1)
    clipped = run_of(hand, rg.GradientRegularizedNewton(gamma=0.5), steps=1, grad_transforms=[rg.ClipNorm(0.05)])
    twin, (x, y) = Twin(copy.deepcopy(plain.model), "hessian", 0.5), hand.data()
    indices = torch.from_numpy(clipped.frame.plans[0].indices)
    x, y = x[indices].double(), y[indices]
    g, a = twin.gradient(twin.w, x, y), torch.autograd.functional.hessian(lambda w: twin.loss(w, x, y), twin.w)
    [run.step() for run in (plain, clipped)]
    g = 0.05 * g / (g.norm() + 1e-6)
    used = clipped.states["optimizer"]["gamma"] / 2
    step = torch.linalg.solve(a + g.norm() / (used + EPS) * torch.eye(43).double(), g)
    torch.testing.assert_close(flat(clipped.model.parameters()), twin.w - step, rtol=0, atol=1e-9)
    assert not torch.allclose(flat(plain.model.parameters()), flat(clipped.model.parameters()))


def test_of_many_evaluations_one_is_final(hand, monkeypatch):
    """Five blocks of unit vectors and several tries: the gradient transforms see one gradient."""
    monkeypatch.setattr(newton, "BLOCK", 10)
    seen, finalize = [], Evaluator._finalize
    monkeypatch.setattr(Evaluator, "_finalize", lambda self, g, loss: seen.append(g) or finalize(self, g, loss))
    run = run_of(hand, rg.GradientRegularizedNewton(gamma=64.0), steps=1)
    assert run.step().signals["tries"] > 1
    assert len(seen) == 1


def test_work_is_counted(hand):
    """Each try costs a forward and backward."""
    run = run_of(hand, rg.GradientRegularizedNewton("fisher", gamma=64.0), steps=3)
    pairs = []
    while not run.finished:
        before = run.work.spent
        tries = run.step().signals["tries"]
        pairs.append((tries, run.work.spent - before))
    (one, cost), (other, more) = pairs[0], next(pair for pair in pairs if pair[0] != pairs[0][0])
    each = (cost - more) / (one - other)
    alone = run_of(hand, rg.SGD(lr=0.1), steps=1)
    alone.step()
    assert each == alone.work.spent > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda hand: rg.GradientRegularizedNewton("ggn"), "curvature: got 'ggn'"),
        (lambda hand: rg.GradientRegularizedNewton(gamma=0), "gamma: got 0"),
        (
            lambda hand: run_of(hand, rg.GradientRegularizedNewton(), model=lambda: nn.Linear(6, 600).double()),
            "for each of 4,200 parameters, or a matrix of as many squared; allowed: at most 4,096",
        ),
        (
            lambda hand: rg.Groups([rg.Group("*", rg.GradientRegularizedNewton())]),
            "allowed: GradientRegularizedNewton alone, as the optimizer",
        ),
    ],
)
def test_refusals(hand, make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        make(hand)
    assert sentence in str(why.value)
