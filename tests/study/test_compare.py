"""A comparison spends nothing on what it would refuse, never takes a failure for a value, and overwrites no study."""

import errno
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.engine import checkpoint
from regimes.engine.identity import identity, key
from regimes.study.design import design_of
from regimes.study.live import Live
from regimes.study.own import Own
from regimes.study.tasks import Outcome, Task

BASE = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="10 steps")
ARMS = {"base": BASE, "fast": BASE.but(lr=0.2)}
OPTIONS = {"validate": None}


def data(n=32):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def make(loss=cross_entropy, **facts):
    given = {"train": data(), "val": data(16), "metrics": {"acc": rg.Accuracy()}} | facts
    return rg.Workload(model=lambda: nn.Linear(3, 2), loss=loss, **given)


@pytest.fixture
def compare(tmp_path):
    """Compare two arms in this process, in a folder of its own."""

    def call(work=None, arms=ARMS, **given):
        given = {
            "margin": 0.01,
            "seeds": 3,
            "level": 0.5,
            "validate": None,
            "progress": False,
            "out": tmp_path / "study",
        } | given
        return rg.compare(work or make(), arms, **given)

    return call


# -- what failed is no value -------------------------------------------------------------------------------------


def faulty(folder, why, at="seed 2"):
    """A loss that raises while the folder holds a file, in the run of one seed; the file is no part of the program."""
    flag = folder / "fault"
    flag.write_text("")

    def loss(model, batch):
        if flag.exists() and torch.initial_seed() == SEED_OF_A_STEP[at]:
            raise why
        return cross_entropy(model, batch)

    return flag, loss


def step_seed(seed, step):
    """What torch's generator is set to in the forward of a step: it tells a loss which run it serves."""
    run = rg.Run(make(), BASE, seed)
    return run.streams.seed32("forward", step, 0)


SEED_OF_A_STEP = {"seed 2": step_seed(2, 7)}


@pytest.mark.parametrize("why", [KeyError("no such example"), MemoryError(), torch.OutOfMemoryError("no memory")])
def test_a_crash_is_no_value_and_the_rest_is_finished(compare, tmp_path, why):
    flag, loss = faulty(tmp_path, why)
    study = compare(make(loss), command="regimes compare mine.py")
    arms = study.to_dict()["arms"]
    assert [[value is None for value in arm["values"]] for arm in arms] == [[seed == 2 for seed in range(3)]] * 2
    notes = study.to_dict()["notes"]
    assert [note.startswith(f"arm '{name}': what failed is no value (seed 2): ") for name, note in zip(ARMS, notes)]
    assert notes[-1] == "what failed is tried again, and only that computed, by regimes compare mine.py"

    flag.unlink()
    again = compare(make(loss)).to_dict()
    assert [arm["reused"] for arm in again["arms"]] == [2, 2]
    assert not any(value is None for arm in again["arms"] for value in arm["values"])
    assert again["notes"] == []


def test_an_outcome_says_whether_it_diverged_or_failed(tmp_path):
    squares = make(lambda model, batch: model(batch[0]).square().sum(1))
    exploded = Own(squares, OPTIONS).train(Task("a", BASE.but(lr=1e6, budget="40 steps"), 0), tmp_path)
    assert (exploded.diverged, exploded.failed, exploded.metrics) == (True, False, {})
    assert "steps in a row were not finite" in exploded.failure

    _, loss = faulty(tmp_path, KeyError("no such example"))
    crashed = Own(make(loss), OPTIONS).train(Task("a", BASE, 2), tmp_path)
    assert (crashed.diverged, crashed.failed, crashed.metrics) == (False, True, {})
    assert "KeyError: 'no such example'" in crashed.failure
    assert "in loss\n    raise why" in crashed.traceback

    _, loss = faulty(tmp_path, torch.OutOfMemoryError("no memory"))
    full = Own(make(loss), OPTIONS).train(Task("a", BASE, 2), tmp_path)
    assert (full.diverged, full.failed) == (False, True)
    assert "out of memory" in full.failure

    fine = Own(make(), OPTIONS).train(Task("a", BASE, 0), tmp_path)
    assert (fine.diverged, fine.failed, fine.failure, fine.traceback) == (False, False, None, None)


def test_a_full_disk_is_no_divergence(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    outcome = Own(make(), OPTIONS).train(Task("a", BASE, 0), tmp_path)
    assert (outcome.diverged, outcome.failed) == (False, True)
    assert "No space left on device" in outcome.failure
    monkeypatch.undo()
    assert Own(make(), OPTIONS).train(Task("a", BASE, 0), tmp_path).failure is None


def test_a_failed_trial_leaves_its_arm_without_values(compare, tmp_path):
    """An arm that was tuned less than the others is not compared; called again it is."""
    work = make()
    tune = {"optimizer.lr": rg.times(1 / 2, 2)}
    whole = compare(work, out=tmp_path / "whole", tune=tune, trials=2).to_dict()
    # The folder of the second arm's last trial cannot be written: a file stands in its place.
    trial = ARMS["fast"].but(lr=whole["arms"][1]["tuning"]["trials"][1]["values"]["optimizer.lr"])
    name = key(identity(rg.Run(work, trial, 1_000_000)))
    flag = tmp_path / "study" / "runs" / name
    flag.parent.mkdir(parents=True)
    flag.write_text("")
    found = compare(work, tune=tune, trials=2).to_dict()
    assert [arm["values"] for arm in found["arms"]] == [whole["arms"][0]["values"], [None] * 3]
    assert "trial 1" in found["notes"][0]
    flag.unlink()
    assert [arm["values"] for arm in compare(work, tune=tune, trials=2).to_dict()["arms"]] == [
        arm["values"] for arm in whole["arms"]
    ]


def test_a_run_that_another_process_trains_is_waited_for(tmp_path, capsys):
    work = make()
    folder = tmp_path / key(identity(rg.Run(work, BASE, 0)))
    folder.mkdir()
    taken, waited = threading.Event(), threading.Event()

    def train():
        with FileLock(folder / ".lock"):
            taken.set()
            waited.wait()

    threading.Thread(target=train).start()
    taken.wait()
    threading.Timer(1.0, waited.set).start()
    outcome = Own(work, OPTIONS).train(Task("a", BASE, 0), tmp_path)
    assert waited.is_set()
    assert outcome.failure is None
    assert f"{folder} is being trained by another process; waiting for it" in capsys.readouterr().err


def test_equal_arms_share_their_runs(compare):
    facts = compare(arms={"base": BASE, "again": BASE.but(lr=0.1), "fast": ARMS["fast"]}).to_dict()
    assert facts["notes"] == ["arms 'base' and 'again' are declared the same: one run serves both"]
    assert [arm["reused"] for arm in facts["arms"]] == [0, 3, 0]
    assert facts["arms"][0]["values"] == facts["arms"][1]["values"]


# -- one study never overwrites another --------------------------------------------------------------------------


def test_more_seeds_bring_a_study_up_to_date(compare, tmp_path):
    compare(seeds=3)
    facts = compare(seeds=4).to_dict()
    assert [arm["reused"] for arm in facts["arms"]] == [3, 3]
    assert [note.partition(" seeds")[0] for note in facts["notes"]] == ["it was judged at 3"]
    assert not list((tmp_path / "study").glob("earlier-*"))


def test_another_study_is_kept_beside(compare, tmp_path):
    folder = tmp_path / "study"
    first = compare(seeds=4).to_dict()
    (folder / "report.html").write_text("first")
    second = compare(seeds=3, margin=0.5, arms=ARMS | {"fast": BASE.but(lr=0.3)}, level=0.4).to_dict()
    assert second["notes"] == [
        f"{folder} held another study (margin: 0.01 -> 0.5; level: 0.5 -> 0.4; arms: 'fast'; "
        f"seeds: [0, 1, 2, 3] -> [0, 1, 2]): it is kept in {folder / 'earlier-1'}; runs that both "
        "ask for are shared"
    ]
    assert rg.Study.load(folder / "earlier-1").to_dict() == json.loads(json.dumps(first))
    assert (folder / "earlier-1" / "report.html").read_text() == "first"
    assert rg.Study.load(folder).to_dict()["margin"] == 0.5
    assert [arm["reused"] for arm in second["arms"]] == [3, 0]
    # Back again: the first takes its old place beside, and no third folder comes.
    third = compare(seeds=4).to_dict()
    assert [arm["reused"] for arm in third["arms"]] == [4, 4]
    compare(seeds=3, margin=0.5, arms=ARMS | {"fast": BASE.but(lr=0.3)}, level=0.4)
    assert sorted(path.name for path in folder.glob("earlier-*")) == ["earlier-1", "earlier-2"]
    assert rg.Study.load(folder / "earlier-1").to_dict()["seeds"] == list(range(4))


# -- refused before anything is spent ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"margin": float("inf")}, "margin: got inf; allowed: the smallest difference that matters, > 0"),
        ({"margin": float("nan")}, "margin: got nan; allowed"),
        ({"metric": "val/foo/loss"}, "metric: there is no metric 'val/foo/loss'; "),
        ({"metric": "val/loss/deep"}, "metric: there is no metric 'val/loss/deep'; "),
        ({"metric": "val/acc/micro"}, "metric: there is no metric 'val/acc/micro'; "),
        ({"metric": "train/loss"}, "metric: got 'train/loss', but the workload has no train data to judge on"),
        ({"metric": "test/loss"}, "metric: got 'test/loss', but the workload has no test data to judge on"),
        ({"metric": ["val/loss"]}, "metric: got ['val/loss']; allowed: the name of one metric"),
        ({"validate": "abc"}, "validate: got 'abc', which is no amount"),
        ({"validate": "0%"}, "validate: got '0%'; allowed: more than nothing"),
        ({"validate": "10 tokens"}, "arms.base.validate: got '10 tokens' where the budget is '10 steps'"),
        ({"arms": {"base": BASE, "b": BASE.but(evaluate="0%")}}, "arms.b.evaluate: got '0%'; allowed: more than"),
        ({"seeds": float("nan")}, "seeds: got nan; allowed: how many, or which"),
        ({"seeds": 1.5}, "seeds: got 1.5; allowed"),
        ({"seeds": "12"}, "seeds: got '12'; allowed"),
        ({"seeds": True}, "seeds: got True; allowed"),
        ({"seeds": [0, 1, 2, 3, 4, -5]}, "seeds: got [0, 1, 2, 3, 4, -5]; allowed"),
        ({"seeds": [0, 1, 2, 3, 4, 4]}, "seeds: got [0, 1, 2, 3, 4, 4]; allowed"),
        ({"seeds": [0, 1, 2, 3, 4, 5.5]}, "seeds: got [0, 1, 2, 3, 4, 5.5]; allowed"),
        ({"arms": [BASE, BASE]}, "arms: got [Regime("),
        ({"level": 1.0}, "level: got 1.0; allowed: a confidence between 0 and 1, such as 0.95"),
        ({"level": "high"}, "level: got 'high'; allowed"),
        ({"trials": -1}, "trials: got -1; allowed: how many tuning trials per arm, 0 or more"),
        ({"tune": [3], "trials": 2}, "tune: got [3]; allowed: a dict of path patterns to ranges"),
        ({"workers": 0}, "workers: got 0; allowed: how many processes, 1 or more"),
        ({"workers": 1.5}, "workers: got 1.5; allowed"),
        ({"baseline": 3}, "baseline: there is no arm '3'; "),
    ],
)
def test_refusals(compare, tmp_path, given, sentence):
    with pytest.raises(DeclarationError) as caught:
        compare(**given)
    assert str(caught.value).startswith(sentence)
    assert not (tmp_path / "study").exists()


def test_a_file_is_no_folder(compare, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("x = 3")
    with pytest.raises(DeclarationError, match="out: got '.*mine.py', which is a file; allowed: a folder"):
        compare(out=file)
    with pytest.raises(DeclarationError, match="out: got '.*mine.py', which is a file; allowed: a folder"):
        rg.run(make(), BASE, out=file)
    assert file.read_text() == "x = 3"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"checkpoint": "0%"}, "checkpoint: got '0%'; allowed: more than nothing"),
        ({"validate": "0 steps"}, "validate: got '0 steps'; allowed: more than nothing"),
        ({"checkpoint": "often"}, "checkpoint: got 'often', which is no amount"),
        ({"checkpoint": "5 tokens"}, "checkpoint: got '5 tokens' where the budget is '10 steps'"),
    ],
)
def test_cadences_of_a_run(options, sentence):
    with pytest.raises(DeclarationError) as caught:
        rg.run(make(), BASE, **options)
    assert str(caught.value).startswith(sentence)


def test_a_budget_that_is_a_share_of_nothing():
    with pytest.raises(DeclarationError, match="budget: got '150%', a share of nothing; write for example"):
        rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="150%")


def test_numpy_numbers_are_numbers(compare):
    facts = compare(seeds=np.arange(3), margin=np.float64(0.01)).to_dict()
    assert facts["seeds"] == list(range(3))
    assert [arm["reused"] for arm in compare(seeds=np.int64(3)).to_dict()["arms"]] == [3, 3]


def test_a_metric_of_one_source_or_of_an_object(compare):
    several = make(val={"one": data(16), "two": data(24)})
    assert compare(several, metric="val/two/acc", better="higher").to_dict()["metric"] == "val/two/acc"

    class Both:
        def reset(self): ...
        def update(self, output, target): ...
        def compute(self):
            return {"micro": 1.0, "macro": 2.0}

    found = compare(make(metrics={"both": Both()}), metric="both/macro", better="higher").to_dict()
    assert (found["metric"], found["arms"][0]["values"]) == ("val/both/macro", [2.0] * 3)


# -- equal budgets -----------------------------------------------------------------------------------------------


def sized(batch, budget):
    return rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=batch, budget=budget)


def designed(**arms):
    return design_of(Own(make(), {}), arms, None, "val/loss", None, 0.01, 6, {}, 0, None, 0.95)


def test_whole_batches_that_differ_are_refused():
    with pytest.raises(DeclarationError) as caught:
        designed(small=sized(8, "260 samples"), large=sized(256, "260 samples"))
    assert str(caught.value) == (
        "arms.large.budget: takes 512 samples in whole batches, the baseline 'small' 264; arms are compared at equal "
        "samples; the nearest budget that is whole batches of all: '256 samples'"
    )
    found = designed(small=sized(8, "256 samples"), large=sized(256, "256 samples"))
    assert (found.budget, found.equal, found.notes) == ("256 samples", "samples", ())


def test_whole_batches_that_hardly_differ_are_noted():
    found = designed(two=sized(2, "250 samples"), three=sized(3, "250 samples"))
    assert found.notes == ("in whole batches arm 'three' takes 252 samples, the baseline 250",)


def test_budgets_of_several_phases_are_added_up():
    """55 samples are two batches of 40, and 45 samples are two more."""

    def phased(batch, budget):
        phases = [rg.Phase("first", budget="55%"), rg.Phase("second", budget="45%")]
        return rg.Regime(phases=phases, optimizer=rg.SGD(lr=0.1), batch_size=batch, budget=budget)

    assert designed(a=sized(8, "800 samples"), b=phased(8, "800 samples")).notes == ()
    with pytest.raises(
        DeclarationError, match="takes 160 samples in whole batches, the baseline 'a' 104; .* whole batches of every"
    ):
        designed(a=sized(8, "100 samples"), b=phased(40, "100 samples"))


def test_seeds_that_are_added_after_a_verdict_are_said(tmp_path):
    """Adding seeds until a verdict comes is looking without paying for it; a planned look is not."""
    base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="12 steps")
    arms = {"a": base, "b": base.but(lr=0.11)}

    def notes(**asked):
        study = rg.compare(rg.workloads.load("quadratic"), arms, margin=0.01, out=tmp_path, progress=False, **asked)
        return [note for note in study.to_dict()["notes"] if "judged at" in note]

    assert notes(seeds=6) == notes(seeds=6) == []
    assert "it was judged at 6 seeds before more were added" in notes(seeds=8)[0]
    assert "at 6 seeds" in notes(seeds=8)[0]  # it stays said
    assert "at 6 and 8 seeds" in notes(seeds=9)[0]


def test_runs_that_are_there_take_one_line_and_no_time(capsys):
    """The time left is told from what was trained now: 20 s for each of 2, and 4 are left of 10."""
    live = Live(SimpleNamespace(metric="val/loss"), "study", True)

    def outcome(number, reused):
        task = Task("arm", None, number)
        return Outcome(task, {"val/loss": 1.0}, [], [], {}, 1, 1, 0.0, "key", reused)

    outcomes = []
    for number, reused in enumerate([True] * 4 + [False] * 2):
        outcomes.append(outcome(number, reused))
        live.show(outcomes, 10, 20.0 * (number - 3))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "[  4/10] runs were there already"
    assert [line.rsplit("   ", 1)[1] for line in said[1:]] == ["1.7 min left", "80 s left"]
    live.show([outcome(number, True) for number in range(10)], 10, 0.1)
    assert capsys.readouterr().err == "[ 10/10] 10 runs were there already\n"


@pytest.mark.parametrize("told", [True, False])
def test_what_is_under_way_counts_when_the_first_of_a_stack_ends(capsys, told):
    """Of 10 runs 5 are trained together and have gone 80% of their way in 40 s: 4 runs' worth, 6 are left."""
    live = Live(SimpleNamespace(metric="val/loss"), "study", True)
    live._told = 0.0 if told else 35.0  # a line of how far they are came just before
    live.wait([], 10, 40.0, 4.0)
    live.show([Outcome(Task("arm", None, 0), {"val/loss": 1.0}, [], [], {}, 1, 1, 0.0, "key", False)], 10, 40.0)
    said = capsys.readouterr().err.splitlines()
    assert [line.rsplit("   ", 1)[1] for line in said] == ["60 s left", "60 s left"][not told :]
