"""Verdicts over runs that somebody else made: against scipy, and what cannot be known is refused or said."""

import json
import math

import numpy as np
import pandas
import pytest
from click.testing import CliRunner
from scipy import stats

import regimes as rg
from regimes.cli import common, group
from regimes.core.errors import DeclarationError
from regimes.study.foreign.rows import rows_of
from regimes.study.sign_flip import least_rank_p

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
    facts = judged(table(seeds=seeds), assume="normal")
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
    facts = judged(rows, nan="missing", assume="normal")
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


def with_nan(bad):
    return [row | {"val/loss": math.nan} if bad(row) else row for row in curves({"a": 2, "b": 2, "c": 2})]


def test_a_curve_with_nan_that_is_missing_is_left_out_as_a_whole():
    late = with_nan(lambda row: row["opt"] == "b" and row["step"] == 2)
    two = [row for row in late if row["opt"] != "c"]
    for at in (None, "last", "common", 1):
        with pytest.raises(DeclarationError, match="arm: .*tells fewer than two arms apart that have runs"):
            judged(two, step="step", nan="missing", at=at)
    for step in (1, 2):  # at any step, not at the last only
        some = with_nan(lambda row, step=step: row["opt"] == "b" and row["seed"] in (1, 4) and row["step"] == step)
        facts = judged(some, step="step", nan="missing", at="last", assume="normal")
        assert next(arm for arm in facts["arms"] if arm["name"] == "b")["absent"] == [1, 4]
        assert comparison(facts, "b")["pairs"] == 4
        note = "left out as a whole, because val/loss is NaN at some step: b, seed 1; b, seed 4"
        assert note in facts["notes"]
        assert not any("without a value" in note for note in facts["notes"])


def test_an_empty_cell_of_a_curve_leaves_no_run_out():
    rows = [*curves({"a": 2, "b": 2}), {"opt": "b", "seed": 0, "step": 2, "val/loss": None, "other": 1}]
    facts = judged(rows, step="step", nan="missing")
    assert comparison(facts, "b")["pairs"] == 6
    assert not any("left out as a whole" in note or "without a value" in note for note in facts["notes"])


def test_runs_that_diverge_after_the_step_at_which_they_are_judged_are_told():
    bad = {"b": range(6), "c": [3]}
    rows = with_nan(lambda row: row["step"] == 2 and row["seed"] in bad.get(row["opt"], ()))
    told = [
        "6 runs of b hold NaN later: they diverged after the step at which they are judged",
        "1 run of c holds NaN later: it diverged after the step at which it is judged",
    ]
    short = [row for row in rows if (row["opt"], row["step"]) != ("a", 2)]
    for frame, at in ((rows, 1), (short, "common")):
        facts = judged(frame, step="step", nan="diverged", at=at, assume="normal")
        assert [note for note in facts["notes"] if "NaN" in note] == told
        assert [arm["diverged"] for arm in facts["arms"]] == [0, 0, 0]
    for frame, at in ((rows, 2), (rows, "last"), (rows, None), (short, "last")):
        facts = judged(frame, step="step", nan="diverged", at=at, assume="normal")
        assert [arm["diverged"] for arm in facts["arms"]] == [0, 6, 1]
        assert not any("NaN later" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metric": "val/los"}, "metric: there is no column 'val/los'; did you mean 'val/loss'?"),
        ({"baseline": "adam"}, "baseline: there is no arm 'adam'"),
        ({"margin": 0}, "margin: got 0"),
        ({"where": {"opt": "sgd"}}, "arm: got column 'opt', which tells fewer than two arms apart"),
        ({"where": {"opt": "adam"}}, "where: no row has"),
        ({"metric": "opt", "better": "lower"}, "metric: got 'sgd' in column 'opt'; allowed: numbers"),
        ({"metric": "seed"}, "better: say whether lower or higher"),
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
    with pytest.raises(DeclarationError, match="frame: got a DataFrame that cannot be read as rows: .*'seed' 2 times"):
        judged(pandas.concat([frame, frame["seed"]], axis=1))
    with pytest.raises(DeclarationError, match="of which two have one name"):
        judged({"opt": ["a"], 1: [1.0], "1": [2.0]})
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


# -- labels, seeds and rows, as the file has them -----------------------------------------------------------------------


def written(path, arms, seeds, head="opt,seed,acc", step=0.1):
    """A CSV of accuracies: the arms' labels as they stand here, a column of seeds each."""
    lines = [f"{a},{s},{0.5 + step * i + 0.01 * (j % 3)}" for i, a in enumerate(arms) for j, s in enumerate(seeds[i])]
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


ACC = {"metric": "acc", "better": "higher", "margin": 0.02}


def test_labels_are_the_text_that_the_file_has(tmp_path):
    labels = ["12e3456", "007", "7", "1_0", "10", "inf", "1e-3", "0.001"]
    file = written(tmp_path / "a.csv", labels, [range(8)] * len(labels))
    facts = judged(file, **ACC, assume="normal")
    assert [arm["name"] for arm in facts["arms"]] == labels
    assert facts["arms"][2]["values"][0] == pytest.approx(0.7)
    # A condition finds them as they are written, a number by any text that reads as it.
    assert judged(file, **ACC, where={"seed": 3})["seeds"] == [3]
    for label in labels:
        with pytest.raises(DeclarationError, match="tells fewer than two arms apart"):
            judged(file, **ACC, where={"opt": label})
    with pytest.raises(DeclarationError, match="where: no row has"):
        judged(file, **ACC, where={"opt": "0.0010"})
    assert (
        len(judged([{"opt": a, "seed": 1, "acc": 0.1, "lr": 1e-3} for a in "ab"], **ACC, where={"lr": "1e-3"})["arms"])
        == 2
    )


def test_labels_out_of_names_are_text_too():
    rows = [{"run": f"{a}-s{s}", "acc": 0.5 + 0.1 * (a == "7") + 0.01 * s} for a in ("007", "7") for s in range(6)]
    facts = judged(rows, **ACC, pattern=r"(?P<opt>\w+)-s(?P<seed>\d+)")
    assert ([arm["name"] for arm in facts["arms"]], facts["seeds"]) == (["007", "7"], list(range(6)))


def test_one_seed_is_one_seed_however_it_is_written(tmp_path):
    n = 6
    forms = {"ints": range(n), "floats": [float(s) for s in range(n)], "texts": [str(s) for s in range(n)]}
    forms |= {"float texts": [f"{s}.0" for s in range(n)], "numpy": np.arange(n)}
    rows = [
        {"opt": a, "seed": s, "acc": 0.1 * i + 0.01 * j} for i, a in enumerate(forms) for j, s in enumerate(forms[a])
    ]
    facts = judged(rows, **ACC, assume="normal")
    assert facts["seeds"] == list(range(n))
    assert {arm["comparison"]["pairs"] for arm in facts["arms"][1:]} == {n}
    json.dumps(facts)
    padded = written(tmp_path / "p.csv", "ab", [[f"{s:03}" for s in range(n)]] * 2)
    assert judged(padded, **ACC)["seeds"] == [f"{s:03}" for s in range(n)]
    mixed = written(tmp_path / "m.csv", "ab", [[f"{s:03}" for s in range(1, n)], range(1, n)])
    with pytest.raises(DeclarationError, match=r"shares no seed .* \(1 and 001 are two seeds; write those alike"):
        judged(mixed, **ACC)
    both = written(tmp_path / "b.csv", "ab", [["3", "003", *range(4, 10)]] * 2)
    assert judged(both, **ACC)["arms"][1]["comparison"]["pairs"] == 8


def test_a_row_that_stands_there_twice_counts_once_or_is_refused():
    rows = table()
    facts = judged([*rows, rows[3], dict(rows[10])])
    assert facts["arms"][1]["comparison"] == comparison(judged(rows), "muon")
    assert "2 rows stand there once more, alike in all columns, and count once" in facts["notes"]
    with pytest.raises(DeclarationError, match="arm 'sgd' has two rows for seed 3; name the column of the steps"):
        judged([*rows, rows[3] | {"val/loss": 1.0}])
    with pytest.raises(DeclarationError, match="two rows for seed 3"):  # one of them without a value
        judged([*rows, rows[3] | {"val/loss": None}])
    alone = [{name: row[name] for name in ("opt", "val/loss")} for row in rows]
    with pytest.raises(
        DeclarationError, match="frame: rows 3 and 21 are alike in all columns: one run that was copied"
    ):
        judged([*alone, alone[3]], seed=None)
    numbered = [row | {"number": i} for i, row in enumerate([*alone, alone[3]])]
    assert comparison(judged(numbered, seed=None), "muon")["n"] == SEEDS
    points = curves({"a": 3, "b": 3})
    assert judged([*points, points[0]], step="step")["arms"] == judged(points, step="step")["arms"]
    with pytest.raises(DeclarationError, match="arm 'a' has two rows for seed 0 at step 1; choose rows with where="):
        judged([*points, points[0] | {"val/loss": 9.0}], step="step")


def test_two_runs_of_one_seed_are_not_woven_into_one():
    first = [row | {"run": "one"} for row in curves({"a": 5, "b": 5})]
    other = [row | {"run": "two", "step": row["step"] + 0.5} for row in first if (row["opt"], row["seed"]) == ("a", 2)]
    with pytest.raises(
        DeclarationError, match=r"arm 'a', seed 2 has rows of several runs \(one, two\), one beside another"
    ):
        judged([*first, *other], step="step", at="last")
    later = [row | {"step": row["step"] + 5} for row in other]
    facts = judged([*first, *later], step="step", at="last")
    told = "arm 'a', seed 2 has rows of several runs (one, two), read as one: each goes on where the one before ended"
    assert told in facts["notes"]


def test_what_a_curve_does_beyond_the_step_that_is_judged_is_not_shown():
    """Of a run that went on, neither the value nor the curve reaches beyond the common end."""
    facts = judged(curves({"a": 5, "b": 8}), step="step", at="common")
    for arm in facts["arms"]:
        assert [curve["x"]["step"] for curve in arm["curves"]] == [[1, 2, 3, 4, 5]] * 6
        assert [curve["value"][-1] for curve in arm["curves"]] == arm["values"]


# -- how few is too few -------------------------------------------------------------------------------------------------


def test_few_seeds_are_refused_in_the_words_of_compare():
    few = table({arm: VALUES[arm][:3] for arm in ("sgd", "muon")})
    with pytest.raises(DeclarationError) as caught:
        judged(few)
    base = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="12 steps")
    with pytest.raises(DeclarationError) as theirs:
        rg.compare(
            rg.workloads.load("quadratic"), {"a": base, "b": base.but({"optimizer.lr": 0.1})}, margin=0.1, seeds=3
        )
    words = str(theirs.value).removeprefix("seeds: ").removesuffix("; or 1, which gives no verdict")
    assert words.startswith("got 3; allowed: at least 6 seeds: 3 that all agree are p = 0.25 by chance")
    assert str(caught.value).startswith(
        f"seed: arm 'muon' and baseline 'sgd' share too few: {words}; or assume='normal'"
    )
    facts = judged(few, assume="normal")
    assert not next(lamp for lamp in facts["lamps"] if lamp["name"] == "enough seeds")["ok"]
    assert comparison(judged(table({arm: VALUES[arm][:6] for arm in ("sgd", "muon")})), "muon")["n"] == 6
    with pytest.raises(DeclarationError, match="assume: got 'luck'; allowed: 'normal', or nothing"):
        judged(few, assume="luck")


def test_few_runs_without_seeds_are_refused_where_ranks_could_show_nothing():
    few = table({arm: VALUES[arm][:3] for arm in ("sgd", "muon")})
    with pytest.raises(
        DeclarationError, match="arm: got 3 runs of 'muon' and 3 of 'sgd': in ranks they cannot be told apart"
    ):
        judged(few, seed=None)
    facts = judged(few, seed=None, assume="normal")
    assert (
        "in ranks so few cannot be told apart"
        in next(one for one in facts["lamps"] if one["name"] == "enough seeds")["text"]
    )
    assert comparison(judged(table({arm: VALUES[arm][:4] for arm in ("sgd", "muon")}), seed=None), "muon")["n"] == 4
    told = stats.mannwhitneyu([1, 2, 3, 4], [5, 6, 7], method="exact").pvalue
    assert least_rank_p(4, 3) == pytest.approx(told, abs=1e-15)


# -- where it is written ------------------------------------------------------------------------------------------------


def test_a_folder_with_another_study_is_left_alone(tmp_path):
    out = tmp_path / "study"
    first = judged(table(), out=out)
    before = (out / "study.json").read_bytes()
    again = judged([row | {"note": "x"} for row in table()], out=out, name=first["name"])
    assert again["sentence"] == first["sentence"]
    (out / "study.json").write_bytes(before)
    for asked in ({"margin": 0.3}, {"level": 0.9}, {"baseline": "lion"}, {"seed": None}):
        with pytest.raises(DeclarationError, match="out: got .* which holds another study"):
            judged(table(), out=out, **asked)
    changed = table()
    changed[0]["val/loss"] += 1e-9
    with pytest.raises(DeclarationError, match=r"another study \(values: 'sgd'\); allowed: a new folder"):
        judged(changed, out=out)
    with pytest.raises(DeclarationError, match=r"another study \(seeds"):
        judged([*table(), {"opt": "sgd", "seed": 99, "val/loss": 2.0}], out=out)
    assert (out / "study.json").read_bytes() == before
    (out / "design.json").unlink()
    with pytest.raises(DeclarationError, match="what it asked is not written down"):
        judged(table(), out=out)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DeclarationError, match="which is a file; allowed: a folder"):
        judged(table(), out=tmp_path / "file")


def test_a_study_of_compare_is_left_alone(tmp_path):
    base = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="12 steps")
    arms = {"base": base, "slow": base.but({"optimizer.lr": 0.1})}
    rg.compare(rg.workloads.load("quadratic"), arms, margin=0.1, seeds=6, out=tmp_path / "s", progress=False)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    with pytest.raises(DeclarationError, match="which holds another study"):
        judged(table(), out=tmp_path / "s")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.json")} == before


# -- the command line's words -------------------------------------------------------------------------------------------


def test_refusals_of_the_command_name_options(tmp_path):
    file = written(tmp_path / "runs.csv", "ab", [range(6)] * 2)

    def said(*words, path=file):
        asked = ["--arm", "opt", "--seed", "seed", "--metric", "acc", "--margin", "0.02"]
        found = CliRunner().invoke(group, ["verdict", str(path), *asked, *words])
        assert found.exit_code == 2
        return found.output.strip()

    assert said() == "--better: say whether lower or higher acc is better; allowed: 'lower' or 'higher'"
    assert said("--better", "higher", "--metric", "ac").startswith("--metric: there is no column 'ac'")
    assert said(path=tmp_path / "nothing.csv") == f"PATH: there is no '{tmp_path / 'nothing.csv'}'"
    few = written(tmp_path / "few.csv", "ab", [range(3)] * 2)
    assert said("--better", "higher", path=few).endswith(
        "or --assume normal, which takes paired differences to be normally distributed"
    )
    twice = written(tmp_path / "twice.csv", "ab", [[0, 0, 1]] * 2)
    assert said("--better", "higher", path=twice) == (
        "PATH: arm 'a' has two rows for seed 0; name the column of the steps (--step) if rows are points of a curve, or choose "
        "rows with --where"
    )
    none = written(tmp_path / "none.csv", "ab", [range(3), range(3, 6)])
    assert said("--better", "higher", path=none).endswith("leave --seed out to compare without pairs")
    assert said("--where", "opt=c", "--better", "higher") == "--where: no row has {'opt': 'c'}"


def test_what_is_written_as_a_call_is_no_option():
    with pytest.raises(DeclarationError) as caught, common.given_as(step=None, max_cost=None):
        raise DeclarationError("got f(1, step=2), g(step=1); say step=3 (max_cost='x'), or other=1", "max_cost")
    assert str(caught.value) == "--max-cost: got f(1, step=2), g(step=1); say --step 3 (--max-cost x), or other=1"


def test_a_file_of_another_separator(tmp_path):
    comma = written(tmp_path / "comma.csv", "ab", [range(6)] * 2)
    want = judged(comma, **ACC)["sentence"]
    for name, sign in (("semicolon.csv", ";"), ("tab.csv", "\t")):
        (tmp_path / name).write_text(comma.read_text().replace(",", sign))
        assert judged(tmp_path / name, **ACC)["sentence"] == want
    (tmp_path / "quoted.csv").write_text(comma.read_text().replace("opt,", '"a;b",').replace("opt", "a;b"))
    assert judged(tmp_path / "quoted.csv", **ACC, arm="a;b")["sentence"] == want
    (tmp_path / "decimal.csv").write_text(comma.read_text().replace(",", ";").replace(".", ","))
    with pytest.raises(
        DeclarationError, match="got '0,5' in column 'acc'; allowed: numbers, with a point before the decimals"
    ):
        judged(tmp_path / "decimal.csv", **ACC)
    (tmp_path / "twice.csv").write_text(comma.read_text().replace("opt,seed,acc", "opt,acc,acc"))
    with pytest.raises(DeclarationError, match="cannot be read as CSV: its first line names column 'acc' 2 times"):
        judged(tmp_path / "twice.csv", **ACC)
    (tmp_path / "twice.jsonl").write_text('{"opt": "a", "seed": 1, "acc": 0.1, "acc": 0.2}\n')
    with pytest.raises(DeclarationError, match="cannot be read as JSONL: an object names 'acc' twice"):
        judged(tmp_path / "twice.jsonl", **ACC)
