"""Extending a run: the budget, and what each schedule does with the rest, as a declaration that says it."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.core.notation import parse


@pytest.fixture
def work():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    return rg.Workload(
        model=lambda: nn.Linear(6, 2), train=(x, (x[:, 0] > 0).long()), val=(x, (x[:, 0] > 0).long()),
        loss=nn.CrossEntropyLoss(),
    )  # fmt: skip


def regime(lr, budget="40 steps", **more):
    return rg.Regime(optimizer=rg.SGD(lr=lr, momentum=0.5), batch_size=8, budget=budget, **more)


def rates(result, path="optimizer.lr"):
    return [row["knobs"][path] for row in result.records if path in row["knobs"]]


COSINE = rg.Cosine(0.2, final=0.1, warmup="25%")


@pytest.mark.parametrize("at", [30, 40])
def test_each_way_does_what_it_says(work, tmp_path, at):
    made = rg.run(work, regime(COSINE), out=tmp_path / "r")
    old = rates(made)
    now = COSINE(at / 40)
    for mode, expected in {
        "rescale": [COSINE(step / 60) for step in range(at, at + 60 - at)],
        "hold": [now] * (60 - at),
        "cooldown": [now * (60 - step) / (60 - at) for step in range(at, 60)],
    }.items():
        child = rg.extend(made, "+20 steps", mode, at=at)
        assert child.steps == 60
        assert rates(child)[:at] == old[:at]
        assert rates(child)[at:] == pytest.approx(expected, rel=1e-12)
        declared = child.regime.optimizer.lr
        assert parse(repr(child.regime)) == child.regime
        # The declaration is true of the whole curve, of what was before the fork too.
        if mode != "rescale":
            assert [declared(step / 60, steps=60) for step in range(60)] == pytest.approx(rates(child), rel=1e-9)


def test_the_last_recorded_step_is_where_it_goes_on(work, tmp_path):
    made = rg.run(work, regime(0.1), out=tmp_path / "r")
    child = rg.extend(made, "+25%")
    assert (child.steps, child.lineage["at"]) == (50, 40)
    assert child.records[:40] == made.records
    assert repr(child.regime) == "Regime(optimizer=SGD(lr=0.1, momentum=0.5), batch_size=8, budget='50 steps')"


@pytest.mark.parametrize(
    ("budget", "extra", "total"),
    [
        ("40 steps", "+80 samples", "50 steps"),
        ("8 epochs", "+2 epochs", "10 epochs"),
        ("8 epochs", "+5 steps", "9 epochs"),
        ("320 samples", "+1 epochs", "360 samples"),
        ("320 tokens", "+0.08k tokens", "400 tokens"),
    ],
)
def test_amounts_convert_where_what_is_declared_allows_it(work, tmp_path, budget, extra, total):
    made = rg.run(work, regime(0.1, budget), out=tmp_path / "r")
    child = rg.extend(made, extra)
    assert str(child.regime.budget) == total
    assert child.steps * 8 == child.samples


@pytest.mark.parametrize(
    ("extra", "schedule", "sentence"),
    [
        ("20 steps", None, r"budget: got '20 steps'; allowed: an amount to add, for example '\+500 steps'"),
        ("+20 parsecs", None, "budget: got '20 parsecs'"),
        ("+0 steps", None, "budget: got '\\+0 steps'; allowed: more than nothing"),
        ("+1e9 flops", None, "budget: got '1000000000 flops' where the budget is '40 steps'"),
        (20, None, "budget: got 20; allowed: an amount to add"),
        ("+20 steps", "stretch", "schedule: got 'stretch'; allowed: rescale, hold, cooldown"),
    ],
)
def test_what_is_no_extension_is_refused(work, tmp_path, extra, schedule, sentence):
    made = rg.run(work, regime(COSINE), out=tmp_path / "r")
    with pytest.raises(DeclarationError, match=sentence):
        rg.extend(made, extra, schedule)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["r"]


def test_nothing_is_chosen_for_a_person_where_it_makes_a_difference(work, tmp_path):
    made = rg.run(work, regime(rg.Linear(0.4)), out=tmp_path / "r")
    with pytest.raises(DeclarationError) as refused:
        rg.extend(made, "+40 steps", at=20)
    assert str(refused.value) == (
        "schedule: say what the schedules do, of which optimizer.lr is 0.2 now; allowed: rescale (read over the longer "
        "run: 0.3 at once, 0 at the end), hold (keep the value of now: 0.2 at once, 0.2 at the end), cooldown (go down to "
        "0 from here: 0.2 at once, 0 at the end)"
    )


@pytest.mark.parametrize("mode", ["hold", "cooldown"])
def test_from_the_end_of_a_way_down_to_nothing_only_rescaling_goes_on(work, tmp_path, mode):
    made = rg.run(work, regime(rg.Cosine(0.2)), out=tmp_path / "r")
    with pytest.raises(DeclarationError, match=rf"^schedule: got '{mode}', but optimizer.lr is 0 at step 40 and would"):
        rg.extend(made, "+20 steps", mode)
    with pytest.raises(DeclarationError) as refused:
        rg.extend(made, "+20 steps")
    assert "hold" not in str(refused.value)
    assert rates(rg.extend(made, "+20 steps", mode, at=39))[39] > 0.0


@pytest.mark.parametrize("lr", [0.1, rg.Constant(0.1, warmup="20%"), 0.5 * rg.Constant(0.2)])
def test_where_schedules_are_constant_nothing_has_to_be_said(work, tmp_path, lr):
    made = rg.run(work, regime(lr), out=tmp_path / "r")
    child = rg.extend(made, "+5 steps")
    assert child.steps == 45
    assert rates(child)[40:] in ([], [pytest.approx(0.1)] * 5)


def test_a_constant_rate_cools_down(work, tmp_path):
    made = rg.run(work, regime(0.1), out=tmp_path / "r")
    child = rg.extend(made, "+10 steps", "cooldown")
    assert rates(child) == pytest.approx([0.1 * (1 - step / 10) for step in range(10)])


def test_only_rates_cool_down_and_the_rest_holds(work, tmp_path):
    declared = regime(rg.Linear(0.4)).but({"optimizer.momentum": "Linear(0.8, 0.4)"})
    made = rg.run(work, declared, out=tmp_path / "r")
    child = rg.extend(made, "+20 steps", "cooldown", at=20)
    assert rates(child, "optimizer.momentum")[20:] == pytest.approx([0.6] * 40)
    assert rates(child)[20:] == pytest.approx([0.2 * (1 - step / 40) for step in range(40)])


def test_a_product_with_a_controller_keeps_its_state(work, tmp_path):
    declared = regime(rg.Linear(0.4) * rg.Plateau(factor=0.5, patience=0, threshold=0.5), evaluate="5%")
    made = rg.run(work, declared, out=tmp_path / "r")
    factor = rates(made)[30] / (0.4 * (1 - 30 / 40))
    child = rg.extend(made, "+20 steps", "hold", at=30)
    assert "optimizer.lr" in child.lineage["changes"]["carried"]
    assert rates(child)[30] == pytest.approx(rates(made)[30])
    assert factor < 1.0  # there was something to carry
    cooled = rg.extend(made, "+20 steps", "cooldown", at=30)
    assert rates(cooled)[30] == pytest.approx(rates(made)[30])
    assert rates(cooled)[-1] <= 0.1 * factor / 30 + 1e-12
    number = rg.run(work, regime(0.4 * rg.Plateau(patience=99), evaluate="5%"), out=tmp_path / "n")
    assert rates(rg.extend(number, "+4 steps", "cooldown"))[40:] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_a_rate_that_nothing_brings_down_is_refused(work, tmp_path):
    declared = regime(rg.RangeTest(0.01, 0.5, budget="4 steps"))
    made = rg.run(work, declared, out=tmp_path / "r")
    with pytest.raises(DeclarationError, match="schedule: got 'cooldown', but a rate is RangeTest"):
        rg.extend(made, "+10 steps", "cooldown")
    assert rg.extend(made, "+10 steps", "hold").steps == 50


def test_of_several_phases_the_last_grows_and_shares_stay_what_they_were(work, tmp_path):
    declared = rg.Regime(
        phases=[rg.Phase("a", budget="25%", optimizer=rg.SGD(lr=0.2)),
                rg.Phase("b", budget="75%", optimizer=rg.SGD(lr=rg.Linear(0.1)))],
        batch_size=8, budget="40 steps",
    )  # fmt: skip
    made = rg.run(work, declared, out=tmp_path / "r")
    child = rg.extend(made, "+10 steps", "hold", at=20)
    assert [str(phase.budget) for phase in child.regime.phases] == ["10 steps", "40 steps"]
    assert child.steps == 50
    assert rates(child) == pytest.approx([0.1 * (1 - s / 30) for s in range(10)] + [0.1 * 20 / 30] * 30)
    # Before its last phase, nothing of a schedule of the present one is changed.
    early = rg.extend(made, "+10 steps", at=5)
    assert early.records[:10] == made.records[:10]
    assert rates(early)[-40:] == pytest.approx([0.1 * (1 - s / 40) for s in range(40)])


def test_schedules_that_follow_the_run(work, tmp_path):
    declared = rg.Regime(
        phases=[rg.Phase("a", budget="50%"), rg.Phase("b", budget="50%")],
        optimizer=rg.SGD(lr=rg.Linear(0.4, over="run")), batch_size=8, budget="40 steps",
    )  # fmt: skip
    made = rg.run(work, declared, out=tmp_path / "r")
    assert rates(rg.extend(made, "+20 steps", "hold", at=30))[30:] == pytest.approx([0.1] * 30)
    cooled = rg.extend(made, "+20 steps", "cooldown", at=30)
    assert rates(cooled) == pytest.approx(
        [0.4 * (1 - s / 40) for s in range(30)] + [0.1 * (1 - s / 30) for s in range(30)]
    )
    assert rates(rg.extend(made, "+20 steps", "rescale", at=30))[30:] == pytest.approx(
        [0.4 * (1 - s / 60) for s in range(30, 60)]
    )
