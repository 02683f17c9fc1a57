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


@pytest.mark.parametrize(
    ("budget", "warmup", "factor", "longer"),
    [
        ("1000 steps", "10%", 4, "40%"),
        ("1000 steps", "100 steps", 4, "100 steps"),
        ("1000 steps", "101 steps", 0.5, "101 steps"),
        ("1000 steps", "101 steps", 1.5, "101 steps"),
        ("64000 samples", "6400 samples", 4, "25600 samples"),
        ("64000 samples", "6401 samples", 0.5, "3201 samples"),
        ("10 epochs", "0.5 epochs", 4, "2 epochs"),
        ("1M tokens", "10k tokens", 4, "40k tokens"),
    ],
)
def test_lamb_keeps_the_steps_of_the_warm_up_which_become_a_larger_share(budget, warmup, factor, longer):
    base = rg.Regime(optimizer=rg.LAMB(lr=rg.Linear(1e-3, warmup=warmup)), batch_size=64, budget=budget)
    found = rg.scale_batch(base, factor, "lamb").regime
    assert found.phases[0].optimizer.lr.right.warmup == rg.Duration.parse(longer)
    total = 1000 / factor if "steps" in budget else rg.Duration.parse(budget).value
    assert found.budget.value == pytest.approx(total, abs=0.5)


def test_lamb_finds_the_warm_up_inside_a_product():
    base = rg.Regime(optimizer=rg.LAMB(lr=0.5 * rg.Linear(1e-3, warmup="5%")), batch_size=64, budget="1k steps")
    found = rg.scale_batch(base, 4, "lamb").regime.phases[0].optimizer.lr
    same = rg.Linear(1e-3, warmup="20%")
    assert [found(x, steps=1000) for x in (0.1, 0.2, 0.6)] == [same(x, steps=1000) for x in (0.1, 0.2, 0.6)]


@pytest.mark.parametrize(
    ("rule", "optimizer", "edits"),
    [
        ("linear", rg.Torch("AdamW", lr=0.1), {"lr": ("0.1", "0.4")}),
        ("sqrt", rg.PytorchOptimizer("Lion", lr=0.1), {"lr": ("0.1", "0.2")}),
        ("sqrt", rg.PytorchOptimizer("Lion"), {"lr": (None, "0.0002")}),
        ("auto", rg.Torch("SGD", lr=0.1), {"lr": ("0.1", "0.4")}),
        ("auto", rg.PytorchOptimizer("sgd", lr=0.1), {"lr": ("0.1", "0.4")}),
        (
            "auto",
            rg.Torch("AdamW", lr=0.1),
            {"lr": ("0.1", "0.2"), "betas": (None, "[0.6, 0.996]"), "eps": (None, "5e-09"), "weight_decay": (None, "0.02")},
        ),
        (
            "sde",
            rg.Torch("Adam", lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1),
            {"lr": ("0.1", "0.2"), "betas.0": ("0.9", "0.6"), "betas.1": ("0.99", "0.96"), "eps": ("1e-06", "5e-07")},
        ),
        (
            "sde",
            rg.Torch("Adam", lr=0.1, betas=(0.9, 0.9), eps=0.0, weight_decay=0.1, decoupled_weight_decay=True),
            {"lr": ("0.1", "0.2"), "betas.0": ("0.9", "0.6"), "betas.1": ("0.9", "0.6"), "weight_decay": ("0.1", "0.2")},
        ),
    ],
    ids=repr,
)  # fmt: skip
def test_rates_of_other_packages_are_scaled_with_what_the_rule_says(rule, optimizer, edits):
    base = rg.Regime(optimizer=optimizer, batch_size=64, budget="1000 steps")
    expected = {f"optimizer.{name}": both for name, both in edits.items()}
    expected |= {"batch_size": ("64", "256"), "budget": ("'1000 steps'", "'250 steps'")}
    assert changes(rg.scale_batch(base, 4, rule)) == expected


def test_torchs_adamw_becomes_what_ours_becomes():
    """With the same numbers in both; the plain words of one are the declaration of the other."""
    ours = rg.AdamW(lr=rg.Cosine(0.001), betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    theirs = rg.Torch("AdamW", lr=rg.Cosine(0.001), betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    made = [
        rg.scale_batch(rg.Regime(optimizer=one, batch_size=64, budget="4k steps"), 4).regime.phases[0].optimizer
        for one in (ours, theirs)
    ]
    assert dict(made[1].options) == {name: getattr(made[0], name) for name in ("lr", "betas", "eps", "weight_decay")}


@pytest.mark.parametrize(
    "optimizer",
    [
        rg.KFAC(rg.SGD()), rg.MFAC(rg.SGD()), rg.MKOR(rg.SGD()), rg.LANTON(rg.SGD()), rg.ZerothOrder(rg.SGD()),
        rg.ScheduleFreeSGD(), rg.PytorchOptimizer("Lion"), rg.Torch("Adam", amsgrad=True),
        rg.Groups([rg.Group("@vectors", rg.SGD()), rg.Group("*", rg.AdamW())]),
        rg.Groups([rg.Group("@vectors", rg.Torch("Adam", amsgrad=True)), rg.Group("*", rg.Torch("Adam"))]),
    ],
    ids=repr,
)  # fmt: skip
def test_auto_is_refused_where_nobody_has_derived_a_rule(optimizer):
    with pytest.raises(rg.DeclarationError, match="rule: got 'auto' for .*allowed there: linear, sqrt"):
        rg.scale_batch(rg.Regime(optimizer=optimizer, batch_size=8, budget="8 steps"), 2)


@pytest.mark.parametrize("around", [rg.SAM, lambda rule: rg.Groups([rg.Group("*", rule)])], ids=["SAM", "Groups"])
@pytest.mark.parametrize(("rule", "name"), [(rg.SGD(), "linear"), (rg.AdamW(), "sde"), (rg.Torch("Adam"), "sde")])
def test_auto_looks_into_sam_and_groups(around, rule, name):
    assert rg.scale_batch(rg.Regime(optimizer=around(rule), batch_size=8, budget="8 steps"), 2).rule == name


def test_nothing_that_changes_is_said_so():
    text = str(rg.scale_batch(SGD, 1))
    assert (
        text
        == "batch times 1 by the rule 'linear': the rate grows as the batch (Goyal et al. 2017, arXiv:1706.02677)\n  \
nothing changes"
    )
    bare = rg.scale_batch(SGD.but(optimizer="Torch('AdamW')"), 1)
    assert (bare.changes, bare.regime) == ((), SGD.but(optimizer="Torch('AdamW')"))


def test_a_default_that_is_written_out_is_printed_as_one():
    assert "  optimizer.lr  default -> 0.004\n" in str(rg.scale_batch(SGD.but(optimizer="Torch('SGD')"), 4))


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
        (lambda: rg.scale_batch(SGD, 2, "sde"), "got 'sde' for SGD; allowed for Adam and AdamW, without amsgrad"),
        (lambda: rg.scale_batch(SGD.but(optimizer="Torch('AdamW', amsgrad=True)"), 2, "sde"), "got 'sde' for AdamW"),
        (lambda: rg.scale_batch(SGD.but(optimizer="PytorchOptimizer('Lion', lr=0.1)"), 2, "sde"), "got 'sde' for Lion"),
        (
            lambda: rg.scale_batch(ADAMW.but({"optimizer": "Torch('Adam', betas=(Linear(0.8, 0.9), 0.99))"}), 2, "sde"),
            "betas.0: got Linear(0.8, final=0.9); allowed with the rule 'sde': a number",
        ),
        (lambda: rg.scale_batch(SGD.but(optimizer="RecursiveRidge()"), 2), "optimizer: no knob is called lr"),
        (lambda: rg.scale_batch(SGD.but(optimizer="RecursiveRidge()"), 2, "linear"), "optimizer: no knob is called lr"),
        (
            lambda: rg.scale_batch(ADAMW.but({"optimizer.lr.warmup": "30%"}), 4, "lamb"),
            "optimizer.lr.warmup: got '120%'; allowed: at most 100%",
        ),
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
