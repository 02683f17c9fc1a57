"""Momentum that is reset: against twins by hand, SPAM, SGD without momentum, and in runs."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.optimizers.wrappers.momentum_reset import at_share
from regimes.testing.resume import resume_chain

SHAPES = [(4, 3), (5,), ()]


def like(parameters):
    return {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}


def farthest(one, other):
    return max((p.detach() - other[name].detach()).abs().max().item() for name, p in one.items())


def adamw(weights, gradients, resets, lr, betas, eps, decay, warmup):
    """AdamW whose updates of these numbers begin with moments of zero, and whose rate then rises along a cosine."""
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    since = None
    for t, given in enumerate(gradients, start=1):
        since = 0 if t in resets else None if since is None else since + 1
        share = 1.0
        if since is not None and since < warmup:
            share = 1 - 0.99 * (1 + math.cos(math.pi * since / (warmup + 1))) / 2
        for (name, w), g in zip(weights.items(), given):
            if since == 0:
                m[name], v[name] = torch.zeros_like(w), torch.zeros_like(w)
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g**2
            step = m[name] / (1 - betas[0] ** t) / ((v[name] / (1 - betas[1] ** t)).sqrt() + eps)
            weights[name] = (1 - share * lr * decay) * w - share * lr * step
    return weights


@pytest.mark.exact("MomentumReset")
@pytest.mark.parametrize("warmup", [0, 5])
def test_a_plain_twin_around_adamw_makes_the_same_steps(hand, warmup):
    parameters, gradients = hand.given(SHAPES, 100)
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    rule = rg.MomentumReset(rg.AdamW(lr=0.05, betas=(0.8, 0.95), weight_decay=0.1), every=30, warmup_steps=warmup)
    hand.drive(rule, parameters, gradients)
    expected = adamw(weights, gradients, {30, 60, 90}, 0.05, (0.8, 0.95), 1e-8, 0.1, warmup)
    assert farthest(parameters, expected) < 1e-10


@pytest.mark.exact("MomentumReset", "SPAM")
def test_around_adamw_it_is_spam_that_clips_nothing(hand):
    """To the bit, over several resets and warm-ups."""
    parameters, gradients = hand.given(SHAPES, 100)
    other = like(parameters)
    settings = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.0}
    hand.drive(rg.SPAM(**settings, threshold=1e30, reset_interval=30, warmup_steps=10), parameters, gradients)
    hand.drive(rg.MomentumReset(rg.AdamW(**settings), every=30, warmup_steps=10), other, gradients)
    assert farthest(parameters, other) < 1e-12


@pytest.mark.exact("MomentumReset")
def test_reset_on_every_update_momentum_is_none(hand):
    parameters, gradients = hand.given(SHAPES, 20)
    other = like(parameters)
    hand.drive(rg.MomentumReset(rg.SGD(lr=0.05, momentum=0.9), every=1, warmup_steps=0), parameters, gradients)
    hand.drive(rg.SGD(lr=0.05), other, gradients)
    assert all(torch.equal(p, other[name]) for name, p in parameters.items())


@pytest.mark.exact("MomentumReset")
def test_the_update_after_a_spike_begins_with_momentum_of_zero(hand):
    """A spike at the 60th of 100 gradients, and no other; the record says so."""
    parameters, gradients = hand.given(SHAPES, 100)
    gradients[59] = tuple(g * 1000.0 for g in gradients[59])
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    rule = rg.MomentumReset(
        rg.AdamW(lr=0.05, betas=(0.8, 0.95), weight_decay=0.1), None, rg.ModifiedZScore(), warmup_steps=4
    )
    noted = []

    class Stub(hand.Stub):
        def log(self, name, value):
            noted.append((self.seed, name, value))

    state = rule.init(parameters)
    for number, given in enumerate(gradients, start=1):
        state = rule.step(state, parameters, Stub(given, number))
    assert noted == [(61, "momentum_reset", 1.0)]
    assert farthest(parameters, adamw(weights, gradients, {61}, 0.05, (0.8, 0.95), 1e-8, 0.1, 4)) < 1e-10


@pytest.mark.exact("MomentumReset")
@pytest.mark.parametrize(
    "base",
    [rg.AdamW(lr=0.05), rg.Lion(lr=0.05), rg.Muon(lr=0.05), rg.NorMuon(lr=0.05), rg.ScheduleFreeAdamW(lr=0.05)],
    ids=lambda base: type(base).__name__,
)
def test_before_the_first_reset_it_is_the_base_rule_to_the_bit(hand, base):
    parameters, gradients = hand.given([(4, 3), (3, 5)], 10)
    other = like(parameters)
    state, alone = (
        hand.drive(rg.MomentumReset(base, every=11), parameters, gradients),
        hand.drive(base, other, gradients),
    )
    assert all(torch.equal(p, other[name]) for name, p in parameters.items())
    shown, expected = (
        rg.MomentumReset(base).evaluation_weights(state, parameters),
        base.evaluation_weights(alone, other),
    )
    assert all(torch.equal(w, expected[name]) for name, w in shown.items())


@pytest.mark.exact("MomentumReset")
def test_only_the_named_slots_are_zeroed(hand):
    parameters, gradients = hand.given(SHAPES, 3)
    rule = rg.MomentumReset(rg.AdamW(lr=0.05), every=3, slots="exp_avg")
    state = hand.drive(rule, parameters, gradients)
    for slot, g in zip(state["base"]["slots"].values(), gradients[2]):
        torch.testing.assert_close(slot["exp_avg"], 0.1 * g)
        assert not torch.allclose(slot["exp_avg_sq"], 0.001 * g**2)
        assert slot["step"] == 3


@pytest.mark.exact("MomentumReset")
def test_around_groups_every_group_is_reset_and_slowed(hand):
    """As each rule alone on its own parameters."""
    matrix, rest = rg.Muon(lr=0.05), rg.AdamW(lr=0.02, weight_decay=0.1)
    parameters, gradients = hand.given([(4, 3), (5,)], 40)
    alone = like(parameters)
    grouped = rg.Groups([rg.Group("@matrices", matrix), rg.Group("*", rest)])
    hand.drive(rg.MomentumReset(grouped, every=7, warmup_steps=3), parameters, gradients)
    for place, (name, rule) in enumerate((("p0", matrix), ("p1", rest))):
        own = [(given[place],) for given in gradients]
        hand.drive(rg.MomentumReset(rule, every=7, warmup_steps=3), {name: alone[name]}, own)
    assert all(torch.equal(p, alone[name]) for name, p in parameters.items())


def test_rates_are_scaled_wherever_they_stand():
    rule = at_share(rg.LANTON(rg.SGD(lr=0.5)), 0.25)
    assert (rule.base.lr, rule.alpha) == (0.125, 1.0)


@pytest.mark.exact("MomentumReset")
@pytest.mark.parametrize("wrapped", [lambda rule: rule, rg.SAM], ids=["alone", "in SAM"])
def test_in_a_run_it_resumes_in_the_same_bits(hand, wrapped):
    rule = rg.MomentumReset(rg.AdamW(lr=0.05), 5, rg.ModifiedZScore(1.0, window=6, warmup=3), warmup_steps=2)
    declared = rg.Regime(optimizer=wrapped(rule), batch_size=8, budget="16 steps")
    work, resets = hand.workload(), []
    for record in Run(work, declared, seed=5):
        resets += [record.at.step] * ("momentum_reset" in record.signals)
    assert {4, 9, 14} < set(resets)  # by the clock, and after what the detector took for spikes
    assert resume_chain(lambda: Run(work, declared, seed=5), steps=16) == []


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            lambda: rg.MomentumReset(rg.SGD(), every=None),
            "every: got None, and no detector: nothing would ever be reset",
        ),
        (lambda: rg.MomentumReset(rg.SAM(rg.SGD())), r"base: SAM evaluates.*write SAM\(MomentumReset\(...\)\)"),
        (
            lambda: rg.MomentumReset(rg.AdaGradNorm()),
            "base: got AdaGradNorm.*allowed: a rule that updates every tensor",
        ),
        (lambda: rg.MomentumReset(rg.SGD()).init({"w": torch.zeros(2)}), "slots: got .*keeps nothing; allowed"),
        (
            lambda: rg.MomentumReset(rg.AdamW(), slots="momentum").init({"w": torch.zeros(2)}),
            "slots: got .*keeps exp_avg, exp_avg_sq; allowed",
        ),
    ],
)
def test_what_cannot_be_reset_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()
