"""One set of settings for several workloads: steps by hand, the choice by its score, nothing spent twice."""

import json
import math

import pytest

import regimes as rg
from regimes.core.errors import DeclarationError, RegimesError
from regimes.study.own import Own
from regimes.study.tasks import TUNING_SEED, Outcome

BASE = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="20 steps")
TUNE = {"optimizer.lr": rg.between(1e-2, 1.0)}


def works():
    return {f"n{n}": rg.workloads.load("quadratic", examples=n) for n in (64, 128)}


def regimes():
    return {"n64": BASE, "n128": BASE.but({"budget": "30 steps"})}


def calibrated(out, **asked):
    asked = {"targets": {"n64": 0.9, "n128": 0.85}, "trials": 5, "tune": TUNE, "progress": False} | asked
    given = asked.pop("workloads", None) or works()
    return rg.calibrate(given, asked.pop("regimes", regimes()), out=out, validate="10%", **asked)


def test_steps_to_the_target_are_those_of_the_runs_and_the_best_score_is_chosen(tmp_path):
    found = calibrated(tmp_path)
    for name, work in works().items():
        target = {"n64": 0.9, "n128": 0.85}[name]
        for setting in found.settings:
            regime = regimes()[name].but({"optimizer.lr": setting.values["optimizer.lr"]})
            rows = rg.run(work, regime, TUNING_SEED, validate="10%", progress=False).records
            reached = [row["step"] + 1 for row in rows if row.get("val/loss", math.inf) <= target]
            assert setting.steps[name] == (reached[0] if reached else None)
    steps = {str(number): setting.steps for number, setting in enumerate(found.settings)}
    assert [setting.score for setting in found.settings] == list(rg.profile_score(steps).values())
    assert found.chosen.score == max(setting.score for setting in found.settings) > 0
    assert len({json.dumps(setting.steps) for setting in found.settings}) > 2
    assert found.regime(BASE) == BASE.but({"optimizer.lr": found.chosen.values["optimizer.lr"]})
    assert json.loads(json.dumps(found.to_dict()))["chosen"] == found.chosen.values


def test_one_workload_is_won_by_the_fastest(tmp_path):
    one = {"n64": works()["n64"]}
    found = calibrated(tmp_path, workloads=one, regimes=BASE, targets={"n64": 0.9})
    fastest = min(setting.steps["n64"] or math.inf for setting in found.settings)
    assert found.chosen.steps["n64"] == fastest
    assert found.chosen.score == 1.0


def test_another_direction_is_the_same_question_mirrored(tmp_path):
    """Of a metric that grows: the first value at or above the target."""
    digits = {"d": rg.workloads.load("digits_mlp")}
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=32, budget="40 steps")
    found = calibrated(
        tmp_path, workloads=digits, regimes=regime, targets={"d": 0.5}, metric="val/acc", better="higher", trials=2
    )
    for setting in found.settings:
        tuned = regime.but({"optimizer.lr": setting.values["optimizer.lr"]})
        rows = rg.run(digits["d"], tuned, TUNING_SEED, validate="10%", progress=False).records
        reached = [row["step"] + 1 for row in rows if row.get("val/acc", 0.0) >= 0.5]
        assert setting.steps["d"] == (reached[0] if reached else None)


@pytest.mark.slow
def test_what_is_there_is_not_computed_again_and_two_at_a_time_are_the_same(tmp_path):
    found = calibrated(tmp_path / "a")
    made = sorted(path.parent.name for path in tmp_path.rglob("result.json"))
    assert len(made) == 10
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert calibrated(tmp_path / "a") == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == stamps
    assert calibrated(tmp_path / "b", workers=2) == found


def test_what_failed_is_no_value(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Own, "train_all", lambda self, tasks, store: (Outcome.without_value(task, "no disk") for task in tasks)
    )
    with pytest.raises(RegimesError, match="trial 0 on n64 failed, which is no value: no disk"):
        calibrated(tmp_path)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"targets": {"n64": 0.9}}, "targets: got n64; allowed: one for each of n64, n128"),
        ({"regimes": {"n64": BASE, "n128": BASE, "x": BASE}}, "regimes: got n64, n128, x; allowed: one for each"),
        ({"targets": {"n64": 0.9, "n128": math.nan}}, "targets.n128: got nan; allowed: a number"),
        ({"tune": {"optimizer.lr": rg.times(1 / 2, 2)}}, "tune.optimizer.lr: got times"),
        ({"tune": {"optimizer.rate": rg.between(0.1, 1)}}, "arms.n64"),
        ({"trials": 1}, "trials: got 1; allowed: at least 2 points"),
        ({"metric": "test/loss"}, "metric: got 'test/loss'; allowed: a metric of validation data"),
        ({"metric": "val/acc"}, "better: say whether lower or higher"),
        ({"targets": {"n64": 0.0, "n128": 0.0}}, "none of 5 settings reached a target"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(tmp_path, asked, said):
    with pytest.raises(RegimesError) as caught:
        calibrated(tmp_path, **asked)
    assert str(caught.value).startswith(said)
    assert isinstance(caught.value, DeclarationError) == (not said.startswith("none"))
    assert any(tmp_path.rglob("run.json")) == said.startswith("none")
