"""Compiled updates against the rules' own, and that nothing is compiled twice."""

import pytest
import torch
from torch._dynamo.utils import counters

import regimes as rg
from regimes.core.registry import REGISTRY
from regimes.optimizers.tensorwise import compiled
from regimes.optimizers.tensorwise.rule import Tensorwise

RULES = [cls for cls in REGISTRY.classes("optimizer") if issubclass(cls, Tensorwise) and cls.elementwise]
#: Compiling takes seconds a rule: most are for the slow suite.
PARTED = [
    pytest.param(cls, marks=() if cls.__name__ in ("AdamW", "Lion", "Sophia") else pytest.mark.slow, id=cls.__name__)
    for cls in RULES
]
#: Away from the defaults, so that every term of a formula counts.
OPTIONS = {
    "AdaHessian": {"weight_decay": 0.2, "betas": (0.8, 0.95), "hessian_power": 0.7},
    "AdamW": {"weight_decay": 0.2, "betas": (0.8, 0.95)},
    "Lion": {"weight_decay": 0.2},
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "SPAM": {"weight_decay": 0.2, "threshold": 300.0, "clip_after": 0},
    "ScheduleFreeAdamW": {"weight_decay": 0.2, "betas": (0.8, 0.95), "eps": 1e-6},
    "ScheduleFreeSGD": {"weight_decay": 0.2},
    "Sophia": {"weight_decay": 0.2, "gamma": 1.0, "eps": 0.1},
}
SHAPES = [(4, 3), (5,), (), (150, 100), (100, 200)]  # two above SMALL


def rates(n):
    return [0.05 * (step + 1) / 10 if step < 10 else 0.05 * (1 - step / (2 * n)) for step in range(n)]


def trained(rule, parameters, gradients, update_all):
    """Weights and slots after one update for each tuple of gradients, at rates that change with every one."""
    tensors = [p.detach().clone() for p in parameters.values()]
    slots = [rule.slots(p) for p in tensors]
    for p, slot in zip(tensors, slots):
        if hasattr(rule, "refresh"):
            rule.refresh(p, 1.0 + p.sin(), slot)
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


@pytest.mark.parametrize("rule", PARTED)
def test_a_hundred_compiled_updates_are_those_of_the_rule(hand, rule, monkeypatch):
    live = rule(**OPTIONS[rule.__name__])
    parameters, gradients = hand.given(SHAPES, 100)
    monkeypatch.setattr(rule, "update_all", None)  # nothing is left to it
    found = trained(live, parameters, gradients, compiled.update_all)
    close(found, trained(live, parameters, gradients, plainly), 1e-12)
    assert not torch.equal(found[0][0], parameters["p0"])


@pytest.mark.parametrize("rule", PARTED)
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


class Clipped(Tensorwise):
    """An elementwise rule with an operation that takes Python's numbers only."""

    elementwise = True

    def update(self, p, g, slot, t):
        p.sub_(torch.nn.functional.hardshrink(g, 0.1 * t))


class Numbers(Tensorwise):
    """Numbers on either side, and in every place where torch takes them."""

    elementwise = True

    def update(self, p, g, slot, t):
        x = (1.0 / (2.0 + g.abs())) ** 1.5 - 0.5 * g.pow(2) + 0.9 ** g.clamp(min=-0.1 * t, max=0.3)
        y = torch.add(3.0 - x, g, alpha=0.1 * t).addcdiv_(x, g.exp(), value=0.2).addcmul(g, x, value=-0.3)
        p.sub_(torch.lerp(y, x, 0.7 / t, out=torch.empty_like(p)), alpha=0.1).lerp_(x, 0.01).div_(1.0 + 0.1 * t)


def test_numbers_in_every_place(hand, monkeypatch):
    made = []
    monkeypatch.setattr(Numbers, "update_all", None)  # nothing is left to it
    for update_all in (compiled.update_all, plainly):
        parameters, gradients = hand.given([(4, 3), (5,)], 5)
        tensors = [p.detach() for p in parameters.values()]
        for t, given in enumerate(gradients, start=1):
            update_all(Numbers(), tensors, given, [{}, {}], t)
        made.append(tensors)
    for found, expected in zip(*made):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Looking(Tensorwise):
    """A rule that looks at a value."""

    elementwise = True

    def update(self, p, g, slot, t):
        p.sub_(g, alpha=0.1 if p.sum() > 0 else 0.2)


class Late(Tensorwise):
    """A rule that makes a slot when it is first called."""

    elementwise = True

    def update(self, p, g, slot, t):
        p.sub_(slot.setdefault("sum", torch.zeros_like(p)).add_(g))


@pytest.mark.parametrize("rule", [Clipped, Looking, Late])
def test_what_is_no_program_is_left_to_the_rule(hand, rule):
    made = []
    for update_all in (compiled.update_all, plainly):
        parameters, gradients = hand.given([(4, 3), (5,)], 3)
        tensors, slots = [p.detach() for p in parameters.values()], [{}, {}]
        for t, given in enumerate(gradients, start=1):
            update_all(rule(), tensors, given, slots, t)
        made.append(tensors)
    for found, expected in zip(*made):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_channels_last_weights_meet_their_own_gradients(hand):
    """What lies otherwise in memory is left to the rule, beside others that are compiled."""
    live = rg.ScheduleFreeAdamW(weight_decay=0.2)
    parameters, gradients = hand.given([(64, 32, 3, 3), (150, 100)], 5)
    turned = {"p0": parameters["p0"].detach().clone().to(memory_format=torch.channels_last), "p1": parameters["p1"]}
    found = trained(live, turned, gradients, compiled.update_all)
    close(found, trained(live, parameters, gradients, plainly), 1e-12)


def test_a_parameter_that_joined_late_keeps_its_own_numbers(hand):
    """weight_sum differs between parameters: one program does not do for both."""
    live = rg.ScheduleFreeSGD(lr=0.1)
    made = []
    for update_all in (compiled.update_all, plainly):
        parameters, gradients = hand.given([(3,), (3,)], 2)
        tensors = [p.detach() for p in parameters.values()]
        slots = [live.slots(p) for p in tensors]
        slots[1]["weight_sum"] = 0.5
        for t, given in enumerate(gradients, start=1):
            update_all(live, tensors, given, slots, t)
        made.append((tensors, slots))
    close(*made, 1e-12)
    assert made[0][1][0]["weight_sum"] == pytest.approx(0.02)
    assert made[0][1][1]["weight_sum"] == pytest.approx(0.52)


def test_a_phase_that_declares_it_trains_compiled(hand, monkeypatch):
    """Groups, bursts and single steps hand it on; a rule in one pass already stays as it is."""
    rule = rg.Groups([rg.Group("*.bias", rg.Lion(lr=rg.Cosine(0.05))), rg.Group("*", rg.AdamW(lr=0.01))])
    calls, plain = [], compiled.update_all

    def update_all(rule, *args):
        calls.append(type(rule).__name__)
        plain(rule, *args)

    monkeypatch.setattr(compiled, "update_all", update_all)
    ends = []
    for declared in (False, True):
        regime = rg.Regime(optimizer=rule, batch_size=16, budget="8 steps", compile=declared)
        run = rg.Run(hand.workload(), regime, seed=2)
        list(run)
        assert calls == (["Lion"] * 8 if declared else [])
        ends.append(run.parameters)
    for name, p in ends[0].items():
        torch.testing.assert_close(p, ends[1][name], rtol=1e-5, atol=1e-6)
