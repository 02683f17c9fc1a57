"""A regime at another batch size: every knob that a rule touches, and none besides."""

import pytest

import regimes as rg
from regimes.scaling.lengths import scaled

ADAMW = rg.Regime(
    optimizer=rg.AdamW(lr=rg.Cosine(0.001, warmup="100 steps"), betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1),
    batch_size=64,
    budget="4k steps",
    average=rg.EMA(0.99),
)
SGD = rg.Regime(optimizer=rg.SGD(lr=0.1, momentum=0.9, weight_decay=1e-4), batch_size=32, budget="10 epochs")


def changes(found):
    return {change.path: (change.old, change.new) for change in found.changes}


def test_linear_touches_rate_batch_and_lengths_in_steps_alone():
    assert changes(rg.scale_batch(SGD, 4)) == {"optimizer.lr": ("0.1", "0.4"), "batch_size": ("32", "128")}
    found = rg.scale_batch(ADAMW, 2, "linear")
    assert found.regime == rg.Regime(
        optimizer=rg.AdamW(lr=2.0 * rg.Cosine(0.001, warmup="50 steps"), betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1),
        batch_size=128,
        budget="2k steps",
        average=rg.EMA(0.99**2),
    )


def test_sde_scales_moments_epsilon_and_decay():
    found = rg.scale_batch(ADAMW, 4)
    assert found.rule == "sde"
    rule = found.regime.phases[0].optimizer
    assert [rule.lr(x, steps=1000) for x in (0.1, 0.5)] == [
        2 * ADAMW.phases[0].optimizer.lr(x, steps=4000) for x in (0.1, 0.5)
    ]
    assert (rule.betas, rule.eps, rule.weight_decay) == ((0.6, 0.96), 5e-7, 0.2)
    assert found.regime.budget == rg.Duration(1000, "steps")


def test_updates_keeps_their_number_and_takes_more_samples():
    found = changes(rg.scale_batch(SGD, 4, "updates"))
    assert found == {
        "optimizer.lr": ("0.1", "0.2"),
        "batch_size": ("32", "128"),
        "budget": ("'10 epochs'", "'40 epochs'"),
    }
    assert "budget" not in changes(rg.scale_batch(ADAMW, 4, "updates"))
    assert not any("average" in path for path in changes(rg.scale_batch(ADAMW, 4, "updates")))


def test_lamb_lengthens_the_warm_up():
    base = rg.Regime(optimizer=rg.SGD(lr=rg.Linear(0.1, warmup="2%")), batch_size=32, budget="10 epochs")
    assert rg.scale_batch(base, 4, "lamb").regime.phases[0].optimizer.lr.right.warmup == rg.Duration(8, "%")


@pytest.mark.parametrize("rule", ["linear", "sqrt", "sde", "updates", "lamb"])
@pytest.mark.parametrize("regime", [ADAMW, SGD])
def test_a_factor_of_one_changes_nothing_and_there_and_back_is_the_same(rule, regime):
    if rule == "sde" and regime is SGD:
        return
    assert rg.scale_batch(regime, 1, rule).changes == ()
    there = rg.scale_batch(regime, 2, rule).regime
    back = rg.scale_batch(there, 0.5, rule).regime
    for own, again in ((regime, back),):
        assert own.phases[0].batch_size == again.phases[0].batch_size
        one, other = own.phases[0].optimizer, again.phases[0].optimizer
        rates = [r.lr(0.5, steps=4000) if hasattr(r.lr, "bind") else r.lr for r in (one, other)]
        assert rates[1] == pytest.approx(rates[0], rel=1e-11)
        assert other.weight_decay == pytest.approx(one.weight_decay, rel=1e-11)


def test_schedules_and_controllers_of_the_batch_are_multiplied():
    base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=rg.Linear(16, 64), budget="3 epochs")
    found = rg.scale_batch(base, 2, "linear").regime.phases[0].batch_size
    assert [found(x) for x in (0.0, 0.5)] == [32.0, 80.0]


def test_all_groups_and_wrapped_rules_are_scaled():
    rule = rg.SAM(rg.Groups([rg.Group("@vectors", rg.SGD(lr=0.2)), rg.Group("*", rg.SGD(lr=0.1))]))
    found = changes(rg.scale_batch(rg.Regime(optimizer=rule, batch_size=8, budget="9 steps"), 3, "linear"))
    assert found["optimizer.base.groups.0.rule.lr"] == ("0.2", "0.6")
    assert found["optimizer.base.groups.1.rule.lr"] == ("0.1", "0.3")
    assert found["budget"] == ("'9 steps'", "'3 steps'")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rg.scale_batch(SGD, 0.33), "main.batch_size: got 32 times 0.33, which is not whole"),
        (lambda: rg.scale_batch(SGD, -1), "factor: got -1; allowed: a number above 0"),
        (lambda: rg.scale_batch(SGD, 2, "sqr"), "did you mean 'sqrt'"),
        (lambda: rg.scale_batch(SGD, 2, "sde"), "got 'sde' for SGD; allowed for AdamW alone"),
        (
            lambda: rg.scale_batch(ADAMW, 16),
            "factor: got 16, at which 0.9 would become -0.6; allowed with this rule: at most 10",
        ),
        (lambda: rg.scale_batch(SGD.but(optimizer="Lion()"), 2), "got 'auto' for Lion"),
        (
            lambda: scaled(ADAMW.but({"optimizer.lr.warmup": "1 steps"}), 0.1),
            "warmup: got '1 steps', of which 0.1 is nothing",
        ),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        make()
    assert sentence in str(why.value)
