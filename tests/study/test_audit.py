"""An audit of real runs: every standing, the intervals, and re-runs that can be typed as they are printed."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import regimes as rg
from regimes.cli import group
from regimes.core.errors import DeclarationError, ResumeError
from regimes.study.audit import reruns
from regimes.study.earlier import PRICE

MARGIN = 0.001
BASE = "SGD(lr=Linear(0.1))"
#: Arm -> how it differs, its seeds.
ARMS = {
    "base": ({}, range(4)),
    "high": ({"optimizer.lr.peak": 0.5}, range(4)),
    "drawn": ({"sampler": rg.WithReplacement()}, range(4)),
    "batch": ({"batch_size": 8}, range(2)),
    "momentum": ({"optimizer.momentum": 0.3}, [0]),
    "late": ({"optimizer.lr.peak": 0.2}, [9]),
}


def regime(edits):
    made = rg.Regime(optimizer=rg.SGD(lr=rg.Linear(0.1)), batch_size=4, budget="20 steps")
    return made.but(edits) if edits else made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Sixteen runs, as somebody leaves them: a folder each, in the order in which they came to mind."""
    root = tmp_path_factory.mktemp("audit") / "runs"
    work = rg.workloads.load("quadratic")
    for name, (edits, seeds) in ARMS.items():
        for seed in seeds:
            rg.run(work, regime(edits), seed, out=root / f"{name}-seed{seed}")
    return root


@pytest.fixture(scope="module")
def found(runs):
    return rg.audit(runs, margin=MARGIN, differ=1)


def losses(root, name):
    files = {seed: root / f"{name}-seed{seed}" / "result.json" for seed in ARMS[name][1]}
    return {seed: json.loads(file.read_text())["metrics"]["val/loss"] for seed, file in files.items()}


def told(found, part):
    (one,) = [one for one in found.comparisons if part in one["changes"] and "0.1" in one["baseline"]]
    return one


def test_every_conclusion_has_its_standing(found):
    standings = {one["changes"]: one["standing"] for one in found.comparisons}
    assert standings == {
        "optimizer.lr.peak: 0.1 -> 0.5": "stands",
        "sampler: Reshuffle() -> WithReplacement()": "reverses on other seeds",
        "batch_size: 4 -> 8": "never decided",
        "optimizer.momentum: 0.0 -> 0.3": "one run each",
        "optimizer.lr.peak: 0.1 -> 0.2": "no common seed",
        "optimizer.lr.peak: 0.5 -> 0.2": "no common seed",
    }
    assert str(found).splitlines()[0] == (
        "16 runs of 6 regimes imply 6 comparisons: 1 stands, 1 reverses on other seeds, 1 never decided, "
        "1 with one run each, 2 without a common seed."
    )


@pytest.mark.parametrize(("name", "part"), [("high", "0.5"), ("drawn", "WithReplacement")])
def test_intervals_are_simultaneous_over_all_comparisons_that_have_a_common_seed(runs, found, name, part):
    one, base, arm = told(found, part), losses(runs, "base"), losses(runs, name)
    gains = np.array([base[seed] - arm[seed] for seed in arm])
    half = stats.t.ppf(1 - 0.05 / (2 * 4), len(gains) - 1) * gains.std(ddof=1) / math.sqrt(len(gains))
    assert found.to_dict()["family"] == 4
    assert one["gains"] == pytest.approx(list(gains))
    assert one["comparison"]["low"] == pytest.approx(gains.mean() - half)
    assert one["comparison"]["high"] == pytest.approx(gains.mean() + half)


def test_a_larger_margin_makes_the_same_of_what_was_open(runs):
    found = rg.audit(runs, margin=0.2, differ=1)
    assert told(found, "WithReplacement")["comparison"]["verdict"] == "same"
    assert told(found, "WithReplacement")["standing"] == "stands"


def test_re_runs_stand_in_the_order_of_decisions_per_second_and_never_pay_twice(found):
    made, worth = set(), []
    for rerun in found.reruns:
        runs = {(one["regime"], seed) for one in rerun["runs"] for seed in one["seeds"]}
        assert not runs & made
        made |= runs
        worth.append(len(rerun["settles"]) / max(rerun["seconds"], 1e-9))
    assert worth[0] == max(worth)
    open_ = [one["changes"] for one in found.comparisons if one["standing"] != "stands" and one["more_seeds"]]
    assert sorted(open_) == sorted(text for rerun in found.reruns for text in rerun["settles"])


def test_seeds_that_one_of_the_two_has_are_taken_first(found):
    """Momentum has seed 0; the base has 0 to 3: seeds 1 to 3 cost one run each."""
    seeds = {
        seed
        for rerun in found.reruns
        for one in rerun["runs"]
        if "momentum=0.3" in one["regime"]
        for seed in one["seeds"]
    }
    more = told(found, "momentum")["more_seeds"]
    assert seeds == {*range(1, more + 1)}
    base = [one for rerun in found.reruns for one in rerun["runs"] if one["regime"] == repr(regime({}))]
    taken = {seed for one in base for seed in one["seeds"]}
    assert not {0, 1, 2, 3} & taken
    assert 9 in taken  # the only seed of the late one: before any that neither has


def test_every_line_names_data_and_the_context_in_which_the_two_were_compared(found, runs):
    """Two comparisons of one change, in two contexts, were told by the same words."""
    (data,) = {tuple(json.loads(file.read_text())["identity"]["data"].values()) for file in runs.glob("*/run.json")}
    digests = ", ".join(dict.fromkeys(part[:6] for part in data))
    lead = f"quadratic (data {digests}), 20 steps, "
    lines = str(found).splitlines()
    assert any(
        line.startswith(
            f"  {lead}batch_size 4, optimizer.momentum 0.0, sampler Reshuffle(): optimizer.lr.peak: 0.1 -> 0.5: "
        )
        for line in lines
    )
    assert any(f"for {lead}" in line for line in lines if line.startswith("  1. "))
    assert found.comparisons[0]["data"] == digests
    wide = rg.audit(runs, margin=MARGIN, differ=2)
    told = [(one["context"], one["changes"]) for one in wide.comparisons]
    assert len(set(told)) == len(told)
    both = next(one for one in wide.comparisons if one["changes"].count("; ") == 1)
    assert not any(f"{path.split(':')[0]} " in both["context"] for path in both["changes"].split("; "))


def test_advice_on_more_seeds_says_what_adding_them_costs(found, runs):
    assert found.to_dict()["notes"][-1].startswith(
        "re-runs are added to comparisons whose verdict is known: whoever adds seeds"
    )
    assert "a new study on as many other seeds" in str(found)
    study = rg.compare(
        rg.workloads.load("quadratic"), {"base": regime({}), "drawn": regime(ARMS["drawn"][0])}, margin=MARGIN, seeds=6,
        out=runs.parent / "study", progress=False,
    )  # fmt: skip
    facts = study.to_dict()
    more = facts["arms"][1]["comparison"]["more_seeds"]
    (note,) = [note for note in facts["notes"] if note.startswith("to decide: ")]
    assert note in " ".join(str(study).split())
    assert PRICE in note
    assert f"a new study on {6 + more} seeds that were not used here keeps the level" in note
    decided = rg.compare(
        rg.workloads.load("quadratic"), {"base": regime({}), "high": regime(ARMS["high"][0])}, margin=MARGIN, seeds=6,
        out=runs.parent / "decided", progress=False,
    )  # fmt: skip
    assert not any("to decide" in note for note in decided.to_dict()["notes"])


def test_two_regimes_that_differ_in_more_imply_nothing(runs):
    paths = [
        {1 + one["changes"].count("; ") for one in rg.audit(runs, margin=MARGIN, differ=differ).comparisons}
        for differ in (1, 2)
    ]
    assert paths == [{1}, {1, 2}]


def test_runs_of_another_budget_or_unfinished_are_not_mixed_in(runs, tmp_path):
    root = tmp_path / "runs"
    work = rg.workloads.load("quadratic")
    short = rg.Regime(optimizer=rg.SGD(lr=rg.Linear(0.1)), batch_size=4, budget="10 steps")
    for seed in (0, 1):
        rg.run(work, short.but({"optimizer.lr.peak": 0.2}), seed, out=root / f"short-{seed}")
    rg.run(work, regime({}), 0, out=root / "long")
    rg.run(work, short, 0, out=root / "broken")
    (root / "broken" / "result.json").unlink()
    found = rg.audit(root, margin=MARGIN)
    assert found.comparisons == []
    assert str(found).splitlines() == [
        "3 runs of 2 regimes imply no comparison: no two differ in little.",
        "note: left out: 1 not finished",
    ]


def test_a_study_says_what_it_asked_and_its_command_makes_the_seeds(tmp_path):
    arms = {"base": regime({}), "drawn": regime({"sampler": rg.WithReplacement(), "optimizer.momentum": 0.01})}
    study = rg.compare(
        rg.workloads.load("quadratic"), arms, margin=MARGIN, seeds=6, out=tmp_path / "study", progress=False,
        command="regimes compare study.yaml --out x",
    )  # fmt: skip
    found = rg.audit(tmp_path, differ=1)  # they differ in two paths, but a study compared them
    (one,) = found.comparisons
    theirs = study.to_dict()["arms"][1]["comparison"]
    untimed = {name: value for name, value in theirs.items() if name != "more_seconds"}
    assert (one["margin"], {name: one["comparison"][name] for name in untimed}) == (MARGIN, untimed)
    assert theirs["verdict"] == "undecided"
    (rerun,) = found.reruns
    assert rerun["commands"] == [f"regimes compare study.yaml --out x --seeds {6 + one['more_seeds']}"]


@pytest.mark.slow
def test_a_printed_command_makes_the_run_that_was_missing(tmp_path):
    text = f"workload: quadratic\nregime:\n  optimizer: {BASE}\n  batch_size: 4\n  budget: 20 steps\n"
    (tmp_path / "base.yaml").write_text(text)
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": own}

    def typed(line):
        subprocess.run(line, shell=True, cwd="/", env=environment, check=True, capture_output=True)

    for name, edit in (("low", "optimizer.lr.peak=0.1"), ("near", "optimizer.lr.peak=0.101")):
        typed(f"cd {tmp_path} && regimes run base.yaml --set {edit} --seed=0 --out runs/{name}-seed0")
    before = rg.audit(tmp_path / "runs", margin=0.1)
    commands = [line for rerun in before.reruns for line in rerun["commands"]]
    assert len(commands) == 2 * before.comparisons[0]["more_seeds"]
    for line in commands[:1] + commands[len(commands) // 2 :][:1]:
        typed(line)
    (after,) = rg.audit(tmp_path / "runs", margin=0.1).comparisons
    assert (after["seeds"], after["standing"], after["comparison"]["verdict"]) == ([0, 1], "stands", "same")


def test_the_command_line_says_the_same(runs, found, monkeypatch):
    monkeypatch.chdir(runs.parent)
    line = ["audit", "--margin", str(MARGIN), "--differ", "1"]
    assert CliRunner().invoke(group, line).stdout.rstrip("\n") == str(found)
    told = json.loads(CliRunner().invoke(group, [*line, "--json"]).stdout)
    assert [one["standing"] for one in told["comparisons"]] == [one["standing"] for one in found.comparisons]


def test_what_cannot_be_audited_is_refused(runs, tmp_path):
    with pytest.raises(DeclarationError, match="margin: needs a value; no study below the folder says"):
        rg.audit(runs)
    with pytest.raises(DeclarationError, match="differ: got 0; allowed: 1 or more"):
        rg.audit(runs, margin=MARGIN, differ=0)
    with pytest.raises(ResumeError, match="there are no finished runs of regimes below"):
        rg.audit(tmp_path, margin=MARGIN)
    with pytest.raises(ResumeError, match="there is no folder"):
        rg.audit(tmp_path / "nowhere", margin=MARGIN)
    found = CliRunner().invoke(group, ["audit", str(runs), "--margin", "-1"])
    assert (found.exit_code, found.stderr.split(";")[0]) == (2, "--margin: got -1.0")


def test_a_study_that_tuned_or_looked_is_told_as_it_was_judged(tmp_path):
    """Its runs alone do not show the luck of trials, nor how often somebody looked."""
    arms = {"base": regime({}), "twin": regime({"optimizer.momentum": 0.01})}
    asked = {"margin": 1e-3, "seeds": 8, "progress": False}
    tuned = {"tune": {"optimizer.lr.peak": rg.times(1 / 8, 8)}, "trials": 4}
    for name, more in (("tuned", tuned), ("looked", {"until": "decided"})):
        study = rg.compare(rg.workloads.load("quadratic"), arms, out=tmp_path / name, **asked, **more)
        (one,) = [c for c in rg.audit(tmp_path / name, differ=1).comparisons if c["seeds"]]
        assert one["comparison"] == study.to_dict()["arms"][1]["comparison"]


def worth(new, made, left, price):
    cost = math.fsum(price[run] for run in new)
    return -sum(runs <= made | new for runs in left.values()) / max(cost, 1e-9), cost


def greedy_by_counting_all(needs, price):
    """Each time the runs that settle most comparisons per second, every comparison counted anew."""
    made, left, found = set(), dict(needs), []
    while left:
        worths = {place: worth(runs - made, made, left, price) for place, runs in left.items()}
        new = left[min(left, key=worths.get)] - made
        made |= new
        settled = [place for place, runs in left.items() if runs <= made]
        found.append((new, settled))
        left = {place: runs for place, runs in left.items() if place not in settled}
    return found


def test_the_order_of_re_runs_is_that_of_counting_every_comparison_anew():
    rng, shared = np.random.default_rng(0), 0
    for _ in range(300):
        arms, price = [f"arm-{i}" for i in range(rng.integers(2, 7))], {}
        needs = {}
        for place, (one, other) in enumerate(itertools.combinations(arms, 2)):
            seeds = range(int(rng.integers(0, 3)), int(rng.integers(3, 6)))
            runs = {(0, name, seed) for name in (one, other) for seed in seeds if rng.random() < 0.8}
            if runs:
                needs[place] = runs
                price |= {run: float(rng.choice([1.0, 2.0, 0.5])) for run in runs}
        found = list(reruns._greedy(needs, price))
        assert found == greedy_by_counting_all(needs, price)
        shared += any(len(settled) > 1 for _, settled in found)
    assert shared > 100
