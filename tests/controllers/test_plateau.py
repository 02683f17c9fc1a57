"""Plateau against torch's own on the same values, alone, in products and in runs."""

import copy
import json
import math
import random

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.progress import Progress
from regimes.engine.compile import compile_regime
from regimes.testing.resume import resume_chain

AT = Progress()


def values(seed, kind):
    """200 metric values: a noisy descent, a walk, or one with plateaus, equal values, NaN and infinities."""
    rng, level, out = random.Random(seed), 3.0, []
    for _ in range(200):
        level += rng.gauss(-0.01 if kind == "falling" else 0.0, 0.05)
        out.append(level)
    if kind == "rough":
        out = [rng.choice([v, v, round(v, 1), math.nan, math.inf, -v]) for v in out]
    return out


@pytest.mark.parametrize("kind", ["falling", "walking", "rough"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_equals_torchs_whatever_is_fed_and_survives_a_round_trip_at_every_moment(kind, threshold_mode, better):
    drops = 0
    for seed in range(8):
        rng = random.Random(seed)
        settings = {
            "factor": rng.choice([0.1, 0.5, 0.9]),
            "patience": rng.choice([0, 1, 5]),
            "threshold": rng.choice([0.0, 1e-4, 0.05]),
            "cooldown": rng.choice([0, 1, 7]),
        }
        low = rng.choice([0.0, 0.01, 0.4])
        control = rg.Plateau("val:acc", threshold_mode=threshold_mode, better=better, low=low, **settings)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        mode = "min" if better == "lower" else "max"
        other = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode, threshold_mode=threshold_mode, min_lr=0.3 * low, eps=0.0, **settings
        )
        state = control.init()
        for metric in values(seed, kind):
            state = control.observe(json.loads(json.dumps(state)), {"val:acc": metric, "loss": 9.0}, AT)
            other.step(metric)
            assert 0.3 * control.value(state, AT) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=0)
            assert (state["bad"], state["cooling"]) == (other.num_bad_epochs, other.cooldown_counter)
        drops += control.value(state, AT) < 1.0
    assert drops == 8 if kind != "falling" or better == "higher" else drops > 2


def test_begins_at_one_and_hears_only_fresh_values():
    control = rg.Plateau(patience=0)
    state = control.init()
    assert control.value(state, AT) == 1.0
    for _ in range(10):
        state = control.observe(state, {"loss": 9.0}, AT)
    assert state == control.init()


def test_observing_changes_no_state_that_it_was_given():
    control, before = rg.Plateau(patience=0, cooldown=2), {"multiplier": 1.0, "best": 1.0, "bad": 0, "cooling": 0}
    given = copy.deepcopy(before)
    assert control.observe(given, {"val:loss": 2.0}, AT) == {"multiplier": 0.1, "best": 1.0, "bad": 0, "cooling": 2}
    assert given == before


def test_needs_what_its_field_says_also_from_within_a_product():
    rate = rg.Cosine(1e-3) * rg.Plateau("val:acc", better="higher") * rg.Plateau()
    assert rate.all_needs() == {"val:acc", "val:loss"}
    regime = rg.Regime(optimizer=rg.SGD(lr=rate), batch_size=2, budget="4 steps")
    assert compile_regime(regime, [8], None)[0].needs == {"val:acc", "val:loss"}


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("test:loss", "metric: signal 'test:loss' reads test data"),
        ("val_loss", "metric: there is no signal 'val_loss'"),
        ("val:", "metric: there is no signal 'val:'"),
        ("units", "metric: got 'units'; allowed: 'val:loss', 'val:<metric>' or 'loss'"),
    ],
)
def test_what_is_no_number_to_steer_by_is_refused(metric, said):
    with pytest.raises(rg.DeclarationError, match=said):
        rg.Plateau(metric)


def workload():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 3, generator=g), torch.randint(0, 2, (64,), generator=g)
    return rg.Workload(
        model=lambda: nn.Linear(3, 2),
        train=(x, y),
        val=(x, y),
        loss=nn.CrossEntropyLoss(),
        metrics={"acc": rg.Accuracy()},
    )


@pytest.mark.parametrize("metric", ["val:loss", "val:acc"])
def test_in_a_product_it_multiplies_the_schedule_of_a_run_and_resumes_at_every_step(metric):
    better = "lower" if metric == "val:loss" else "higher"
    rate = rg.Linear(0.5, 0.1) * rg.Plateau(metric, factor=0.5, patience=1, threshold=0.2, better=better, cooldown=1)
    regime = rg.Regime(optimizer=rg.SGD(lr=rate), batch_size=8, budget="40 steps", evaluate="2 steps")
    records = list(rg.Run(workload(), regime))
    control, expected = rg.Plateau(metric, factor=0.5, patience=1, threshold=0.2, better=better, cooldown=1), []
    state = control.init()
    for t, record in enumerate(records):
        expected.append(rg.Linear(0.5, 0.1)(t / 40) * control.value(state, AT))
        if (t + 1) % 2 == 0:
            state = control.observe(state, {metric: record.signals[metric.replace(":", "/")]}, AT)
    assert [record.knobs["optimizer.lr"] for record in records] == expected
    assert control.value(state, AT) <= 0.125
    assert resume_chain(lambda: rg.Run(workload(), regime), steps=40) == []


def test_training_loss_needs_no_validation():
    rate = 0.1 * rg.Plateau("loss", factor=0.5, patience=2, threshold=0.5)
    regime = rg.Regime(optimizer=rg.SGD(lr=rate), batch_size=8, budget="8 steps")
    rates = [record.knobs["optimizer.lr"] for record in rg.Run(workload(), regime)]
    assert rates == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]


def test_without_a_cadence_it_is_refused():
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1 * rg.Plateau()), batch_size=8, budget="4 steps")
    with pytest.raises(rg.DeclarationError, match="say how often, for example evaluate='5%'"):
        rg.Run(workload(), regime)
