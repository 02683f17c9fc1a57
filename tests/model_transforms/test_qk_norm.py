"""Normalized queries and keys: as a transform and as an argument of the model, against attention written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import regimes as rg
from regimes.engine.run import Run
from regimes.testing.conformance import tiny
from regimes.workloads.models import TinyGPT
from regimes.workloads.transformer import Attention, Block

EPS = 1e-6


def norm(x, gain):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * gain


def shaken(model, seed=0):
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p)
    return model.double()


def by_hand(module, x):
    """Attention without positions."""
    batch, length, width = x.shape
    q, k, v = F.linear(x, module.qkv.weight).view(batch, length, 3, module.heads, -1).permute(2, 0, 3, 1, 4)
    q, k = norm(q, module.q_norm.weight), norm(k, module.k_norm.weight)
    mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return F.linear(mixed.transpose(1, 2).reshape(batch, length, width), module.out.weight)


@pytest.mark.exact("QKNorm")
@pytest.mark.parametrize("own", [True, False])
def test_attention_with_norms_is_attention_with_norms_written_out(own):
    """By the model's argument, and by the transform; there are no positions, so that both are the same."""
    module = Attention(8, 2, qk_norm=own)
    if not own:
        rg.QKNorm("0", head_size=4).structure(nn.Sequential(module))
    shaken(module)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x, None, False), by_hand(module, x), rtol=1e-12, atol=1e-12)


@pytest.mark.exact("QKNorm")
def test_with_gains_of_one_no_logit_is_larger_than_the_root_of_the_head_size():
    """However large the weights; the bound is nearly reached where queries equal keys."""
    model = TinyGPT(width=16, heads=2, context=8, qk_norm=True).double()
    tokens = torch.randint(0, 256, (4, 8))
    for scale in (1.0, 1e3):
        with torch.no_grad():
            for block in model.blocks:
                qkv = block.attention.qkv.weight
                qkv[:16] = qkv[16:32] = scale * torch.randn(16, 16, dtype=torch.float64)
        found = rg.AttentionLogits()(model, lambda m, x: m(x).mean(), tokens)
        assert found[""] <= 8**0.5 * (1 + 1e-6)  # cosines and sines are float32
        assert found[""] == pytest.approx(
            8**0.5, rel=1e-5
        )  # a position's query with its own key: the same after turning


@pytest.mark.exact("QKNorm")
def test_the_scale_of_queries_and_keys_is_without_effect():
    model = shaken(TinyGPT(width=16, context=8, qk_norm=True))
    tokens = torch.randint(0, 256, (2, 8))
    before = model(tokens)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[:32] *= 1000.0
    torch.testing.assert_close(model(tokens), before, rtol=1e-5, atol=1e-6)


@pytest.mark.exact("QKNorm")
def test_switched_off_a_model_is_what_it_was():
    """The same names, the same first weights as by the initialization written out, the same random state after."""
    torch.manual_seed(5)
    model = TinyGPT(width=16, layers=1)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    nn.Embedding(256, 16)
    nn.Linear(16, 48, bias=False), nn.Linear(16, 16, bias=False)
    nn.Linear(16, 64, bias=False), nn.Linear(64, 16, bias=False)
    nn.Linear(16, 256, bias=False)
    wanted = {
        "embed.weight": torch.empty(256, 16).normal_(std=0.25),
        "blocks.0.attention.qkv.weight": torch.empty(48, 16).normal_(std=0.25),
        "blocks.0.attention.out.weight": torch.zeros(16, 16),
        "blocks.0.mlp.up.weight": torch.empty(64, 16).normal_(std=0.25),
        "blocks.0.mlp.down.weight": torch.zeros(16, 64),
        "head.weight": torch.empty(256, 16).normal_(std=0.25),
    }
    wanted["embed.weight"] = torch.empty(256, 16).normal_(std=0.1)
    assert torch.equal(torch.get_rng_state(), after)
    named = dict(model.named_parameters())
    assert list(named) == list(wanted)
    for name, value in wanted.items():
        assert torch.equal(named[name], value), name


@pytest.mark.exact("QKNorm")
def test_switched_on_all_other_weights_start_as_they_do_without():
    torch.manual_seed(5)
    plain = dict(TinyGPT(width=16).named_parameters())
    torch.manual_seed(5)
    normed = dict(TinyGPT(width=16, qk_norm=True).named_parameters())
    for name, p in normed.items():
        assert torch.equal(p, torch.ones(8) if "norm" in name else plain[name]), name
    assert len(normed) == len(plain) + 4


def test_a_model_with_norms_grows_with_its_norms():
    small = shaken(TinyGPT(width=16, heads=2, context=8, qk_norm=True)).float()
    grow = rg.GrowWidth(32, "fpi")
    large = grow.structure(small)
    from regimes.core.randomness import Streams

    grow.fill(large, small, iter(()), Streams(0))
    assert large.blocks[0].attention.q_norm.weight.shape == (8,)
    assert torch.equal(large.blocks[0].attention.q_norm.weight, small.blocks[0].attention.q_norm.weight)
    tokens = torch.randint(0, 256, (2, 8))
    torch.testing.assert_close(large(tokens), small(tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.exact("QKNorm")
def test_torchs_encoder_layer_is_normalized_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    attention = layer.self_attn
    q, k, v = (
        F.linear(x, attention.in_proj_weight, attention.in_proj_bias).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    )
    mixed = (norm(q, 1.0) @ norm(k, 1.0).mT / 2.0).softmax(-1) @ v
    mixed = F.linear(mixed.transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias)
    wanted = layer.norm1(x + mixed)
    wanted = layer.norm2(wanted + layer.linear2(layer.linear1(wanted).relu()))
    rg.QKNorm("self_attn", head_size=4).structure(layer)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.exact("QKNorm", "EmulatePrecision")
@pytest.mark.parametrize("order", [0, 1])
def test_beside_few_bits_the_norm_comes_first(order):
    """In whichever order the two are declared: what is multiplied, normalized queries, is what is rounded."""
    block = Block(8, 2)
    transforms = [rg.QKNorm("attention", head_size=4), rg.EmulatePrecision("bfloat16", patterns="attention")]
    for transform in transforms if order == 0 else reversed(transforms):
        transform.structure(block)
    shaken(block)
    module, x = block.attention, torch.randn(2, 5, 8, dtype=torch.float64)
    r = rg.FloatFormat(8, 7).round
    q, k, v = F.linear(r(x), r(module.qkv.weight)).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = r(norm(q, module.q_norm.weight)) @ r(norm(k, module.k_norm.weight)).mT / 2.0
    mixed = r(scores.softmax(-1)) @ r(v)
    wanted = F.linear(r(mixed.transpose(1, 2).reshape(2, 5, 8)), r(module.out.weight))
    torch.testing.assert_close(module(x, None, False), wanted, rtol=1e-9, atol=1e-9)


def test_gains_are_new_parameters_and_the_rest_is_carried():
    from regimes.core.randomness import Streams

    before = TinyGPT(width=8)
    transform = rg.QKNorm("*.attention", head_size=4)
    model = transform.structure(TinyGPT(width=8))
    names = transform.fill(model, before, iter(()), Streams(0)).names
    assert {name for name, origin in names.items() if origin is None} == {
        f"blocks.{n}.attention.{own}_norm.weight" for n in range(2) for own in "qk"
    }
    assert all(origin in (None, name) for name, origin in names.items())


def test_refusals():
    with pytest.raises(rg.DeclarationError, match="matches no module"):
        rg.QKNorm("*.mlps", head_size=4).structure(TinyGPT(width=8))
    with pytest.raises(rg.DeclarationError, match="has a 'q_norm' already"):
        rg.QKNorm("*.attention", head_size=4).structure(TinyGPT(width=8, qk_norm=True))
    with pytest.raises(rg.DeclarationError, match="calls no scaled_dot_product_attention"):
        rg.QKNorm("*.mlp", head_size=4).structure(TinyGPT(width=8))(torch.zeros(1, 4, dtype=torch.int64))


def test_a_run_trains_the_gains():
    regime = rg.Regime(
        optimizer=rg.SGD(lr=1.0), batch_size=6, budget="3 steps", on_entry=[rg.QKNorm("*.attention", head_size=4)]
    )
    run = Run(tiny.workload("transformer"), regime, seed=0)
    while not run.finished:
        run.step()
    gains = [p for name, p in run.model.named_parameters() if "norm" in name]
    assert len(gains) == 4
    assert not torch.equal(gains[0], torch.ones(4))
