"""Two phases: the usual protocol where both data are one, and by hand where they are two."""

import json
import math

import numpy as np
import pytest
from scipy import stats

import regimes as rg
from regimes.core.errors import DeclarationError, RegimesError
from regimes.study.own import Own
from regimes.study.tasks import Outcome

BASE = rg.Regime(optimizer=rg.SGD(lr=0.05), batch_size=8, budget="12 steps")
ARMS = {
    "plain": BASE, "momentum": BASE.but({"optimizer.momentum": 0.9}), "large": BASE.but({"batch_size": 16}),
    "small": BASE.but({"batch_size": 4}),
}  # fmt: skip
TUNE = {"optimizer.lr": rg.times(1 / 8, 8)}


def work(n):
    return rg.workloads.load("quadratic", examples=n)


def phases(out, first=64, second=256, **asked):
    asked = {"margin": 0.01, "tune": TUNE, "trials": 4, "seeds": 7, "arms": ARMS, "progress": False} | asked
    return rg.two_phase(work(first), work(second), asked.pop("arms"), out=out, **asked)


def values(study):
    return {arm["name"]: arm["values"] for arm in study.to_dict()["arms"]}


@pytest.mark.exact("two_phase")
def test_on_one_and_the_same_data_it_is_the_usual_protocol(tmp_path):
    found = phases(tmp_path / "two", 64, 64)
    usual = rg.compare(
        work(64), ARMS, margin=0.01, tune=TUNE, trials=4, seeds=7, out=tmp_path / "one", progress=False
    )  # fmt: skip
    assert values(found.report) == values(found.usual) == values(found.tuning) == values(usual)
    assert {arm["regime"] for arm in found.report.to_dict()["arms"]} == {a["regime"] for a in usual.to_dict()["arms"]}
    assert found.overstated == {name: {"mean": 0.0, "low": 0.0, "high": 0.0, "pairs": 7} for name in ARMS}
    assert found.rank_correlation.rho == 1.0


@pytest.mark.slow
@pytest.mark.exact("two_phase")
def test_where_nothing_is_tuned_both_phases_are_plain_evaluations(tmp_path):
    found = phases(tmp_path / "two", tune=None, trials=0)
    plain = {
        n: rg.compare(work(n), ARMS, margin=0.01, seeds=7, out=tmp_path / str(n), progress=False) for n in (64, 256)
    }
    assert values(found.report) == values(found.usual) == values(plain[256])
    assert values(found.tuning) == values(plain[64])
    assert found.report.verdicts == plain[256].verdicts


@pytest.mark.slow
@pytest.mark.exact("two_phase")
def test_settings_travel_frozen_and_the_gap_is_that_of_the_seeds(tmp_path):
    found = phases(tmp_path / "two")
    first = rg.compare(
        work(64), ARMS, margin=0.01, tune=TUNE, trials=4, seeds=7, out=tmp_path / "one", progress=False
    ).to_dict()  # fmt: skip
    reported = {arm["name"]: arm for arm in found.report.to_dict()["arms"]}
    usual = values(found.usual)
    for arm in first["arms"]:
        frozen = ARMS[arm["name"]].but({"optimizer.lr": arm["tuning"]["chosen_values"]["optimizer.lr"]})
        assert reported[arm["name"]]["regime"] == arm["regime"] == repr(frozen)
        ended = [rg.run(work(256), frozen, seed, progress=False).metrics["val/loss"] for seed in range(7)]
        assert reported[arm["name"]]["values"] == ended
        gains = np.array(ended) - np.array(usual[arm["name"]])  # of a loss: the usual protocol's is lower by so much
        gap = found.overstated[arm["name"]]
        half = stats.t.ppf(1 - 0.05 / 2 / len(ARMS), 6) * gains.std(ddof=1) / math.sqrt(7)
        assert gap["mean"] == pytest.approx(gains.mean(), abs=1e-15)
        assert (gap["low"], gap["high"]) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=1e-12)
    there = [np.mean(values(found.tuning)[name]) for name in ARMS]
    here = [np.mean(reported[name]["values"]) for name in ARMS]
    assert found.rank_correlation.rho == pytest.approx(stats.spearmanr(there, here).statistic, abs=1e-14)
    assert found.rank_correlation.n == 4
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["overstated"]["plain"]["pairs"] == 7
    assert "tuning on quadratic itself shows momentum better by" in str(found)


def test_an_arm_that_diverged_is_the_worst_and_has_no_gap(tmp_path):
    arms = {**ARMS, "wild": BASE.but({"optimizer.lr": 1e30})}
    found = phases(tmp_path, tune=None, trials=0, arms=arms, seeds=8)
    assert found.overstated["wild"] == {"mean": None, "low": None, "high": None, "pairs": 0}
    assert "wild: runs diverged, what tuning on quadratic itself overstates is not known" in str(found)
    there = [np.mean(values(found.tuning)[name]) for name in ARMS] + [99.0]
    here = [np.mean(values(found.report)[name]) for name in ARMS] + [99.0]
    assert found.rank_correlation.rho == pytest.approx(stats.spearmanr(there, here).statistic, abs=1e-14)


def test_studies_that_may_stop_early_are_refused(tmp_path):
    with pytest.raises(
        DeclarationError, match="until: got 'decided'; allowed: nothing, all phases have the same seeds"
    ):
        phases(tmp_path, until="decided")
    assert not any(tmp_path.iterdir())


def test_an_arm_that_could_not_be_tuned_stops_it(tmp_path, monkeypatch):
    train_all = Own.train_all

    def breaks(self, tasks, store):
        failing = [task for task in tasks if task.trial == 2 and task.arm == "large"]
        yield from train_all(self, [task for task in tasks if task not in failing], store)
        yield from (Outcome.without_value(task, "no disk") for task in failing)

    monkeypatch.setattr(Own, "train_all", breaks)
    with pytest.raises(RegimesError, match="arm 'large' is not tuned: a trial failed, which is no value"):
        phases(tmp_path)
    assert not (tmp_path / "report").exists()
