"""Quantization: reduction to rounding, the optimal-brain-surgeon closed form, and layers in sequence."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms.quantize import gptq, gptq_from_hessian, hessian, round_to_nearest


def given(rows=6, columns=40, n=200, seed=0):
    """Weights, and inputs that are correlated: a few directions and a little noise."""
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    X = torch.randn(n, 5, generator=draw, dtype=torch.float64) @ torch.randn(5, columns, generator=draw).double()
    return W, X + 0.3 * torch.randn(n, columns, generator=draw, dtype=torch.float64)


def rounded_by_hand(row, bits):
    """The nearest of the listed values of one row's grid."""
    low, high = min(0.0, row.min().item()), max(0.0, row.max().item())
    step = (high - low) / (2**bits - 1)
    values = torch.tensor([step * (k - round(-low / step)) for k in range(2**bits)], dtype=row.dtype)
    return values[(row[:, None] - values).abs().argmin(1)]


@pytest.mark.exact("RoundToNearest")
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("group", [None, 7])
def test_rounding_takes_the_nearest_of_the_grids_values(bits, group):
    W, _ = given()
    parts = W.split(group or 40, dim=1)
    expected = torch.cat([torch.stack([rounded_by_hand(row, bits) for row in part]) for part in parts], 1)
    torch.testing.assert_close(round_to_nearest(W, bits, group), expected, rtol=0, atol=1e-12)


@pytest.mark.exact("RoundToNearest")
def test_rounding_keeps_zero_and_rows_of_zeros():
    W = torch.tensor([[0.0, 0.0], [0.0, 5.0], [-5.0, -4.9]])
    assert torch.equal(round_to_nearest(W, 2), torch.tensor([[0.0, 0.0], [0.0, 5.0], [-5.0, -5.0]]))


@pytest.mark.exact("GPTQ")
@pytest.mark.parametrize("group", [None, 7])
@pytest.mark.parametrize("order", [False, True])
def test_uncorrelated_inputs_give_rounding_to_nearest(group, order):
    """H diagonal: no column can make good another's error. By order, groups are of other columns."""
    W, _ = given()
    X = torch.diag(torch.linspace(0.1, 3.0, 40, dtype=torch.float64))
    q = gptq(W, X, 3, group=group, order=order, block=16)
    taken = torch.arange(39, -1, -1) if order else torch.arange(40)
    assert torch.equal(q[:, taken], round_to_nearest(W[:, taken], 3, group))


@pytest.mark.exact("GPTQ")
@pytest.mark.parametrize("group", [None, 10, 24])
@pytest.mark.parametrize("order", [False, True])
def test_block_size_changes_nothing(group, order):
    W, X = given(columns=150, n=400)
    one, *others = (gptq(W, X, 3, group=group, order=order, block=block) for block in (1, 16, 128, 150))
    for other in others:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.exact("GPTQ")
@pytest.mark.parametrize("order", [False, True])
def test_every_step_is_the_optimal_brain_surgeons(order):
    """Quantize column 0 of what is left, move the rest by -(w_0 - q_0) / [H^-1]_00 [H^-1]_0:, drop it, invert anew."""
    W, X = given(columns=12)
    H = hessian(X)
    H += 0.01 * H.diagonal().mean() * torch.eye(12, dtype=H.dtype)
    taken = H.diagonal().argsort(descending=True) if order else torch.arange(12)
    w, q = W[:, taken].clone(), torch.empty_like(W)
    low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
    step = (high - low) / 7
    for j in range(12):
        left = taken[j:]
        inverse = torch.linalg.inv(H[left][:, left])
        q[:, taken[j]] = step * (((w[:, j] / step).round() + (-low / step).round()).clamp(0, 7) - (-low / step).round())
        w[:, j:] -= ((w[:, j] - q[:, taken[j]]) / inverse[0, 0]).outer(inverse[0])
        torch.testing.assert_close(w[:, j], q[:, taken[j]])
    assert not torch.allclose(q, round_to_nearest(W, 3))
    torch.testing.assert_close(gptq(W, X, 3, order=order), q, rtol=1e-9, atol=1e-9)


@pytest.mark.exact("GPTQ")
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("order", [False, True])
def test_the_layers_output_errs_less_than_by_rounding(bits, order):
    for seed in range(5):
        W, X = given(seed=seed)
        error, nearest = (
            ((W - Q) @ X.T).square().sum() for Q in (gptq(W, X, bits, order=order), round_to_nearest(W, bits))
        )
        assert error < 0.7 * nearest


def test_columns_that_no_input_reaches_become_zero_and_disturb_nothing():
    W, X = given(columns=12)
    X[:, [3, 7]] = 0.0
    kept = [j for j in range(12) if j not in (3, 7)]
    W[:, [3, 7]] *= 0.1  # so that they do not decide the grid
    H = hessian(X)
    before = H.clone()
    q = gptq_from_hessian(W, H, 3, damp=0.0)
    assert q[:, [3, 7]].abs().max() == 0
    torch.testing.assert_close(q[:, kept], gptq(W[:, kept], X[:, kept], 3, damp=0.0), rtol=1e-9, atol=1e-9)
    assert torch.equal(H, before)


# -- as transforms -----------------------------------------------------------------------------------------


class Net(nn.Module):
    """Declared in another order than called; one layer idle; dropout and a norm that must not notice."""

    def __init__(self):
        super().__init__()
        self.last, self.idle = nn.Linear(8, 3), nn.Linear(4, 4)
        self.first, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x):
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


def data(n=150):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=draw) @ torch.randn(2, 6, generator=draw) + 0.2 * torch.randn(n, 6, generator=draw)
    return x, torch.randint(0, 3, (n,), generator=draw)


def trained():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.norm.running_mean += 0.3
    return model.train()


def batches(sizes=(64, 64)):
    return iter([tuple(part[sum(sizes[:i]) : sum(sizes[: i + 1])] for part in data()) for i in range(len(sizes))])


def test_layers_are_quantized_in_the_order_of_calls_with_the_inputs_of_quantized_predecessors():
    model, rule = trained(), rg.GPTQ("*.weight", bits=2, examples=100)
    before = copy.deepcopy(model)
    result = rule.fill(model, before, batches(), Streams(0))
    x = data()[0][:100]
    with torch.no_grad():
        first = gptq(before.first.weight, x, 2)
        hidden = torch.relu(before.eval().norm(nn.functional.linear(x, first, before.first.bias)))
        last = gptq(before.last.weight, hidden, 2)
        unquantized = gptq(before.last.weight, torch.relu(before.norm(before.first(x))), 2)
    torch.testing.assert_close(model.first.weight.detach(), first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.last.weight.detach(), last, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(last, unquantized, atol=1e-3)
    assert torch.equal(model.idle.weight, round_to_nearest(before.idle.weight.detach(), 2))
    assert result.names == {name: name for name, _ in model.named_parameters()}


def test_everything_else_of_the_model_is_as_it_was():
    model = trained()
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    rg.GPTQ("first.*", bits=3).fill(model, before, batches(), Streams(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == {"first.weight"}


@pytest.mark.parametrize("rule", [rg.RoundToNearest("*", bits=2), rg.GPTQ("*", bits=2)])
def test_kernels_are_quantized_as_matrices_of_their_patches(rule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2, padding=1), nn.Flatten(), nn.Linear(27, 2))
    before, x = copy.deepcopy(model), torch.randn(40, 2, 2, 2)
    rule.fill(model, before, iter([(x, x)]), Streams(0))
    padded, W = nn.functional.pad(x, (1, 1, 1, 1)), before[0].weight.detach().flatten(1)
    patches = torch.cat([padded[:, :, i : i + 2, j : j + 2].flatten(1) for i in range(3) for j in range(3)])
    expected = gptq(W, patches, 2) if isinstance(rule, rg.GPTQ) else round_to_nearest(W, 2)
    torch.testing.assert_close(model[0].weight.detach().flatten(1), expected, rtol=1e-5, atol=1e-6)


class Gated(nn.Module):
    """Between two layers one that only rows above 100 reach."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.gated = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        reached, x = x[:, 0] > 100, self.first(x)
        if reached.any():
            x = x.index_put((reached,), self.gated(x[reached]))
        return self.last(x)


@pytest.mark.exact("GPTQ")
def test_a_layer_that_only_a_later_batch_calls_is_quantized_where_that_batch_calls_it():
    torch.manual_seed(0)
    model, x = Gated(), data()[0][:128]
    x[64:, 0] = 1000.0
    before = copy.deepcopy(model)
    rg.GPTQ("*.weight", bits=3).fill(model, before, iter([(x[:64], x[:64]), (x[64:], x[64:])]), Streams(0))
    with torch.no_grad():
        hidden = nn.functional.linear(x, model.first.weight, model.first.bias)
        gated = gptq(before.gated.weight, hidden[64:], 3)
        after = torch.cat([hidden[:64], nn.functional.linear(hidden[64:], gated, before.gated.bias)])
        last = gptq(before.last.weight, after, 3)
    torch.testing.assert_close(model.gated.weight.detach(), gated, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.last.weight.detach(), last, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(gated, round_to_nearest(before.gated.weight.detach(), 3), atol=1e-3)


@pytest.mark.exact("GPTQ")
def test_an_expert_that_no_calibration_input_reaches_is_rounded_to_the_nearest():
    """The layer of experts calls each, that one with no rows: that is no reason to set it to 0."""
    torch.manual_seed(0)
    dense = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))})
    model = rg.Upcycle("mlp", experts=3).structure(dense).mlp
    with torch.no_grad():
        model.router.weight.zero_()
        model.router.weight[:, 0] = torch.tensor([1.0, 1.0, -1.0])
    before, x = copy.deepcopy(model), data()[0]
    x[:, 0] = 5.0
    with pytest.warns(UserWarning, match=r"rounded experts\.2\.0\.weight, experts\.2\.2\.weight to the nearest"):
        rg.GPTQ("experts.*.weight", bits=3).fill(model, before, iter([(x, x)]), Streams(0))
    for layer in (0, 2):
        was = before.experts[2][layer].weight.detach()
        assert torch.equal(model.experts[2][layer].weight, round_to_nearest(was, 3))
        assert not torch.equal(model.experts[0][layer].weight, round_to_nearest(was, 3))


@pytest.mark.exact("GPTQ")
def test_inputs_of_zeros_alone_say_nothing():
    model = nn.Linear(6, 3)
    was = model.weight.detach().clone()
    rg.GPTQ("weight", bits=3).fill(model, model, iter([(torch.zeros(9, 6), torch.zeros(9))]), Streams(0))
    assert torch.equal(model.weight, round_to_nearest(was, 3))


class Tied(nn.Module):
    """An embedding whose weights are the head's, and attention, which reads its weights without a call of their layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.head.weight = self.embed.weight
        self.mixed, self.own = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(self.own(self.mixed(x, x, x)[0]))


@pytest.mark.parametrize("name", ["GPTQ", "RoundToNearest"])
def test_what_is_matched_and_stays_or_is_only_rounded_is_named(name):
    torch.manual_seed(0)
    model, tokens = Tied(), torch.randint(0, 9, (6, 4))
    before = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="as they are|to the nearest") as said:
        getattr(rg, name)("*", bits=3).fill(model, before, iter([(tokens, tokens)]), Streams(0))
    sentences = sorted(str(one.message) for one in said)
    assert sentences[-1].startswith(f"{name} leaves embed.weight, mixed.in_proj_weight as they are")
    assert torch.equal(model.embed.weight, before.embed.weight)
    assert torch.equal(model.mixed.in_proj_weight, before.mixed.in_proj_weight)
    if name == "GPTQ":
        assert sentences[0].startswith("GPTQ has rounded mixed.out_proj.weight to the nearest: no calibration example")
        was = before.mixed.out_proj.weight.detach()
        assert torch.equal(model.mixed.out_proj.weight, round_to_nearest(was, 3))
    assert len(said) == (2 if name == "GPTQ" else 1)


@pytest.mark.exact("GPTQ")
def test_without_calibration_it_is_rounding_to_nearest():
    one, other = trained(), trained()
    rg.GPTQ("*.weight", bits=3, group=4).fill(one, one, iter(()), Streams(0))
    rg.RoundToNearest("*.weight", bits=3, group=4).fill(other, other, iter(()), Streams(0))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["GPTQ", "RoundToNearest"])
def test_in_a_run_the_weights_lie_on_the_grid_after_a_step_at_rate_zero(name):
    rule = getattr(rg, name)("*.weight", bits=2)
    x, y = data()
    work = rg.Workload(model=Net, train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss())
    phases = [
        rg.Phase("train", budget="4 steps", optimizer=rg.SGD(lr=0.1)),
        rg.Phase("quantized", budget="1 steps", optimizer=rg.SGD(lr=0.0), on_entry=[rule]),
    ]
    run = Run(work, rg.Regime(phases=phases, batch_size=16), seed=0)
    list(run)
    rows = [row for module in (run.model.first, run.model.last, run.model.idle) for row in module.weight]
    assert max(len(row.unique()) for row in rows) <= 4


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rg.GPTQ([]), "patterns: got no pattern"),
        (lambda: rg.GPTQ("frist.*"), "got 'frist.*', which matches no parameter; did you mean 'first.*'?"),
        (lambda: rg.RoundToNearest("norm.*"), "allowed here: last.weight, idle.weight, first.weight"),
        (lambda: rg.GPTQ("*", bits=0), "bits: got 0"),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        make().structure(Net())
    assert sentence in str(why.value)
