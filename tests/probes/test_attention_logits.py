"""The largest logit of attention, whoever computes it; the modules that are named; the size of gradients beside eps."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import regimes as rg
from regimes.core.listening import apart
from regimes.workloads.models import TinyGPT


def shaken(model, seed=0):
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p)
    return model.double()


def loss(model, batch):
    return model(batch).mean()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def largest(q, k, seen=None, scale=None):
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (scores if seen is None else scores.where(seen, 0.0)).abs().max().item()


class Fused(nn.Module):
    """Attention of given queries and keys, by torch's function."""

    def __init__(self, k, **named):
        super().__init__()
        self.k, self.named = k, named

    def forward(self, x):
        return F.scaled_dot_product_attention(x, self.k, self.k, **self.named)


CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()


@pytest.mark.exact("AttentionLogits")
@pytest.mark.parametrize(
    ("named", "seen", "scale"),
    [
        ({}, None, None),
        ({"is_causal": True}, CAUSAL, None),
        ({"attn_mask": CAUSAL}, CAUSAL, None),
        ({"attn_mask": torch.zeros(5, 5).masked_fill(~CAUSAL, torch.finfo(torch.float32).min).double()}, CAUSAL, None),
        ({"scale": 3.0}, None, 3.0),
    ],
)
def test_of_fused_attention_only_pairs_that_are_seen_count(named, seen, scale):
    for seed in range(5):
        q, k = drawn(2, 3, 5, 4, seed=seed), drawn(2, 3, 5, 4, seed=seed + 100)
        found = rg.AttentionLogits()(Fused(k, **named), loss, q)
        assert found == {"": pytest.approx(largest(q, k, seen, scale), rel=1e-12), "model": found[""]}


@pytest.mark.exact("AttentionLogits")
def test_fewer_heads_of_keys():
    q, k = drawn(2, 4, 5, 3), drawn(2, 2, 5, 3, seed=1)
    found = rg.AttentionLogits()(Fused(k, enable_gqa=True), loss, q)[""]
    assert found == pytest.approx(largest(q, k.repeat_interleave(2, 1)), rel=1e-12)


@pytest.mark.exact("AttentionLogits")
def test_every_layer_of_a_gpt_by_its_name():
    """Queries and keys caught at their matrix and turned by hand, one position's distance from another."""
    model = shaken(TinyGPT(width=16, heads=2, context=8))
    tokens = torch.randint(0, 256, (3, 8), generator=torch.Generator().manual_seed(0))
    seen = {}
    for name, module in model.named_modules():
        if name.endswith("qkv"):
            module.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name[:-4], out))
    found = rg.AttentionLogits()(model, loss, tokens)
    turns = torch.view_as_complex(model.rotation.double())[:8]
    for name, out in seen.items():
        q, k, _ = out.view(3, 8, 3, 2, 8).unbind(2)
        q, k = (
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous()) * turns[:, 0]).flatten(-2)
            for x in (q, k)
        )
        wanted = largest(q.transpose(1, 2), k.transpose(1, 2), torch.ones(8, 8, dtype=torch.bool).tril())
        assert found[name] == pytest.approx(wanted, rel=1e-6)
    assert list(found) == ["", "blocks.0.attention", "blocks.1.attention"]
    assert found[""] == max(found[name] for name in seen)


@pytest.mark.exact("AttentionLogits")
@pytest.mark.parametrize("weights", [False, True])
def test_torchs_own_attention_by_both_of_its_paths(weights):
    torch.manual_seed(0)
    net = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = drawn(3, 5, 8) * 5
    q, k, _ = F.linear(x, net.in_proj_weight, net.in_proj_bias).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    found = rg.AttentionLogits()(net, lambda m, b: m(b, b, b, need_weights=weights)[0].mean(), x)
    assert found[""] == pytest.approx(largest(q, k), rel=1e-12)


@pytest.mark.exact("AttentionLogits")
@pytest.mark.parametrize("softmax", [torch.softmax, F.softmax, lambda x, dim: x.softmax(dim)])
def test_attention_that_a_model_writes_out(softmax):
    class Written(nn.Module):
        def forward(self, x):
            scores = (x @ x.mT / 2.0).masked_fill(~CAUSAL, -torch.inf)
            return softmax(scores, -1) @ x

    x = drawn(2, 3, 5, 4)
    found = rg.AttentionLogits()(nn.Sequential(nn.Identity(), Written()), loss, x)
    assert found == {"": pytest.approx(largest(x, x, CAUSAL), rel=1e-12), "1": found[""]}


def test_a_softmax_of_classes_is_none_and_without_attention_it_refuses():
    net = nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1))
    with pytest.raises(rg.DeclarationError, match="calls no attention"):
        rg.AttentionLogits()(net, loss, torch.ones(2, 3))


def test_another_network_in_the_models_modules_is_not_heard():
    k, q = drawn(2, 3, 5, 4, seed=1), drawn(2, 3, 5, 4)

    def with_teacher(model, batch):
        with apart():
            model(100.0 * batch)
        return loss(model, batch)

    assert rg.AttentionLogits()(Fused(k), with_teacher, q)[""] == pytest.approx(largest(q, k), rel=1e-12)


@pytest.mark.exact("GradientRMS")
def test_the_root_mean_square_of_every_layers_gradient():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = drawn(6, 3)
    gradients = torch.autograd.grad(loss(net, x), list(net.parameters()))
    found = rg.GradientRMS()(net, loss, x)
    for name, parts in (("0", gradients[:2]), ("2", gradients[2:])):
        entries = torch.cat([g.flatten() for g in parts])
        assert found[name] == pytest.approx(entries.square().mean().sqrt().item(), rel=1e-12)
    assert found[""] == min(found["0"], found["2"])


def test_a_layer_near_eps_is_named_and_one_that_nothing_reaches_is_not():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for p in net.parameters():
        nn.init.ones_(p)
    dead = nn.ModuleDict({"live": net, "dead": nn.Linear(2, 2)})

    def tiny(model, x):
        return 1e-8 * model["live"](x).mean()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = rg.GradientRMS(eps=2e-9)(dead, tiny, torch.ones(4, 1))
    assert [str(one.message).split("'")[1] for one in said] == ["live.0", "live.1"]
    assert (found["dead"], found[""]) == (0.0, pytest.approx(1e-8, rel=1e-6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rg.GradientRMS(eps=9e-10)(dead, tiny, torch.ones(4, 1))
