"""Successive halving: rungs, who stays, that what is judged was chosen by other seeds, and what is lost on the way."""

import json
import math

import numpy as np
import pytest
from scipy import stats

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.study.design import design_of
from regimes.study.halved import Halved
from regimes.study.halving import Halving, ranked
from regimes.study.judge import judge
from regimes.study.own import Own
from regimes.study.ranges import times
from regimes.study.tasks import CHOOSING_SEED, TUNING_SEED, Outcome

BASE = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="12 steps")


def rates(*values):
    return {"base": BASE} | {f"lr {lr:g}": BASE.but({"optimizer.lr": lr}) for lr in values}


# -- rungs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arms", "sizes", "seeds", "runs"),
    [
        (3, (3, 2), (1,), 3 + 24),
        (4, (4, 2), (1,), 4 + 24),
        (5, (5, 3, 2), (1, 3), 5 + 6 + 24),
        (7, (7, 4, 2), (1, 3), 7 + 8 + 24),
        (64, (64, 32, 16, 8, 4, 2), (1, 3, 7, 15, 31), 5 * 64 + 24),
    ],
)
def test_every_rung_costs_about_as_much(arms, sizes, seeds, runs):
    halving = Halving(arms)
    assert (halving.sizes, halving.seeds, halving.runs(8)) == (sizes, seeds, runs)


def test_the_better_half_stays_and_divergence_is_the_worst():
    nan = math.nan
    values = {"a": [3.0, 3.0], "b": [1.0, nan], "c": [9.0, 9.0], "d": [nan, nan], "e": [3.0, 3.0]}
    assert ranked(values, "lower") == ["a", "e", "c", "b", "d"]
    assert ranked(values, "higher") == ["c", "a", "e", "b", "d"]


def kept(arms, effect, repetitions, seed):
    """How often the best of equal others stays, by a plain simulation of the rungs."""
    halving, stream, hits = Halving(arms), np.random.default_rng(seed), 0
    for _ in range(repetitions):
        runs = stream.standard_normal((arms, halving.seeds[-1]))
        runs[0] += effect
        staying = list(range(arms))
        for keep, count in zip(halving.sizes[1:], halving.seeds):
            staying = sorted(staying, key=lambda arm: -runs[arm, :count].mean())[:keep]
        hits += 0 in staying
    return hits


@pytest.mark.parametrize(("arms", "effect"), [(5, 0.0), (6, 1.0), (12, 1.5), (12, 0.0)])
def test_the_promise_to_keep_the_best_is_what_simulated_rungs_do(arms, effect):
    promised = Halving(arms).keeps_best(effect)
    assert stats.binomtest(kept(arms, effect, 3000, 2), 3000, promised).pvalue > 1e-3
    if effect == 0.0:
        assert promised == pytest.approx(2 / arms, abs=4 * math.sqrt(0.25 / 20_000))


# -- studies by simulated runs: the real queue and judge, values from a stream ----------------------------------------


def study_of(arms):
    """The design of a study of so many equal arms beside the baseline; what they are does not matter."""
    given = rates(*(0.2 + 0.001 * (i + 1) for i in range(arms)))
    subject = Own(rg.workloads.load("quadratic"), {})
    return subject, given, design_of(subject, given, None, None, None, 1e-9, None, {}, 0, None, 0.95, "halved")


def walked(subject, given, design, value):
    """A study as `compare` walks through it, with `value(task)` in place of training."""
    queue, done = Halved(design, subject, given, lambda text: None), []
    while (task := queue.next(done)) is not None:
        done.append(Outcome(task, {"val/loss": value(task)}, [], [], {}, 12, 96, 1.0, "", False))
    arms = queue.arms(done)
    judge(design, arms)
    return queue, done, arms


def noise(stream, shifts=None):
    """Values of runs: what a seed does to every arm, and noise of its own; lower is better."""
    shared = {}

    def value(task):
        common = shared.setdefault(task.seed, stream.standard_normal())
        return 2.0 + common + stream.standard_normal() - (shifts or {}).get(task.arm, 0.0)

    return value


def test_what_chose_is_never_judged():
    subject, given, design = study_of(6)
    queue, done, arms = walked(subject, given, design, noise(np.random.default_rng(3)))
    chose = [o.task for o in done if o.task.seed >= CHOOSING_SEED]
    judged = [o.task for o in done if o.task.seed < CHOOSING_SEED]
    assert len(chose) == 6 + 3 * 2
    assert len({task.arm for task in judged}) == 3
    assert len(judged) == 24
    assert {task.seed for task in judged} == set(range(8))
    assert "base" not in {task.arm for task in chose}
    assert len(done) == queue.total == design.halving.runs(8)
    for arm in arms:
        assert (arm.comparison is not None) == (arm.name in queue.staying)
        assert arm.seeds == ([] if arm.rungs and not arm.rungs[-1]["stays"] else list(range(8)))
        assert all(seed < TUNING_SEED for seed in arm.seeds)
        chose = [CHOOSING_SEED + place for place in range(arm.rungs[-1]["seeds"] if arm.rungs else 0)]
        assert [o.task.seed for o in arm.choosing] == chose
    assert [design.comparisons, {arm.comparison["n"] for arm in arms if arm.comparison}] == [2, {8}]


def test_rungs_go_on_in_the_order_in_which_their_runs_come():
    """Results in any order, as from several workers: the same arms stay."""
    subject, given, design = study_of(7)
    stays = []

    def drawn(task):
        return float(np.random.default_rng([task.seed, *task.arm.encode()]).normal())

    for order in (1, -1):
        queue, done = Halved(design, subject, given, lambda text: None), []
        for count in (7, 8):
            block = list(iter(lambda: queue.next(done), None))  # noqa: B023
            assert len(block) == count
            done += [
                Outcome(task, {"val/loss": drawn(task)}, [], [], {}, 1, 1, 1.0, "", False) for task in block[::order]
            ]
        queue.next(done)
        stays.append(queue.staying)
    assert stays[0] == stays[1]
    assert len(stays[0]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("arms", [4, 8, 16])
def test_null_stays_at_its_level_and_the_choosing_seeds_would_not(arms):
    subject, given, design = study_of(arms)
    false, biased, repetitions, stream = 0, 0, 2000, np.random.default_rng(arms)
    for _ in range(repetitions):
        value = noise(stream)
        queue, _done, found = walked(subject, given, design, value)
        false += any(arm.comparison["verdict"] in ("better", "worse") for arm in found if arm.comparison)
        # The arm that leads after the rungs, judged against as many equal runs of the baseline on the seeds that chose it.
        lead = next(arm for arm in found if arm.name == queue.staying[0])
        mine = np.array([o.metrics["val/loss"] for o in lead.choosing])
        biased += mine.mean() - (2.0 + stream.standard_normal(len(mine)) * math.sqrt(2)).mean() < 0
    told = stats.binomtest(false, repetitions).proportion_ci(0.95)
    print(f"{arms} arms: {false} of {repetitions} false, {false / repetitions:.3f} [{told.low:.3f}, {told.high:.3f}]")
    print(f"  the arm that leads looks better on its choosing seeds in {biased / repetitions:.1%}")
    assert told.low <= 0.05
    assert biased / repetitions > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("arms", [8, 16])
@pytest.mark.parametrize("effect", [1.0, 2.0])
def test_the_best_arm_is_lost_as_often_as_is_said(arms, effect):
    """By the real queue, with what a seed does to all arms in it: that changes no rank."""
    subject, given, design = study_of(arms)
    names, hits, stream = list(given), 0, np.random.default_rng(17)
    for number in range(1000):
        best = names[1 + number % arms]
        queue, _, _ = walked(subject, given, design, noise(stream, {best: effect}))
        hits += best in queue.staying
    promised = design.halving.keeps_best(effect)
    print(f"{arms} arms, best by {effect} sd: kept in {hits} of 1000, promised {promised:.3f}")
    assert stats.binomtest(hits, 1000, promised).pvalue > 1e-3


# -- studies that train ------------------------------------------------------------------------------------------------


def compared(tmp_path, given, **asked):
    asked = {"margin": 0.02, "until": "halved", "seeds": 7, "progress": False} | asked
    return rg.compare(rg.workloads.load("quadratic"), given, out=tmp_path / "s", **asked)


def test_a_study_halves_its_arms_and_judges_the_rest_as_if_they_alone_had_been_there(tmp_path):
    given = rates(0.1, 0.002, 0.25, 0.005, 0.3)
    study = compared(tmp_path, given)
    facts = study.to_dict()
    assert set(study.verdicts) == {"lr 0.25", "lr 0.3"}
    alone = rg.compare(
        rg.workloads.load("quadratic"), {name: given[name] for name in ("base", "lr 0.25", "lr 0.3")}, margin=0.02,
        seeds=7, out=tmp_path / "alone", progress=False,
    ).to_dict()  # fmt: skip
    arms = {arm["name"]: arm for arm in facts["arms"]}
    for other in alone["arms"]:
        assert arms[other["name"]]["values"] == other["values"]
        found, expected = ((one["comparison"] or {}) | {"more_seconds": None} for one in (arms[other["name"]], other))
        assert found == expected
    assert [arms[name]["rungs"][-1]["stays"] for name in given if name != "base"] == [False, False, True, False, True]
    assert [len(arms[f"lr {lr:g}"]["rungs"]) for lr in (0.002, 0.005, 0.1)] == [1, 1, 2]
    assert arms["lr 0.1"]["rungs"][1] | {"mean": 0} == {
        "seeds": 3, "mean": 0, "diverged": 0, "place": 3, "of": 3, "stays": False,
    }  # fmt: skip
    assert sum(p.is_dir() for p in (tmp_path / "s" / "runs").iterdir()) == 5 + 2 * 3 + 3 * 7
    assert "lr 0.1, lr 0.002 and lr 0.005 left in the rungs, and are not judged" in facts["sentence"]
    assert "after 1 seed lr 0.002, lr 0.005; after 3 seeds lr 0.1" in facts["notes"][0]
    assert facts["notes"][1].endswith("and is judged: 32 runs instead of 42")
    assert "left at rung 2" in str(study)
    assert "7 paired seeds" in str(study)
    page = study.report(tmp_path / "page.html").read_text()
    assert "left at rung 2, 3 of 3" in page
    assert not any(said in page for said in ("no final value", "seeds diverged", "not compared"))
    before = facts["arms"]
    assert [a["values"] for a in compared(tmp_path, given).to_dict()["arms"]] == [a["values"] for a in before]
    assert sum(p.is_dir() for p in (tmp_path / "s" / "runs").iterdir()) == 32


def test_arms_that_diverge_leave_first(tmp_path):
    study = compared(tmp_path, rates(50.0, 0.1, 0.25, 60.0))
    assert set(study.verdicts) == {"lr 0.1", "lr 0.25"}
    assert [arm["rungs"][0]["diverged"] for arm in study.to_dict()["arms"] if "0" in arm["name"]] == [1, 0, 0, 1]


def test_what_failed_is_put_aside_and_tried_again(tmp_path, monkeypatch):
    given, broken = rates(0.1, 0.002, 0.25, 0.005), [True]
    train_all = Own.train_all

    def breaks(self, tasks, store):
        failing = [task for task in tasks if broken[0] and task.arm == "lr 0.25"]
        yield from train_all(self, [task for task in tasks if task not in failing], store)
        yield from (Outcome.without_value(task, "the disk is full") for task in failing)

    monkeypatch.setattr(Own, "train_all", breaks)
    study = compared(tmp_path, given)
    assert set(study.verdicts) == {"lr 0.1", "lr 0.005"}
    arm = next(arm for arm in study.to_dict()["arms"] if arm["name"] == "lr 0.25")
    assert (arm["failed"], arm["rungs"], arm["comparison"]) == (1, [], None)
    assert "runs failed (1 of lr 0.25)" in study.to_dict()["sentence"]
    assert any("(rung 0): the disk is full" in note for note in study.to_dict()["notes"])
    broken[0] = False
    assert set(compared(tmp_path, given).verdicts) == {"lr 0.1", "lr 0.25"}


def test_where_every_arm_fails_nothing_is_judged_and_nothing_spent_on_the_baseline(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Own, "train_all", lambda self, tasks, store: (Outcome.without_value(task, "no disk") for task in tasks)
    )
    study = compared(tmp_path, rates(0.1, 0.002, 0.25, 0.005))
    assert study.verdicts == {}
    assert str(study)
    assert study.report(tmp_path / "page.html").exists()
    assert sum(arm["failed"] for arm in study.to_dict()["arms"]) == 4


@pytest.mark.parametrize(
    ("arms", "asked", "said"),
    [
        ((0.1, 0.3), {}, "arms: got 2 beside the baseline; allowed: at least 3, fewer are judged at once"),
        ((0.1, 0.3, 0.4), {"seeds": 6}, "seeds: got 6; allowed: at least 7 seeds"),
        ((0.1, 0.3, 0.4), {"tune": {"optimizer.lr": times(1 / 2, 2)}, "trials": 3}, "until: got 'halved' with tuning"),
        ((0.1, 0.3, 0.4), {"max_cost": "5 min"}, "max_cost: got '5 min', but only a study with until='decided'"),
        ((0.1, 0.3, 0.4), {"until": "halve"}, "until: got 'halve'; allowed: 'decided', 'halved', or nothing"),
    ],
)
def test_what_cannot_be_halved_is_refused(tmp_path, arms, asked, said):
    with pytest.raises(DeclarationError) as caught:
        compared(tmp_path, rates(*arms), **asked)
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "s").exists()


def test_a_file_and_the_command_line_say_it_too(tmp_path):
    from click.testing import CliRunner

    from regimes.cli import group as main

    file = tmp_path / "many.yaml"
    lines = [f"  a{i}: {{like: base, optimizer.lr: {lr}}}" for i, lr in enumerate((0.1, 0.002, 0.25))]
    base = "  base: {optimizer: SGD(lr=0.2), batch_size: 8, budget: 12 steps}"
    file.write_text("\n".join(["workload: quadratic", "arms:", base, *lines, "compare: {margin: 0.02, until: halved}"]))
    run = CliRunner()
    plan = run.invoke(main, ["plan", str(file), "--no-time"]).output
    assert "27 runs: 3 arms leave by half after 1 seed until 2 are left, which are judged, and the baseline, on 8" in (
        " ".join(plan.split())
    )
    assert (
        "halving: 3 arms leave by half after 1 seed until 2 are left" in run.invoke(main, ["check", str(file)]).output
    )
    made = run.invoke(main, ["compare", str(file), "--out", str(tmp_path / "out"), "--json"])
    rungs = {arm["name"]: arm["rungs"] for arm in json.loads(made.stdout)["arms"]}
    assert [rungs["base"], *(rungs[f"a{i}"][0]["place"] for i in range(3))] == [[], 2, 3, 1]
    assert "until halved: 3 arms leave by half after 1 seed" in made.stderr
