"""MKOR against dense factors, the base rule, and a twin with hooks by hand."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.optimizers.kronecker.sherman_morrison import rank_one_inverse
from regimes.optimizers.layers import layers_of

BASE = rg.SGD(lr=0.1, momentum=0.9)


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 4, 2, stride=(1, 2), padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x.view(-1, 1, 2, 3))).mean((2, 3)))


def run_of(hand, optimizer, *, steps=12, model=None, **fields):
    regime = rg.Regime(optimizer=optimizer, batch_size=16, budget=f"{steps} steps", **fields)
    return Run(hand.workload(model or hand.net), regime, seed=5)


def weights(run):
    list(run)
    return [p.detach().clone() for p in run.parameters.values()]


def vectors(n, count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, generator=draw, dtype=torch.float64) * torch.logspace(-1, 1, n, dtype=torch.float64)


@pytest.mark.exact("MKOR")
@pytest.mark.parametrize("decay", [0.5, 0.95, 1.0])
def test_rank_one_inverse_is_that_of_the_dense_average(decay):
    dense, inverse = torch.eye(12, dtype=torch.float64), torch.eye(12, dtype=torch.float64)
    for v in vectors(12, 50):
        dense, inverse = decay * dense + (1 - decay) * v.outer(v), rank_one_inverse(inverse, v, decay)
        torch.testing.assert_close(inverse, torch.linalg.inv(dense), rtol=1e-8, atol=1e-8)
        assert torch.equal(inverse, inverse.T)


@pytest.mark.exact("MKOR")
def test_decay_one_leaves_the_inverse_bitwise():
    inverse = torch.eye(5) * 1.7
    assert torch.equal(rank_one_inverse(inverse, torch.arange(5.0), 1.0), inverse)


@pytest.mark.exact("MKOR")
@pytest.mark.parametrize(
    "base", [BASE, rg.AdamW(lr=0.02), rg.Groups([rg.Group("@vectors", BASE), rg.Group("*", BASE)])]
)
@pytest.mark.parametrize("micro", [None, 5])
def test_at_identity_it_is_the_base_rule_bitwise(hand, base, micro):
    alone = weights(run_of(hand, base, micro_batch=micro))
    around = weights(run_of(hand, rg.MKOR(base, decay=1.0, every=3), micro_batch=micro))
    assert all(torch.equal(p, q) for p, q in zip(alone, around, strict=True))


class Twin:
    """The rule, written plainly: dense factors inverted anew, hooks and autograd by hand, float64."""

    def __init__(self, model, *, decay, every, stabilize, threshold, lr, momentum, layers):
        self.model, self.layers, self.t = model, layers, 0
        self.decay, self.every, self.stabilize, self.threshold = decay, every, stabilize, threshold
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        self.inverses = {}
        for layer in layers:
            rows, columns = layer.weight.flatten(1).shape
            self.inverses[layer] = [torch.eye(n, dtype=torch.float64) for n in (rows, columns + 1)]
        self.stabilized = 0

    def step(self, x, y, rows):
        kept, handles = {}, []
        for layer in self.layers:

            def after(module, args, out):
                kept[module] = (args[0].detach(), out)
                out.retain_grad()

            handles.append(layer.register_forward_hook(after))
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        [handle.remove() for handle in handles]
        for layer in self.layers:
            if self.t % self.every == 0:
                given, out = kept[layer]
                a, g = rows(layer, given, out.grad * len(x))
                bias = torch.ones(1, dtype=a.dtype)
                self.inverses[layer] = [
                    self._moved(m, v) for m, v in zip(self.inverses[layer], (g.mean(0), torch.cat([a.mean(0), bias])))
                ]
            whole = torch.cat([layer.weight.grad.flatten(1), layer.bias.grad[:, None]], 1)
            left, right = self.inverses[layer]
            made = left @ whole @ right
            made *= whole.norm() / made.norm()
            layer.weight.grad.copy_(made[:, :-1].reshape(layer.weight.shape))
            layer.bias.grad.copy_(made[:, -1])
        self.t += 1
        self.optimizer.step()

    def _moved(self, inverse, vector):
        if inverse.abs().max() > self.threshold:
            self.stabilized += 1
            inverse = (1 - self.stabilize) * inverse + self.stabilize * torch.eye(len(inverse), dtype=inverse.dtype)
        return torch.linalg.inv(self.decay * torch.linalg.inv(inverse) + (1 - self.decay) * vector.outer(vector))


def plain_rows(layer, given, g):
    """Inputs and output gradients of a linear layer, or of a convolution cut into patches by hand."""
    if isinstance(layer, nn.Linear):
        return given, g
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    padded = nn.functional.pad(given, (1, 1, 1, 1))
    patches = [
        padded[:, :, i * down : i * down + high, j * right : j * right + wide].flatten(1)
        for i in range(g.shape[2])
        for j in range(g.shape[3])
    ]
    return torch.cat(patches), g.permute(2, 3, 0, 1).reshape(-1, g.shape[1])


@pytest.mark.exact("MKOR")
@pytest.mark.parametrize(("model", "micro"), [("net", None), ("net", 4), ("conv", None)])
def test_a_twin_by_hand_makes_the_same_steps(hand, model, micro):
    """30 steps; in float64 on both sides, so that only the way of inverting differs."""
    settings = {"decay": 0.7, "every": 3, "stabilize": 0.4, "threshold": 1.5}
    made = (lambda: hand.net().double()) if model == "net" else (lambda: Conv().double())
    x, y = hand.data()
    x = x.double()
    work = rg.Workload(model=made, train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss())
    regime = rg.Regime(optimizer=rg.MKOR(BASE, **settings), batch_size=16, budget="30 steps", micro_batch=micro)
    run = Run(work, regime, seed=5)
    copied = copy.deepcopy(run.model)
    layers = [m for m in copied.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    twin = Twin(copied, lr=0.1, momentum=0.9, layers=layers, **settings)
    names = [layer.weight for layer in layers_of(run.model)]
    while not run.finished:
        indices = torch.from_numpy(run.frame.plans[0].indices)
        run.step()
        twin.step(x[indices], y[indices], plain_rows)
        for p, q in zip(run.model.parameters(), copied.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
        for name, layer in zip(names, layers, strict=True):
            for ours, theirs in zip(run.states["optimizer"]["slots"][name].values(), twin.inverses[layer], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    assert twin.stabilized > 0


class Handed(rg.SGD):
    """Keeps the gradients that it was handed."""

    def step(self, state, parameters, evaluate):
        self.seen.append(dict(zip(parameters, (g.clone() for g in evaluate().gradients))))
        return super().step(state, parameters, evaluate)


@pytest.mark.exact("MKOR")
def test_directions_have_the_gradients_norm_and_inverses_stay_positive_definite(hand):
    Handed.seen = []
    run = run_of(hand, rg.MKOR(Handed(lr=0.1), every=1, decay=0.8), steps=40, model=Conv)
    (x, y), changed = hand.data(), 0
    while not run.finished:
        twin, indices = copy.deepcopy(run.model), torch.from_numpy(run.frame.plans[0].indices)
        nn.functional.cross_entropy(twin(x[indices]), y[indices]).backward()
        run.step()
        for layer in ("conv", "out"):
            names = [f"{layer}.weight", f"{layer}.bias"]
            before = torch.cat([twin.get_parameter(name).grad.flatten() for name in names])
            after = torch.cat([Handed.seen[-1][name].flatten() for name in names])
            torch.testing.assert_close(after.norm(), before.norm(), rtol=1e-5, atol=0)
            changed += not torch.allclose(after, before, rtol=1e-2)
        for slot in run.states["optimizer"]["slots"].values():
            for inverse in slot.values():
                assert torch.equal(inverse, inverse.T)
                assert torch.linalg.eigvalsh(inverse)[0] > 0
    assert changed > 60


def test_what_belongs_to_no_layer_and_what_is_skipped_keeps_its_gradient(hand):
    Handed.seen = []
    model = lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))  # noqa: E731
    run = run_of(hand, rg.MKOR(Handed(lr=0.1), skip=["2.*"]), steps=1, model=model)
    twin, (x, y), indices = copy.deepcopy(run.model), hand.data(), torch.from_numpy(run.frame.plans[0].indices)
    nn.functional.cross_entropy(twin(x[indices]), y[indices]).backward()
    run.step()
    same = {
        name
        for name, p in twin.named_parameters()
        if torch.allclose(p.grad, Handed.seen[0][name], rtol=1e-5, atol=1e-7)
    }
    assert same == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert set(run.states["optimizer"]["slots"]) == {"0.weight"}


class Half(nn.Module):
    """A layer that the loss does not reach."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.used(x) + 0.0 * self.unused(x)


def test_a_gradient_of_zero_stays_one(hand):
    """Nothing has no direction: 0 / 0 would reach the weights."""
    run = run_of(hand, rg.MKOR(BASE, every=1), model=Half)
    was = run.model.unused.weight.detach().clone()
    assert all(bool(p.isfinite().all()) for p in weights(run))
    assert torch.equal(run.model.unused.weight, was)


def test_a_frozen_bias_is_no_column(hand):
    run = run_of(hand, rg.MKOR(BASE), steps=2, trainable=["*.weight"])
    list(run)
    assert run.states["optimizer"]["slots"]["0.weight"]["right_inverse"].shape == (6, 6)


@pytest.mark.parametrize(("losses", "switched"), [((5, 4, 3.2, 2.5), None), ((5, 4, 3.9, 3.8), 3), ((5, 4, 3, 3.5), 4)])
def test_hybrid_leaves_for_good_when_the_loss_falls_by_too_small_a_share(losses, switched):
    """Means of windows of two steps: falls of 1, then 0.7 of it, 0.1 of it, or a rise; at 0.2 of it the rule leaves."""
    rule = rg.MKOR(BASE, hybrid=0.2, window=2)
    state = {"base": BASE.init({}), "switched": False, "slots": {"w": {}}}
    state["watch"] = {"sum": 0.0, "count": 0, "last": None, "fastest": None}
    left = []
    for mean in (*losses, 0.0):
        for loss in (mean - 0.5, mean + 0.5):
            state = rule.observe(state, {"loss": loss}, None)
        left.append(state["switched"])
    number = len(left) + 1 if switched is None else switched
    assert left == [False] * (number - 1) + [True] * (len(left) + 1 - number)


def test_after_leaving_the_base_rule_goes_on_with_its_own_state(hand):
    """From the step on in which it leaves, a twin with the base rule alone and its state makes the same bits."""
    run = run_of(hand, rg.MKOR(BASE, hybrid=0.99, window=2, every=1), steps=20)
    while not run.states["optimizer"]["switched"]:
        run.step()
    assert run.frame.step < 12
    assert run.states["optimizer"]["slots"] == {}
    twin = run_of(hand, BASE, steps=20)
    while twin.frame.step < run.frame.step:
        twin.step()
    with torch.no_grad():
        [p.copy_(q) for p, q in zip(twin.trained, run.trained, strict=True)]
    for name, slot in run.states["optimizer"]["base"]["slots"].items():
        twin.states["optimizer"]["slots"][name] = {k: copy.deepcopy(v) for k, v in slot.items()}
    assert all(torch.equal(p, q) for p, q in zip(weights(run), weights(twin), strict=True))


def test_layers_of_a_model():
    class Own(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    tied = nn.Linear(3, 5, bias=False)
    embedding = nn.Embedding(5, 3)
    tied.weight = embedding.weight
    model = nn.Sequential(
        nn.Linear(3, 3), Own(3, 3), embedding, tied, nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(2, 4, 3, padding="same"), nn.Conv2d(2, 4, 3, bias=False), nn.LayerNorm(3),
    )  # fmt: skip
    assert [(layer.module, layer.bias) for layer in layers_of(model)] == [("0", "0.bias"), ("7", None)]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rg.MKOR(rg.SAM(BASE)), "cannot stand inside MKOR; write SAM(MKOR(...))"),
        (lambda: rg.MKOR(rg.MeZO()), "cannot stand inside MKOR; allowed: MeZO alone, as the optimizer"),
        (lambda: rg.Groups([rg.Group("*", rg.MeZO())]), "inside Groups; allowed: MeZO alone, as the optimizer"),
        (lambda: rg.Groups([rg.Group("*", rg.MKOR(BASE))]), "write MKOR(Groups(...))"),
        (lambda: rg.MKOR(BASE, skip=["1.*"]), "skip.0: got '1.*', which matches no layer's weight"),
        (lambda: rg.MKOR(BASE, skip=["*"]), "none is trained here"),
    ],
)
def test_refusals(hand, make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        run_of(hand, make(), steps=1)
    assert sentence in str(why.value)
