"""AdamW and SGD against torch's own, inside the engine and on tensors."""

import pytest
import torch
from torch import nn

import regimes as rg

SGDS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"weight_decay": 0.1},
]
ADAMWS = [{}, {"weight_decay": 0.2}, {"betas": (0.8, 0.95), "eps": 1e-4}]


def same_bits(run, twin):
    return all(torch.equal(p, q) for p, q in zip(run.parameters.values(), twin.parameters()))


@pytest.mark.parametrize("options", ADAMWS)
def test_adamw_in_the_engine_has_the_bits_of_torch(hand, options):
    regime = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(0.05), **options), batch_size=16, budget="20 steps")

    def follow(optimizer, record, number):
        optimizer.param_groups[0]["lr"] = record.knobs["optimizer.lr"]

    seen = 0
    for run, twin in hand.beside(regime, lambda ps: torch.optim.AdamW(ps, fused=True, **options), follow):
        assert same_bits(run, twin)
        seen += 1
    assert seen == 20


@pytest.mark.parametrize("options", SGDS)
def test_sgd_in_the_engine_has_the_bits_of_torch(hand, options):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1, **options), batch_size=16, budget="20 steps")
    for run, twin in hand.beside(regime, lambda ps: torch.optim.SGD(ps, lr=0.1, fused=True, **options)):
        assert same_bits(run, twin)


@pytest.mark.parametrize(
    ("rule", "make"),
    [(rg.AdamW(lr=0.05, **o), lambda ps, o=o: torch.optim.AdamW(ps, lr=0.05, foreach=False, **o)) for o in ADAMWS]
    + [(rg.SGD(lr=0.1, **o), lambda ps, o=o: torch.optim.SGD(ps, lr=0.1, foreach=False, **o)) for o in SGDS],
)
def test_plain_update_and_fused_kernel_are_torch_to_rounding(hand, rule, make):
    parameters, gradients = hand.given([(4, 3), (5,), ()], 12)
    expected = hand.drive_torch(make, parameters, gradients)
    plain = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    slots = {name: rule.slots(p) for name, p in plain.items()}
    hand.drive(rule, parameters, gradients)
    with torch.no_grad():
        for t, given in enumerate(gradients, start=1):
            for (name, p), g in zip(plain.items(), given):
                rule.update(p, g, slots[name], t)
    for name, p in parameters.items():
        torch.testing.assert_close(p, expected[name], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(plain[name], expected[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rule", [rg.AdamW(lr=0.1), rg.SGD(lr=0.1, momentum=0.9)])
def test_channels_last_weights_meet_their_own_gradients(hand, rule):
    """torch's fused kernels walk memory: with unlike layouts they mix up elements, silently."""
    parameters, gradients = hand.given([(4, 3, 2, 2)], 5, torch.float32)
    turned = {"p0": nn.Parameter(parameters["p0"].detach().clone().to(memory_format=torch.channels_last))}
    hand.drive(rule, parameters, gradients)
    hand.drive(rule, turned, gradients)
    assert turned["p0"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(turned["p0"], parameters["p0"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_half_precision_is_updated_in_float32_and_rounded_once(hand, dtype, options):
    """torch's fused kernel leaves whole vectors of half precision as they were, on a CPU."""
    parameters, gradients = hand.given([(16, 16), (5,)], 3, dtype)
    wide = [nn.Parameter(p.detach().float()) for p in parameters.values()]
    optimizer = torch.optim.SGD(wide, lr=0.1, **options)
    for given in gradients:
        for p, g in zip(wide, given):
            p.grad = g.float()
        optimizer.step()
        for p in wide:
            p.data = p.data.to(dtype).float()
    hand.drive(rg.SGD(lr=0.1, **options), parameters, gradients)
    for p, expected in zip(parameters.values(), wide):
        assert torch.equal(p, expected.to(dtype))


def test_parameters_of_two_types_are_updated_together(hand):
    (one, two), gradients = zip(*[hand.given([(3, 2)], 6, dtype, seed=1) for dtype in (torch.float32, torch.float64)])
    both = {"a": nn.Parameter(one["p0"].detach().clone()), "b": nn.Parameter(two["p0"].detach().clone())}
    hand.drive(rg.AdamW(lr=0.1), both, [(a[0], b[0]) for a, b in zip(*gradients)])
    for alone, name, given in ((one, "a", gradients[0]), (two, "b", gradients[1])):
        hand.drive(rg.AdamW(lr=0.1), alone, given)
        assert torch.equal(both[name], alone["p0"])


def test_a_parameter_that_joins_late_has_its_own_bias_correction(hand):
    """Adam's first step is lr sign(g), whenever a parameter's first step is; with a shared count it is 3.2 lr."""
    rule = rg.AdamW(lr=0.1, weight_decay=0.0, eps=0.0)
    parameters, gradients = hand.given([(3,), (3,)], 200)
    state = rule.init({"p0": parameters["p0"]})
    for given in gradients[:-1]:
        state = rule.step(state, {"p0": parameters["p0"]}, hand.Stub(given[:1]))
    before = parameters["p1"].detach().clone()
    state["slots"] |= rule.init({"p1": parameters["p1"]})["slots"]
    rule.step(state, parameters, hand.Stub(gradients[-1]))
    torch.testing.assert_close(parameters["p1"], before - 0.1 * gradients[-1][1].sign())
    assert [slot["step"] for slot in state["slots"].values()] == [200, 1]


def test_momentum_scheduled_through_zero_equals_the_formula(hand):
    """At momentum 0 the buffer is the last gradient, undamped and not stale, and the fused kernel is not asked."""
    momenta = [0.9, 0.9, 0.0, 0.0, 0.5, 0.9]
    parameters, gradients = hand.given([(3,)], len(momenta))
    p, b = parameters["p0"].detach().clone(), None
    for momentum, (g,) in zip(momenta, gradients):
        b = g.clone() if b is None or momentum == 0.0 else momentum * b + 0.7 * g
        p = p - 0.1 * b
    rule = rg.SGD(lr=0.1, momentum=rg.Linear(0.9, 0.0), dampening=0.3)
    hand.drive(rule, parameters, gradients, lambda rule, n: rule.with_values({"momentum": momenta[n]}))
    torch.testing.assert_close(parameters["p0"].detach(), p, rtol=1e-14, atol=1e-14)


def test_nesterov_needs_momentum():
    with pytest.raises(rg.DeclarationError, match="nesterov: got True; allowed with momentum > 0"):
        rg.SGD(nesterov=True)


def test_lion_equals_that_of_pytorch_optimizer(hand):
    reference = pytest.importorskip("pytorch_optimizer").Lion
    options = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
    parameters, gradients = hand.given([(4, 3), (5,)], 30)
    expected = hand.drive_torch(lambda ps: reference(ps, **options), parameters, gradients)
    hand.drive(rg.Lion(**options), parameters, gradients)
    for name, p in parameters.items():
        torch.testing.assert_close(p, expected[name], rtol=1e-13, atol=1e-13)
