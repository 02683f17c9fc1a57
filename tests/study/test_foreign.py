"""Verdicts over runs that somebody else made: against scipy, and what cannot be known is refused or said."""

import json
import math

import numpy as np
import pandas
import pytest
from click.testing import CliRunner
from scipy import stats

import regimes as rg
from regimes.cli import group
from regimes.core.errors import DeclarationError
from regimes.study.foreign.rows import rows_of

RNG = np.random.default_rng(0)
SEEDS = 7
VALUES = {
    "sgd": 2.5 + 0.03 * RNG.standard_normal(SEEDS),
    "muon": 2.4 + 0.03 * RNG.standard_normal(SEEDS),
    "lion": 2.5 + 0.03 * RNG.standard_normal(SEEDS),
}


def table(values=VALUES, seeds=None):
    return [
        {"opt": arm, "seed": seed, "val/loss": value}
        for arm, found in values.items()
        for seed, value in zip(seeds[arm] if seeds else range(len(found)), found)
    ]


def judged(frame, **asked):
    asked = {"arm": "opt", "seed": "seed", "metric": "val/loss", "margin": 0.02} | asked
    return rg.verdict(frame, **asked).to_dict()


def comparison(facts, name):
    return next(arm for arm in facts["arms"] if arm["name"] == name)["comparison"]


def test_intervals_are_scipys_paired_t_bonferroni_over_arms():
    facts = judged(table())
    for arm in ("muon", "lion"):
        told = stats.ttest_rel(VALUES["sgd"], VALUES[arm]).confidence_interval(1 - 0.05 / 2)
        found = comparison(facts, arm)
        assert (found["low"], found["high"]) == pytest.approx((told.low, told.high), abs=1e-12)
    assert facts["seeds"] == list(range(SEEDS))


def test_without_seeds_they_are_welchs():
    values = VALUES | {"lion": VALUES["lion"][:4]}
    facts = judged(table(values), seed=None)
    for arm in ("muon", "lion"):
        told = stats.ttest_ind(values["sgd"], values[arm], equal_var=False).confidence_interval(1 - 0.05 / 2)
        found = comparison(facts, arm)
        assert (found["low"], found["high"]) == pytest.approx((told.low, told.high), abs=1e-12)
        assert found["p_sign_flip"] is None
    assert "not paired" in str(rg.verdict(table(values), arm="opt", metric="val/loss", margin=0.02))


def test_runs_without_a_partner_are_left_out_and_said():
    seeds = {"sgd": [0, 1, 2, 3, 4, 5, 6], "muon": [6, 5, 4, 3, 2, 9, 8], "lion": [0, 1, 2, 3, 4, 5, 6]}
    facts = judged(table(seeds=seeds))
    by_seed = {arm: dict(zip(seeds[arm], VALUES[arm])) for arm in seeds}
    gains = [by_seed["sgd"][s] - by_seed["muon"][s] for s in (2, 3, 4, 5, 6)]
    found = comparison(facts, "muon")
    assert found["difference"] == pytest.approx(np.mean(gains), abs=1e-12)
    assert (found["n"], found["pairs"], comparison(facts, "lion")["pairs"]) == (5, 5, 7)
    assert "muon against sgd without seed 8, 9 of muon, which has no partner" in facts["notes"]
    assert "muon against sgd without seed 0, 1 of sgd, which has no partner" in facts["notes"]
    with pytest.raises(DeclarationError, match="arm 'muon' shares no seed with the baseline 'sgd'"):
        judged(table(seeds=seeds | {"muon": [10, 11, 12, 13, 14, 15, 16]}))


@pytest.mark.parametrize("seed", ["seed", None])
def test_one_run_each_bounds_nothing(seed):
    found = comparison(judged(table({arm: v[:1] for arm, v in VALUES.items()}), seed=seed), "muon")
    assert (found["low"], found["high"], found["verdict"], found["n"]) == (None, None, "none", 1)


def test_nan_is_never_guessed():
    rows = table()
    rows[8]["val/loss"] = math.nan  # muon, seed 1
    with pytest.raises(DeclarationError, match="nan: column 'val/loss' holds NaN"):
        judged(rows)
    diverged = next(arm for arm in judged(rows, nan="diverged")["arms"] if arm["name"] == "muon")
    assert (diverged["diverged"], diverged["values"][1], diverged["absent"]) == (1, None, [])
    facts = judged(rows, nan="missing")
    missing = next(arm for arm in facts["arms"] if arm["name"] == "muon")
    assert (missing["diverged"], missing["absent"], missing["comparison"]["pairs"]) == (0, [1], SEEDS - 1)
    assert "without a value of val/loss, and left out: muon, seed 1" in facts["notes"]
    rows[8]["val/loss"] = math.inf
    assert next(arm for arm in judged(rows)["arms"] if arm["name"] == "muon")["diverged"] == 1


def curves(lengths):
    return [
        {"opt": arm, "seed": seed, "step": step, "val/loss": 3 - 0.1 * step + 0.01 * seed * (arm == "b")}
        for arm, last in lengths.items()
        for seed in range(6)
        for step in range(1, last + 1)
    ]


def test_curves_are_judged_where_all_have_come_or_each_at_its_end():
    facts = judged(curves({"a": 5, "b": 5}), step="step")
    assert (facts["budget"], facts["equal"], len(facts["arms"][0]["curves"])) == ("5 steps", "steps", 6)
    assert next(lamp for lamp in facts["lamps"] if lamp["name"] == "budgets equal")["ok"]
    unequal = curves({"a": 5, "b": 8})
    with pytest.raises(DeclarationError, match=r"at: runs end between step 5 and 8; say 'common' .*\(5\)"):
        judged(unequal, step="step")
    common, last = (judged(unequal, step="step", at=at) for at in ("common", "last"))
    assert (common["budget"], last["budget"]) == ("5 steps", "each run's last step")
    assert comparison(common, "b")["difference"] == pytest.approx(-0.025)
    assert comparison(last, "b")["difference"] == pytest.approx(0.3 - 0.025)
    assert not next(lamp for lamp in last["lamps"] if lamp["name"] == "budgets equal")["ok"]
    with pytest.raises(DeclarationError, match="has no value at step 7"):
        judged(unequal, step="step", at=7)
    with pytest.raises(DeclarationError, match="two rows for seed 0; name the column of the steps"):
        judged(unequal)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metric": "val/los"}, "metric: there is no column 'val/los'; did you mean 'val/loss'?"),
        ({"baseline": "adam"}, "baseline: there is no arm 'adam'"),
        ({"margin": 0}, "margin: got 0"),
        ({"where": {"opt": "sgd"}}, "arms: got 1; allowed: at least two"),
        ({"where": {"opt": "adam"}}, "where: no row has"),
        ({"metric": "opt", "better": "lower"}, "metric: got 'sgd' in column 'opt'; allowed: numbers"),
        ({"metric": "seed"}, "better: got None"),
        ({"at": "end", "step": "seed", "seed": "opt"}, "at: got 'end'; allowed: 'last', 'common' or a step"),
    ],
)
def test_refusals_name_the_key(asked, said):
    with pytest.raises(DeclarationError) as caught:
        judged(table(), **asked)
    assert str(caught.value).startswith(said)


def test_whatever_holds_the_rows_the_verdict_is_the_same(tmp_path):
    rows = table()
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    frame.to_csv(tmp_path / "runs.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "runs.jsonl", orient="records", lines=True, double_precision=15)
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    want = judged(rows)["sentence"]
    for form in (frame, columns, *tmp_path.iterdir()):
        assert judged(form)["sentence"] == want
    with pytest.raises(DeclarationError, match="frame: got 3; allowed: a DataFrame"):
        rows_of(3)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DeclarationError, match="cannot be read as JSON"):
        rows_of(tmp_path / "broken.json")


def test_the_command_says_what_the_function_says(tmp_path):
    file = tmp_path / "runs.json"
    file.write_text(json.dumps(table()))
    words = ["verdict", str(file), "--arm", "opt", "--seed", "seed", "--metric", "val/loss", "--margin", "0.02"]
    said = CliRunner().invoke(group, [*words, "--out", str(tmp_path / "study")])
    assert said.exit_code == 0
    assert judged(file)["sentence"] in said.output
    assert (tmp_path / "study" / "report.html").exists()
    assert rg.Study.load(tmp_path / "study").verdicts == {
        "muon": "better",
        "lion": comparison(judged(file), "lion")["verdict"],
    }
    refused = CliRunner().invoke(group, [*words, "--where", "opt"])
    assert (refused.exit_code, refused.output) == (2, "--where: got 'opt'; allowed: COLUMN=VALUE\n")
