"""LANTON against its formulas, its base rule at other rates, and closed forms."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine import trees
from regimes.engine.run import Run

SHAPES = [(6, 4), (4, 5), (3, 2, 2, 2)]
MUON = rg.Muon(lr=0.05, momentum=0.9, weight_decay=0.1, iteration_dtype="float64")
BASES = [
    MUON,
    rg.NorMuon(lr=0.05, weight_decay=0.1),
    rg.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    rg.AdamW(lr=0.05, weight_decay=0.1),
    rg.Lion(lr=0.05, weight_decay=0.1),
    rg.LAMB(lr=0.05, weight_decay=0.1),
    rg.Conda(lr=0.05, weight_decay=0.1, every=4),
    rg.ScheduleFreeAdamW(lr=0.05, weight_decay=0.1),
    rg.ScheduleFreeSGD(lr=0.05),
]


def noisy(hand, shapes, steps, seed=0):
    """Gradients that are noisier from tensor to tensor."""
    parameters, gradients = hand.given(shapes, steps, seed=seed)
    return parameters, [tuple(g * 4.0**place for place, g in enumerate(given)) for given in gradients]


def like(parameters):
    return {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}


def farthest(parameters, expected):
    return max((p.detach() - expected[name]).abs().max().item() for name, p in parameters.items())


def polar(matrix):
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / max(s.norm().item(), 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


def dual(difference, norm):
    if norm == "l1":
        return difference.abs().sum().item()
    if norm == "l2":
        return difference.square().sum().sqrt().item()
    matrix = difference.reshape(len(difference), -1)
    return torch.trace(matrix.T @ polar(matrix)).item()


def factors(gradients, names, alpha, beta2, norm):
    """What each step multiplies each rate by."""
    noise, last, found = dict.fromkeys(names, 0.0), dict.fromkeys(names), []
    for given in gradients:
        for name, g in zip(names, given):
            if last[name] is not None:
                noise[name] = beta2 * noise[name] + (1 - beta2) * dual(g - last[name], norm) ** 2
            last[name] = g
        a = {name: alpha / math.sqrt(alpha**2 + h) for name, h in noise.items()}
        found.append({name: math.sqrt(value / max(a.values())) for name, value in a.items()})
    return found


@pytest.mark.exact("LANTON")
def test_a_plain_twin_around_muon_makes_the_same_steps(hand):
    """100 steps in float64, the whole of algorithm 1 written out."""
    parameters, gradients = noisy(hand, SHAPES, 100)
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    b = {name: torch.zeros_like(w) for name, w in weights.items()}
    for given, rates in zip(gradients, factors(gradients, list(weights), 8.0, 0.8, "nuclear")):
        for (name, w), g in zip(weights.items(), given):
            b[name] = 0.9 * b[name] + (1 - 0.9) * g
            ahead = ((1 - 0.9) * g + 0.9 * b[name]).reshape(len(w), -1)
            lr = 0.05 * rates[name]
            scale = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
            weights[name] = (1 - lr * 0.1) * w - lr * scale * polar(ahead).reshape(w.shape)
    hand.drive(rg.LANTON(MUON, alpha=8.0, beta2=0.8), parameters, gradients)
    assert farthest(parameters, weights) < 1e-10


@pytest.mark.exact("LANTON")
@pytest.mark.parametrize("norm", ["nuclear", "l1", "l2"])
@pytest.mark.parametrize("base", BASES, ids=lambda base: type(base).__name__)
def test_every_tensor_moves_as_under_the_base_rule_alone_at_its_own_rate(hand, base, norm):
    """To the bit: weights, decay, and what the rule keeps and judges by."""
    parameters, gradients = noisy(hand, SHAPES, 20)
    rule = rg.LANTON(base, alpha=8.0, beta2=0.8, norm=norm)
    alone, state, seen = like(parameters), rule.init(parameters), []
    for given in gradients:
        state = rule.step(state, parameters, hand.Stub(given))
        seen.append(rule.factors(state["slots"]))
    for found, wanted in zip(seen, factors(gradients, list(parameters), 8.0, 0.8, norm), strict=True):
        assert found == pytest.approx(wanted, rel=1e-10)
    assert min(seen[-1].values()) < 0.6
    for place, (name, p) in enumerate(alone.items()):
        own = [(given[place],) for given in gradients]
        live = lambda base, step, name=name: base.with_values({"lr": base.lr * seen[step][name]})  # noqa: E731
        kept = hand.drive(base, {name: p}, own, live)
        assert torch.equal(p, parameters[name])
        judged, expected = rule.evaluation_weights(state, parameters), base.evaluation_weights(kept, {name: p})
        assert torch.equal(judged[name], expected[name])


@pytest.mark.exact("LANTON")
@pytest.mark.parametrize("base", BASES[:6], ids=lambda base: type(base).__name__)
def test_a_step_is_the_base_rules_times_the_factor(hand, base):
    """Decoupled decay, too, goes at the layer's rate: where the step is linear in the rate, the whole of it is scaled.

    Not where decay comes after the step (Conda), nor where the memory holds rates (the schedule-free rules).
    """
    parameters, gradients = noisy(hand, SHAPES, 20)
    rule = rg.LANTON(base, alpha=8.0, norm="l2")
    state = rule.init(parameters)
    for given in gradients:
        before, copied, kept = like(parameters), like(parameters), trees.clone(state["base"])
        state = rule.step(state, parameters, hand.Stub(given))
        base.step(kept, copied, hand.Stub(given))
        for name, factor in rule.factors(state["slots"]).items():
            expected = before[name] + factor * (copied[name] - before[name])
            torch.testing.assert_close(parameters[name], expected, rtol=0, atol=1e-13)


@pytest.mark.exact("LANTON")
@pytest.mark.parametrize("base", BASES, ids=lambda base: type(base).__name__)
def test_where_noise_does_not_count_it_is_the_base_rule_bitwise(hand, base):
    """alpha far above it; one tensor alone; tensors that are equally noisy."""
    parameters, gradients = noisy(hand, SHAPES, 12)
    alone = like(parameters)
    hand.drive(base, alone, gradients)
    hand.drive(rg.LANTON(base, alpha=1e30), parameters, gradients)
    assert all(torch.equal(p, alone[name]) for name, p in parameters.items())
    single, gradients = noisy(hand, SHAPES[:1], 12)
    alone = like(single)
    hand.drive(base, alone, gradients)
    hand.drive(rg.LANTON(base, alpha=1e-3), single, gradients)
    assert torch.equal(single["p0"], alone["p0"])
    twins = {"a": nn.Parameter(single["p0"].detach().clone()), "b": nn.Parameter(2.0 * single["p0"].detach())}
    alone, doubled = like(twins), [given * 2 for given in gradients]
    hand.drive(base, alone, doubled)
    hand.drive(rg.LANTON(base, alpha=1e-3), twins, doubled)
    assert all(torch.equal(p, alone[name]) for name, p in twins.items())


@pytest.mark.exact("LANTON")
def test_the_first_step_is_the_base_rules(hand):
    parameters, gradients = noisy(hand, SHAPES, 1)
    alone = like(parameters)
    hand.drive(MUON, alone, gradients)
    hand.drive(rg.LANTON(MUON, alpha=1e-6), parameters, gradients)
    assert all(torch.equal(p, alone[name]) for name, p in parameters.items())


@pytest.mark.exact("LANTON")
def test_while_gradients_repeat_the_noise_decays_by_beta(hand):
    parameters, gradients = noisy(hand, SHAPES, 2)
    rule = rg.LANTON(MUON, beta2=0.75)
    state = hand.drive(rule, parameters, gradients)
    noise = {name: slot["noise"] for name, slot in state["slots"].items()}
    for times in range(1, 6):
        state = rule.step(state, parameters, hand.Stub(gradients[-1]))
        for name, slot in state["slots"].items():
            assert slot["noise"] == pytest.approx(noise[name] * 0.75**times, rel=1e-12)
            assert slot["noise"] > 0.0


@pytest.mark.exact("LANTON")
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
def test_factors_are_at_most_one_and_the_quietest_has_one(hand, alpha):
    """a_l / a_max = sqrt((alpha^2 + H_min) / (alpha^2 + H_l))."""
    parameters, gradients = noisy(hand, SHAPES, 30)
    rule = rg.LANTON(MUON, alpha=alpha)
    state = hand.drive(rule, parameters, gradients)
    noise = {name: slot["noise"] for name, slot in state["slots"].items()}
    found = rule.factors(state["slots"])
    for name, factor in found.items():
        assert 0.0 < factor <= 1.0
        ratio = (alpha**2 + min(noise.values())) / (alpha**2 + noise[name])
        assert factor == pytest.approx(ratio**0.25, rel=1e-12)
    assert found["p0"] == 1.0


@pytest.mark.exact("LANTON")
@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6), (12, 3)])
def test_the_estimate_lies_near_the_nuclear_norm(shape):
    """Between the least and the largest that five steps make of singular values above 0.01."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = torch.linalg.svdvals(matrix)
    assert sizes[-1] > 0.01 * sizes.norm()
    estimate = rg.LANTON(MUON)._dual(matrix) / sizes.sum()
    assert 0.68 <= estimate <= 1.14
    assert rg.LANTON(MUON)._dual(matrix).item() == pytest.approx(dual(matrix, "nuclear"), rel=1e-12)


@pytest.mark.exact("LANTON")
def test_vectors_and_numbers_are_columns():
    """Their nuclear norm is their length, times what the iteration makes of 1."""
    one = polar(torch.ones(1, 1, dtype=torch.float64)).item()
    rule = rg.LANTON(rg.SGD(lr=0.1))
    assert rule._dual(torch.tensor([3.0, 4.0], dtype=torch.float64)).item() == pytest.approx(5.0 * one, rel=1e-12)
    assert rule._dual(torch.tensor(-2.0, dtype=torch.float64)).item() == pytest.approx(2.0 * one, rel=1e-12)


@pytest.mark.exact("LANTON")
def test_each_group_has_its_own_quietest_layer(hand):
    """Two wrapped groups in the engine; each moves as one wrapped rule over its own tensors."""
    wrapped = rg.LANTON(rg.SGD(lr=0.1, momentum=0.9), alpha=0.02, norm="l1")
    regime = rg.Regime(optimizer=rg.groups.muon(wrapped, rest=wrapped), batch_size=16, budget="12 steps")

    class Both:
        def __init__(self, parameters):
            names = ("0.weight", "0.bias", "2.weight", "2.bias")
            named = dict(zip(names, parameters))
            self.groups = [{"0.weight": named["0.weight"]}, {name: named[name] for name in names[1:]}]
            self.states = [wrapped.init(group) for group in self.groups]

        def zero_grad(self):
            for group in self.groups:
                for p in group.values():
                    p.grad = None

        def step(self):
            for group, state in zip(self.groups, self.states):
                wrapped.step(state, group, hand.Stub([p.grad for p in group.values()]))

    for run, twin in hand.beside(regime, Both):
        assert all(torch.equal(p, q) for p, q in zip(run.parameters.values(), twin.parameters()))
        first, second = (run.states["optimizer"][place]["slots"] for place in "01")
        assert max(wrapped.factors(first).values()) == max(wrapped.factors(second).values()) == 1.0
    assert min(wrapped.factors(second).values()) < 0.9


@pytest.mark.exact("LANTON")
def test_the_record_holds_the_least_factor(hand):
    rule = rg.LANTON(rg.SGD(lr=0.1), alpha=0.02)
    run = Run(hand.workload(), rg.Regime(optimizer=rule, batch_size=16, budget="6 steps"))
    for record in run:
        found = [value for name, value in record.signals.items() if name.endswith("least_factor")]
        assert found == [min(rule.factors(run.states["optimizer"]["slots"]).values())]
    assert found[0] < 0.9


@pytest.mark.parametrize(
    "base",
    [
        lambda: rg.groups.muon(rg.Muon(), rest=rg.AdamW()),
        lambda: rg.SAM(rg.SGD(lr=0.1)),
        lambda: rg.MKOR(rg.SGD(lr=0.1)),
        lambda: rg.MeZO(),
        lambda: rg.Sophia(),
        lambda: rg.SGDSaI(),
        lambda: rg.AdaGradNorm(),
        lambda: rg.Torch("SGD"),
        lambda: rg.LANTON(rg.SGD(lr=0.1)),
    ],
)
def test_a_rule_whose_tensors_have_no_rates_of_their_own_is_refused(base):
    with pytest.raises(rg.DeclarationError, match=r"base: got .*; allowed: a rule that updates every tensor by itself"):
        rg.LANTON(base())


@pytest.mark.exact("LANTON")
def test_gradients_may_be_handed_in_one_memory_again_and_again(hand):
    """The one before is kept as a copy."""
    parameters, gradients = noisy(hand, SHAPES, 8)
    once, rule = like(parameters), rg.LANTON(MUON, alpha=8.0)
    hand.drive(rule, once, gradients)

    class Reused(hand.Stub):
        memory = tuple(torch.empty_like(g) for g in gradients[0])

        def __call__(self, **kwargs):
            for place, g in zip(self.memory, self.gradients):
                place.copy_(g)
            return hand.Given(0.0, self.memory)

    state = rule.init(parameters)
    for given in gradients:
        state = rule.step(state, parameters, Reused(given))
    assert all(torch.equal(p, once[name]) for name, p in parameters.items())
