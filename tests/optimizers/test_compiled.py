"""Compiled updates against the rules' own, and that nothing is compiled twice."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import regimes as rg
from regimes.core.registry import REGISTRY
from regimes.optimizers.tensorwise import compiled
from regimes.optimizers.tensorwise.rule import Tensorwise

RULES = [cls for cls in REGISTRY.classes("optimizer") if issubclass(cls, Tensorwise) and cls.elementwise]
#: Away from the defaults, so that every term of a formula counts.
OPTIONS = {
    "AdamW": {"weight_decay": 0.2, "betas": (0.8, 0.95)},
    "Lion": {"weight_decay": 0.2},
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "ScheduleFreeAdamW": {"weight_decay": 0.2, "betas": (0.8, 0.95), "eps": 1e-6},
    "ScheduleFreeSGD": {"weight_decay": 0.2},
}
SHAPES = [(4, 3), (5,), (), (150, 100), (100, 200)]  # two above SMALL


def rates(n):
    return [0.05 * (step + 1) / 10 if step < 10 else 0.05 * (1 - step / (2 * n)) for step in range(n)]


def trained(rule, parameters, gradients, update_all):
    """Weights and slots after one update for each tuple of gradients, at rates that change with every one."""
    tensors = [p.detach().clone() for p in parameters.values()]
    slots = [rule.slots(p) for p in tensors]
    with torch.no_grad():
        for t, (lr, given) in enumerate(zip(rates(len(gradients)), gradients), start=1):
            update_all(rule.with_values({"lr": lr}), tensors, given, slots, t)
    return tensors, slots


def plainly(rule, tensors, gradients, slots, t):
    for p, g, slot in zip(tensors, gradients, slots):
        rule.update(p, g, slot, t)


def close(one, other, tolerance):
    for (p, own), (q, theirs) in zip(zip(*one), zip(*other), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        assert own.keys() == theirs.keys()
        for name in own:
            torch.testing.assert_close(own[name], theirs[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_hundred_compiled_updates_are_those_of_the_rule(hand, rule, monkeypatch):
    live = rule(**OPTIONS[rule.__name__])
    parameters, gradients = hand.given(SHAPES, 100)
    monkeypatch.setattr(rule, "update_all", None)  # nothing is left to it
    found = trained(live, parameters, gradients, compiled.update_all)
    close(found, trained(live, parameters, gradients, plainly), 1e-12)
    assert not torch.equal(found[0][0], parameters["p0"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_nothing_is_compiled_again_while_rates_change_and_time_goes_on(hand, rule):
    live = rule(**OPTIONS[rule.__name__])
    parameters, gradients = hand.given(SHAPES, 60, torch.float32)
    graphs = []

    def update_all(*args):
        compiled.update_all(*args)
        graphs.append(counters["stats"]["unique_graphs"])

    before = counters["stats"]["unique_graphs"]
    trained(live, parameters, gradients, update_all)
    assert before < graphs[9] == graphs[-1]
    parameters, gradients = hand.given([(300, 70), (7,), (91, 130), (1,)], 3, torch.float32)  # nor by other shapes
    trained(live, parameters, gradients, update_all)
    assert graphs[-1] == graphs[9]
