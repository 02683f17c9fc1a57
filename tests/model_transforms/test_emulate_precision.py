"""Products of rounded factors, forward and backward, against the same written out; what is covered; regions."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import regimes as rg
from regimes.engine.run import Run
from regimes.model_transforms.float_format import FORMATS
from regimes.testing.conformance import tiny
from regimes.workloads.models import SmallCNN, TinyGPT

E4M3, E5M2 = FORMATS["e4m3"], FORMATS["e5m2"]
FULL = rg.FloatFormat(8, 23)


def r(x):
    return E4M3.round(x)


def g(x):
    return E5M2.round(x)


def inside(function, *tensors, transform=None):
    """A function in the forward of a module that is emulated."""

    class Calls(nn.Module):
        def forward(self, *args):
            return function(*args)

    transform = rg.EmulatePrecision("e4m3") if transform is None else transform
    return transform.structure(Calls())(*tensors)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.exact("EmulatePrecision")
@pytest.mark.parametrize("gradient", [None, "e5m2"])
def test_a_linear_layer_forward_and_backward(gradient):
    """Y = R(X) R(W)^T + b; dX = G(dY) R(W), dW = G(dY)^T R(X), with the weights as they were."""
    x, dy = drawn(5, 4).requires_grad_(), drawn(5, 3, seed=1) * 1e-2
    net = nn.Linear(4, 3).double()
    weight = net.weight.detach().clone()
    rg.EmulatePrecision("e4m3", gradient).structure(net)
    y = net(x)
    assert torch.equal(y, F.linear(r(x), r(weight), net.bias))
    dx, dw, db = torch.autograd.grad(y, [x, net.weight, net.bias], dy)
    back = dy if gradient is None else g(dy)
    assert torch.equal(dx, back @ r(weight))
    assert torch.equal(dw, back.mT @ r(x))
    torch.testing.assert_close(db, back.sum(0), rtol=1e-15, atol=0)
    assert torch.equal(net.weight, weight)


PRODUCTS = {
    "@": (lambda a, b: a @ b, (3, 4), (4, 2)),
    "torch.matmul": (torch.matmul, (2, 3, 4), (2, 4, 2)),
    "Tensor.matmul": (lambda a, b: a.matmul(b), (3, 4), (4, 2)),
    "by name": (lambda a, b: torch.matmul(input=a, other=b), (3, 4), (4, 2)),
    "mm": (torch.mm, (3, 4), (4, 2)),
    "Tensor.mm": (lambda a, b: a.mm(b), (3, 4), (4, 2)),
    "mv": (torch.mv, (3, 4), (4,)),
    "bmm": (torch.bmm, (2, 3, 4), (2, 4, 2)),
    "Tensor.bmm": (lambda a, b: a.bmm(b), (2, 3, 4), (2, 4, 2)),
    "einsum": (lambda a, b: torch.einsum("ij,jk->ik", a, b), (3, 4), (4, 2)),
    "einsum of a list": (lambda a, b: torch.einsum("ij,jk->ik", [a, b]), (3, 4), (4, 2)),
    "linear": (F.linear, (3, 4), (2, 4)),
    "conv1d": (F.conv1d, (2, 3, 9), (4, 3, 3)),
    "conv2d": (lambda a, b: F.conv2d(a, b, stride=2), (2, 3, 9, 9), (4, 3, 3, 3)),
    "conv3d": (F.conv3d, (2, 3, 5, 5, 5), (4, 3, 3, 3, 3)),
    "conv_transpose2d": (F.conv_transpose2d, (2, 3, 5, 5), (3, 4, 3, 3)),
}


@pytest.mark.exact("EmulatePrecision")
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_is_one_of_rounded_factors(name):
    function, *shapes = PRODUCTS[name]
    a, b = (drawn(*shape, seed=place) for place, shape in enumerate(shapes))
    found = inside(function, a, b)
    assert torch.equal(found, function(r(a), r(b)))
    assert not torch.equal(found, function(a, b))


@pytest.mark.exact("EmulatePrecision")
@pytest.mark.parametrize("function", [torch.addmm, torch.baddbmm])
def test_what_is_added_to_a_product_is_not_rounded(function):
    lead = () if function is torch.addmm else (2,)
    c, a, b = (drawn(*lead, *shape, seed=place) for place, shape in enumerate([(3, 2), (3, 4), (4, 2)]))
    assert torch.equal(inside(function, c, a, b), function(c, r(a), r(b)))


def plain_attention(q, k, v, mask):
    scores = r(q) @ r(k).mT * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return r(scores.softmax(-1)) @ r(v)


@pytest.mark.exact("EmulatePrecision")
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "bias"])
def test_both_products_of_attention(kind):
    q, k, v = (drawn(2, 3, 5, 4, seed=place) for place in range(3))
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    mask = {"none": None, "causal": None, "boolean": causal, "bias": drawn(5, 5, seed=9)}[kind]
    found = inside(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=kind == "causal"), q, k, v
    )
    torch.testing.assert_close(
        found, plain_attention(q, k, v, causal if kind == "causal" else mask), rtol=1e-14, atol=0
    )


@pytest.mark.exact("EmulatePrecision")
def test_attention_with_fewer_heads_of_keys_a_scale_and_dropout():
    q, k, v = drawn(2, 4, 5, 3), drawn(2, 2, 5, 3, seed=1), drawn(2, 2, 5, 3, seed=2)
    full = rg.EmulatePrecision(FULL)
    named = {"scale": 0.7, "enable_gqa": True}
    found = inside(
        lambda *qkv: F.scaled_dot_product_attention(*qkv, **named), *(t.float() for t in (q, k, v)), transform=full
    )
    wanted = F.scaled_dot_product_attention(q, k, v, **named)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.manual_seed(0)
    kept = inside(
        lambda *qkv: F.scaled_dot_product_attention(*qkv, dropout_p=0.5), q, q, torch.eye(5).double().expand(2, 4, 5, 5)
    )
    assert 0.2 < (kept == 0).double().mean().item() < 0.8


@pytest.mark.exact("EmulatePrecision")
@pytest.mark.parametrize("weights", [False, True])
def test_torchs_own_attention_is_looked_into(weights):
    """nn.MultiheadAttention, by its fused path and by the one that returns weights: four products, all rounded."""
    torch.manual_seed(0)
    net = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double()
    x = drawn(3, 5, 8)
    parts = F.linear(r(x), r(net.in_proj_weight)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    if weights:  # torch scales the queries before the product here
        q, k, v = parts
        mixed = r((r(q * 4**-0.5) @ r(k).mT).softmax(-1)) @ r(v)
    else:
        mixed = plain_attention(*parts, None)
    wanted = F.linear(r(mixed.transpose(1, 2).flatten(2)), r(net.out_proj.weight))
    found, _ = rg.EmulatePrecision("e4m3").structure(net)(x, x, x, need_weights=weights)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.exact("EmulatePrecision")
def test_full_precision_is_the_model_itself():
    """To the bit where attention is not taken apart, to rounding where it is; gradients too."""
    x, y = torch.randn(4, 1, 8, 8), torch.randint(0, 10, (4,))
    torch.manual_seed(0)
    plain = SmallCNN()
    full = rg.EmulatePrecision(FULL, FULL).structure(copy.deepcopy(plain))
    for model in (plain, full):
        F.cross_entropy(model(x), y).backward()
    for p, q in zip(plain.parameters(), full.parameters()):
        assert torch.equal(p.grad, q.grad)
    tokens = torch.randint(0, 256, (2, 16))
    gpt = TinyGPT(width=16)
    wanted = gpt(tokens)
    torch.testing.assert_close(rg.EmulatePrecision(FULL).structure(gpt)(tokens), wanted, rtol=1e-5, atol=1e-6)


def test_only_what_matches_is_rounded_and_outside_nothing_is():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    x = drawn(3, 4)
    rg.EmulatePrecision("e4m3", patterns="1").structure(net)
    inner = F.linear(x, net[0].weight, net[0].bias)
    assert torch.equal(net(x), F.linear(r(inner), r(net[1].weight), net[1].bias))
    assert type(net[0]) is nn.Linear
    assert isinstance(net[1], nn.Linear)
    assert net[1].weight.grad_fn is None


def test_a_later_one_takes_the_place_of_an_earlier_one():
    net = nn.Sequential(nn.Linear(4, 4, bias=False)).double()
    x, weight = drawn(3, 4), net[0].weight
    rg.EmulatePrecision("e4m3", patterns="0").structure(net)
    rg.EmulatePrecision("bfloat16").structure(net)
    rounded = FORMATS["bfloat16"].round
    assert torch.equal(net(x), rounded(x) @ rounded(weight).mT)
    assert type(net[0]) is nn.Linear


def test_a_copy_and_a_model_built_again_are_of_the_same_class():
    first, again = (rg.EmulatePrecision("e4m3").structure(nn.Linear(2, 2)) for _ in range(2))
    assert type(first) is type(again) is type(copy.deepcopy(first))
    assert isinstance(first, nn.Linear)
    assert list(first.state_dict()) == ["weight", "bias"]


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(rg.DeclarationError, match="matches no module"):
        rg.EmulatePrecision("e4m3", patterns="head").structure(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("format_", ["e4m3", rg.FloatFormat(8, 2, rounding="stochastic")])
def test_gradients_of_examples_and_stacked_copies_see_the_same_numbers(format_):
    """vmap over stacked weights gives what each model gives; only chance, which vmap refuses, stays alone."""
    models = [rg.EmulatePrecision(format_).structure(nn.Linear(4, 3).double()) for _ in range(3)]
    stacked = {
        name: torch.stack([dict(m.named_parameters())[name].detach() for m in models]) for name in ("weight", "bias")
    }
    x = drawn(3, 5, 4)

    def call(parameters, x):
        return torch.func.functional_call(models[0], parameters, (x,))

    if format_ != "e4m3":
        with pytest.raises(RuntimeError, match="random"):
            torch.func.vmap(call)(stacked, x)
        return
    torch.testing.assert_close(
        torch.func.vmap(call)(stacked, x), torch.stack([m(one) for m, one in zip(models, x)]), rtol=1e-14, atol=1e-15
    )


def test_chance_is_addressed_by_the_step():
    """Two runs draw the same, also backward; a run of another seed does not."""
    drawn = rg.FloatFormat(8, 1, rounding="stochastic")
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.1), batch_size=6, budget="4 steps", on_entry=[rg.EmulatePrecision(drawn, drawn)]
    )

    def weights(seed):
        run = Run(tiny.workload("tokens"), regime, seed=seed)
        while not run.finished:
            run.step()
        return torch.cat([p.detach().flatten() for p in run.model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.exact("EmulatePrecision")
def test_a_run_in_few_bits_is_the_loop_in_few_bits():
    """Three steps of SGD by hand, with the layer's formula written out."""
    x, y = drawn(24, 6, dtype=torch.float32), (drawn(24, seed=1) > 0).long()
    work = rg.Workload(model=lambda: nn.Linear(6, 2), train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss())
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.5), batch_size=24, budget="3 steps", sampler=rg.Sequential(),
        on_entry=[rg.EmulatePrecision("e4m3", "e5m2")],
    )  # fmt: skip
    run = Run(work, regime, seed=0)
    w, b = (p.detach().clone() for p in run.model.parameters())
    for _ in range(3):
        run.step()
        logits = F.linear(r(x), r(w), b)
        slope = g(logits.softmax(-1) - F.one_hot(y, 2)) / 24  # losses are added, and divided after the backward
        w, b = w - 0.5 * slope.mT @ r(x), b - 0.5 * slope.sum(0)
    for p, wanted in zip(run.model.parameters(), (w, b)):
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.exact("EmulatePrecision")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", ["e4m3", "e5m2", "bfloat16", rg.FloatFormat(8, 2, rounding="stochastic")])
def test_a_batched_backward_gives_each_examples_gradient(gradient, dtype):
    """As gradients of examples are made: one backward for all of them, each rounded as if it came alone."""
    torch.manual_seed(0)
    net = rg.EmulatePrecision("e4m3", gradient).structure(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
    losses = net.to(dtype)(drawn(5, 4, dtype=dtype)).square().sum(1) * 1e-3
    together = torch.autograd.grad(
        losses, list(net.parameters()), torch.eye(5, dtype=dtype), is_grads_batched=True, retain_graph=True
    )
    for place in range(5):
        alone = torch.autograd.grad(losses[place], list(net.parameters()), retain_graph=True)
        for rows, wanted in zip(together, alone):
            torch.testing.assert_close(rows[place], wanted, rtol=1e-6, atol=1e-9)
