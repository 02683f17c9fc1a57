"""The price on unequal load: a plain twin, the reduction to the loss it is added to, and that nothing stays behind."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.model_transforms.experts import MixtureOfExperts

BATCH = (torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0)).double(), torch.zeros(6, 5, 2).double())


def model(top_k=2):
    torch.manual_seed(1)
    layers = [MixtureOfExperts(nn.Linear(3, 3), 3, 4, top_k), MixtureOfExperts(nn.Linear(3, 2), 3, 3, 1)]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p))
    return net


def imbalance(layer, x):
    """E sum f P over the tokens, one by one."""
    number, rows = layer.router.out_features, x.flatten(0, 1)
    counts, mean = [0] * number, torch.zeros(number, dtype=torch.float64)
    for row in rows:
        share = (layer.router.weight @ row).softmax(0)
        for e in sorted(range(number), key=lambda e: -share[e])[: layer.top_k]:
            counts[e] += 1
        mean = mean + share / len(rows)
    return number * sum(c / sum(counts) * p for c, p in zip(counts, mean))


@pytest.mark.exact("LoadBalance")
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_unit_bears_the_imbalance_of_all_layers(top_k):
    net, x = model(top_k), BATCH[0]
    inner, both = rg.MSE()(net, BATCH), rg.LoadBalance(rg.MSE(), weight=0.3)(net, BATCH)
    wanted = 0.3 * (imbalance(net[0], x) + imbalance(net[1], net[0](x)))
    torch.testing.assert_close(both.values - inner.values, wanted.expand(len(inner.values)), rtol=1e-5, atol=0)
    assert both.examples is inner.examples or torch.equal(both.examples, inner.examples)


@pytest.mark.exact("LoadBalance")
def test_without_weight_it_is_the_loss_it_is_added_to():
    net = model()
    assert torch.equal(rg.LoadBalance(rg.MSE(), weight=0.0)(net, BATCH).values, rg.MSE()(net, BATCH).values)


def test_descent_on_it_makes_loads_equal():
    """Of a router that sends all tokens to one expert; the tokens differ enough to be told apart."""
    layer = MixtureOfExperts(nn.Linear(4, 1), 4, 4, 1)
    tokens = torch.eye(4).repeat(8, 1)
    with torch.no_grad():
        layer.router.weight.copy_(0.1 * torch.eye(4))
        layer.router.weight[0] += 1.0
    assert layer.imbalance(layer.router(tokens)).item() > 1.5
    for _ in range(200):
        (g,) = torch.autograd.grad(layer.imbalance(layer.router(tokens)), layer.router.weight)
        with torch.no_grad():
            layer.router.weight -= g
    counts = torch.bincount(layer.router(tokens).argmax(-1), minlength=4)
    assert counts.tolist() == [8, 8, 8, 8]


def test_routers_are_listened_to_during_the_forward_alone():
    net = model()
    rg.LoadBalance(rg.MSE())(net, BATCH)
    with pytest.raises(rg.DeclarationError):
        rg.LoadBalance(rg.MSE())(net, (BATCH[0], torch.zeros(1)))
    assert not any(layer.router._forward_hooks for layer in net)


def test_a_model_without_experts_is_refused():
    with pytest.raises(rg.DeclarationError, match="the model has no layer of experts; Upcycle makes them"):
        rg.LoadBalance(rg.MSE())(nn.Linear(3, 2), BATCH)
