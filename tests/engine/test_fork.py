"""A child begins with its parent's state to the bit; what is edited goes on, begins anew or is refused, and is told."""

import importlib.util
import json
import random
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import regimes as rg
from regimes.core.errors import DeclarationError, ResumeError
from regimes.engine import checkpoint, trees
from regimes.engine import fork as engine
from regimes.engine.folder import Folder
from regimes.engine.stored import Stored
from regimes.testing.conformance import tiny

_SPEC = importlib.util.spec_from_file_location("replaying", Path(__file__).with_name("replaying.py"))
replaying = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(replaying)

BASE = rg.Regime(optimizer=rg.SGD(lr=rg.Linear(0.2), momentum=0.9), batch_size=8, budget="40 steps")
PHASES = rg.Regime(
    phases=[
        rg.Phase("warm", budget="40%", optimizer=rg.SGD(lr=rg.Linear(0.1))),
        rg.Phase("main2", budget="60%", optimizer=rg.AdamW(lr=rg.Cosine(1e-2)), average=rg.EMA(0.9)),
    ],
    batch_size=8,
    budget="30 steps",
)
FILES = ("records.jsonl", "final/model.safetensors", "result.json")


def same_files(one, other):
    return [name for name in FILES if (one / name).read_bytes() != (other / name).read_bytes()]


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_without_edits_it_is_its_parents_continuation(tmp_path, count):
    tried = 0
    for number, folder, work, _ in replaying.several(10 * count, tmp_path, first=0):
        if (folder / "result.json").exists():
            at = random.Random(number).randrange(len(replaying.steps(folder)))
            with tiny.one_thread():
                child = rg.fork(folder, at, workload=work)
            assert same_files(child.folder, folder) == [], number
            tried += 1
        if tried == count:
            return
    raise AssertionError(f"only {tried} runs ended")


@pytest.fixture
def made(work, tmp_path):
    return rg.run(work, BASE, seed=2, out=tmp_path / "base", checkpoint="10 steps", validate="25%")


@pytest.mark.parametrize("at", [0, 1, 17, 30, 39])
def test_its_beginning_is_the_parents_state(work, made, at):
    child = rg.fork(made, at)
    start = checkpoint.read(child.folder / "start")["run"]
    again = Stored(made.folder, work, BASE).again(at)
    assert trees.differences(start, trees.clone(again.until(at).tree())) == []
    assert again.begun == {0: 0, 1: 0, 17: 0, 30: 30, 39: 30}[at]
    assert same_files(child.folder, made.folder) == []
    assert child.lineage["changes"]["trained_again"] == [again.begun, at]
    assert child.lineage["changes"]["knobs"] == []


@pytest.mark.parametrize("at", [0, 11, 12, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 4, 13))])
def test_at_trials_and_at_borders_of_phases(work, tmp_path, at):
    """Trials that the step begins with are the child's own; so is a phase that begins with it."""
    regime = PHASES.but({"warm.optimizer.lr": "RangeTest(0.001, 0.5, budget='6 steps')"})
    made = rg.run(work, regime, out=tmp_path / "r", checkpoint="1 steps")
    assert any("trial" in json.loads(row) for row in (made.folder / "records.jsonl").read_text().splitlines())
    assert same_files(rg.fork(made, at).folder, made.folder) == []


def test_a_checkpoint_after_the_trial_of_a_step_is_not_the_beginning_of_that_step(work, tmp_path):
    """The trial that step 0 begins with is the child's own, under its own declaration."""
    regime = PHASES.but({"warm.optimizer.lr": "RangeTest(0.001, 0.5, budget='6 steps')"})
    for record in rg.stream(work, regime, out=tmp_path / "r", checkpoint="1 steps"):
        if "trial" not in record.signals:
            break  # the checkpoint after the trial's last step has been written
    child = rg.fork(tmp_path / "r", 0, {"warm.optimizer.lr": "RangeTest(0.001, 0.9, budget='6 steps')"}, workload=work)
    rows = [json.loads(row) for row in (child.folder / "records.jsonl").read_text().splitlines()]
    assert max(row["knobs"]["optimizer.lr"] for row in rows if "trial" in row) > 0.25
    assert checkpoint.read(child.folder / "start")["records_bytes"] == 0


def test_a_rate_is_edited_and_the_next_step_is_the_formula(work, made):
    """Same batch, same momentum, another rate: p - lr (0.9 m + g), by hand."""
    child = rg.fork(made, 20, {"lr.peak": 0.02})
    parent = Stored(made.folder, work, BASE).again(20).until(20)
    before = {n: p.detach().clone() for n, p in parent.parameters.items()}
    memory = {n: s["momentum_buffer"].clone() for n, s in parent.states["optimizer"]["slots"].items()}
    x, y = work.sources["train"]["train"].fetch(parent.frame.plans[0].indices, {})
    torch.manual_seed(parent.streams.seed32("forward", 20, 0))
    loss = torch.nn.functional.cross_entropy(parent.model.train()(x), y)
    gradients = torch.autograd.grad(loss, list(parent.parameters.values()))
    after = Stored(child.folder, work, child.regime).again(21).until(21)
    assert child.records[20]["knobs"]["optimizer.lr"] == 0.01
    for (name, old), g in zip(before.items(), gradients):
        torch.testing.assert_close(after.parameters[name], old - 0.01 * (0.9 * memory[name] + g), rtol=1e-6, atol=1e-7)


def test_a_longer_budget_moves_horizon_and_fractions(work, made):
    child = rg.fork(made, 20, {"budget": "80 steps"})
    changes = child.lineage["changes"]
    assert changes["horizon"] == {"before": "40 steps", "after": "80 steps"}
    assert changes["knobs"] == [{"path": "optimizer.lr", "before": 0.1, "after": pytest.approx(0.15)}]
    assert changes["edits"] == [{"path": "budget", "old": "'40 steps'", "new": "'80 steps'"}]
    assert child.records[:20] == made.records[:20]
    assert [row["knobs"]["optimizer.lr"] for row in child.records[20:]] == pytest.approx(
        [0.2 * (1 - step / 80) for step in range(20, 80)]
    )
    assert (child.steps, child.samples, child.work.samples) == (80, 640, 640)
    assert child.work.flops == pytest.approx(2 * made.work.flops, rel=1e-12)


def test_a_run_that_is_over_goes_on(work, made):
    child = rg.fork(made, 40, {"budget": "50 steps", "lr": "Constant(0.05)"})
    assert child.steps == 50
    assert child.records[:40] == made.records
    expected = rg.run(work, BASE.but(budget="50 steps"), seed=2)
    # The order of the data is that of a run which was longer from the beginning.
    assert [r["samples"] for r in child.records] == [r["samples"] for r in expected.records]


STATES = {
    "momentum": ({"optimizer.momentum": 0.5}, ["optimizer", "sampler", "loss"], []),
    "another rule": ({"optimizer": "AdamW(lr=0.01)"}, ["sampler", "loss"], ["optimizer"]),
    "another sampler": ({"sampler": "LossWeighted()"}, ["optimizer", "loss"], ["sampler", "cursor"]),
    "an average": ({"average": "EMA(0.9)"}, ["optimizer", "sampler", "loss"], ["average"]),
    "a loss": ({"loss": "CrossEntropy(label_smoothing=0.1)"}, ["optimizer", "sampler"], ["loss"]),
    "batch size": ({"batch_size": 4}, ["optimizer", "sampler", "loss"], []),
    "a controller": ({"lr": "0.1 * Plateau(patience=2)", "evaluate": "10%"}, ["optimizer"], ["optimizer.lr"]),
}


@pytest.mark.parametrize("name", STATES)
def test_states_go_on_where_they_fit_and_are_told(work, made, name):
    edits, carried, reset = STATES[name]
    child = rg.fork(made, 15, edits)
    changes = child.lineage["changes"]
    assert set(carried) <= set(changes["carried"])
    assert changes["reset"] == reset
    start = checkpoint.read(child.folder / "start")["run"]
    parent = trees.clone(Stored(made.folder, work, BASE).again(15).until(15).tree())
    for slot in carried:
        assert trees.differences(start["states"][slot], parent["states"][slot]) == [], slot
    assert trees.differences(start["model"], parent["model"]) == []
    moved = "batch_size" in edits or "sampler" in edits
    assert (trees.differences(start["frames"][0]["plans"], parent["frames"][0]["plans"]) != []) == moved
    assert (start["frames"][0]["cursor"] == parent["frames"][0]["cursor"]) == ("cursor" not in reset)
    assert child.steps == 40


def test_every_example_is_used_once_over_a_fork_with_another_batch_size(work, tmp_path):
    """The cursor goes on: of 40 examples, 16 are the parent's and 24 the child's."""
    made = rg.run(work, BASE.but(budget="5 steps"), out=tmp_path / "r")
    child = rg.fork(made, 2, {"batch_size": 4, "budget": "8 steps"})
    seen, run = [], Stored(made.folder, work, made.regime).again(0).run
    for _ in range(2):
        seen += run.frame.plans[0].indices.tolist()
        run.step()
    run = Stored(child.folder, work, child.regime).again(2).run
    while not run.finished:
        seen += run.frame.plans[0].indices.tolist()
        run.step()
    assert sorted(seen) == list(range(40))


def test_what_is_trained_no_more_stays_as_it_was(made):
    child = rg.fork(made, 20, {"trainable": "['4.*']"})
    start = checkpoint.read(child.folder / "start")["run"]
    end = checkpoint.read(child.folder / "checkpoints" / checkpoint.names(child.folder / "checkpoints")[0])["run"]
    assert set(start["states"]["optimizer"]["slots"]) == {"4.weight", "4.bias"}
    assert torch.equal(start["model"]["0.weight"], end["model"]["0.weight"])
    assert not torch.equal(start["model"]["4.weight"], end["model"]["4.weight"])


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "edits", "sentence"),
    [
        (
            20,
            {"budget": "20 steps"},
            r"budget: got '20 steps', which is over at step 20 \(20 steps\); allowed: a longer",
        ),
        (40, {}, r"budget: got '40 steps', which is over at step 40"),
        (41, {}, r"at: got 41; allowed: 0 to 40, the steps that there are records of"),
        (-1, {}, r"at: got -1; allowed: a step, an integer from 0 on"),
        (True, {}, r"at: got True; allowed: a step"),
        (5, {"lr.peek": 0.1}, r"lr\.peek: .*peak"),
        (5, {"main.name": "other"}, r"name: got another; allowed: the names of the parent's phases"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(made, at, edits, sentence):
    before = sorted(made.folder.parent.iterdir())
    with pytest.raises(DeclarationError, match=sentence):
        rg.fork(made, at, edits)
    assert sorted(made.folder.parent.iterdir()) == before


def test_what_is_over_is_not_edited(work, tmp_path):
    made = rg.run(work, PHASES, out=tmp_path / "r")
    with pytest.raises(DeclarationError, match=r"warm\.optimizer\.lr\.peak: .*phase 'warm' is over at step 20"):
        rg.fork(made, 20, {"warm.optimizer.lr.peak": 0.3})
    with pytest.raises(DeclarationError, match=r"warm\.budget: .* is over at step 20"):
        rg.fork(made, 20, {"budget": "60 steps"})
    with pytest.raises(DeclarationError, match=r"main2\.carry: .*has been entered at step 20"):
        rg.fork(made, 20, {"main2.carry": ["averaged"]})
    later = rg.fork(made, 5, {"main2.optimizer.lr.peak": 0.02})
    assert later.lineage["changes"]["knobs"] == []
    assert later.records[:12] == made.records[:12]
    assert later.records[12]["knobs"]["optimizer.lr"] == 0.02


def test_a_forks_own_past_is_its_parents(work, made):
    child = rg.fork(made, 20, {"lr.peak": 0.1})
    grandchild = rg.fork(child, 25, {"lr.peak": 0.3})
    assert grandchild.records[:20] == made.records[:20]
    assert grandchild.records[:25] == child.records[:25]
    assert grandchild.lineage["folder"] == str(child.folder)
    assert len(rg.replay(child, (20, 22)).rows) == 2
    for ask in (lambda: rg.fork(child, 19), lambda: rg.replay(child, (18, 22))):
        with pytest.raises(DeclarationError, match=rf"was forked at step 20; allowed: from there on; .* {made.folder}"):
            ask()


def test_another_run_in_its_folder_is_refused(work, made, tmp_path):
    rg.fork(made, 20, {"lr.peak": 0.1}, out=tmp_path / "c")
    with pytest.raises(ResumeError, match="another lineage"):
        rg.fork(made, 21, {"lr.peak": 0.1}, out=tmp_path / "c")
    with pytest.raises(ResumeError, match="holds another regime"):
        rg.fork(made, 20, {"lr.peak": 0.2}, out=tmp_path / "c")
    with pytest.raises(ResumeError, match="another"):
        rg.fork(made, 20, out=made.folder)
    assert same_files(rg.fork(made, 20).folder, made.folder) == []


# -- killed, found again, continued ----------------------------------------------------------------------------------


def test_made_again_it_is_found_finished(work, made):
    first = rg.fork(made, 20, {"lr.peak": 0.1})
    times = (first.folder / "times.jsonl").read_text()
    again = rg.fork(made, 20, {"lr.peak": 0.1})
    assert (again.folder, again.metrics, again.lineage) == (first.folder, first.metrics, first.lineage)
    assert (first.folder / "times.jsonl").read_text() == times


def test_a_child_is_continued_as_any_run(work, made, tmp_path):
    whole = rg.fork(made, 20, {"lr.peak": 0.1}, out=tmp_path / "whole")
    with pytest.raises(rg.RegimesError, match="stopped at step 21; continue with: regimes resume"):
        rg.fork(made, 20, {"lr.peak": 0.1}, out=tmp_path / "c", max_time=0)
    shutil.rmtree(tmp_path / "c" / "checkpoints")  # what it began from is still there
    options = {"checkpoint": "10 steps", "validate": "25%"}
    rg.run(work, BASE.but({"lr.peak": 0.1}), seed=2, out=tmp_path / "c", **options)
    assert same_files(tmp_path / "c", whole.folder) == []
    with pytest.raises(ResumeError, match="another regime"):
        rg.run(work, BASE, seed=2, out=tmp_path / "c", **options)


def test_killed_while_its_folder_is_made_it_is_made_anew(work, made, tmp_path, monkeypatch):
    whole = rg.fork(made, 20, {"lr.peak": 0.1}, out=tmp_path / "whole")
    for holder, name in ((Folder, "begin"), (checkpoint, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                rg.fork(made, 21, out=tmp_path / "c")
        assert not (tmp_path / "c" / "run.json").exists()
    assert (tmp_path / "c" / "records.jsonl").read_bytes().count(b"\n") == 21
    assert same_files(rg.fork(made, 20, {"lr.peak": 0.1}, out=tmp_path / "c").folder, whole.folder) == []


def test_a_parent_in_training_is_forked_without_its_lock(work, tmp_path):
    stream = rg.stream(work, BASE, seed=2, out=tmp_path / "r", checkpoint="4 steps")
    for _ in range(25):
        next(stream)
    child = rg.fork(tmp_path / "r", 22, workload=work)
    stream.close()
    assert child.lineage["changes"]["trained_again"] == [20, 22]
    whole = rg.run(work, BASE, seed=2, out=tmp_path / "r", checkpoint="4 steps")
    assert same_files(child.folder, whole.folder) == []


def test_a_damaged_checkpoint_of_the_parent_is_passed_over_and_left(made):
    newest, before = sorted((made.folder / "checkpoints").iterdir(), reverse=True)
    (newest / "tensors.safetensors").write_bytes(b"")
    (before / "state.json").write_text("{")
    child = rg.fork(made, 40 - 5)
    assert child.lineage["changes"]["trained_again"] == [0, 35]
    assert newest.is_dir()
    assert before.is_dir()


# -- the command that a refusal ends with ----------------------------------------------------------------------------

CHANGES = {
    "a rate": {"lr.peak": 0.1},
    "longer": {"budget": "50 steps", "lr.peak": 0.1},
    "a rule": {"optimizer": "AdamW(lr=Cosine(0.01, warmup='10%'))"},
    "transforms": {"grad_transforms": "[ClipNorm(2.0)]", "average": "EMA(0.9)"},
    "words": {"carry": ["model", "optimizer"], "trainable": "['4.*']"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_refusal_ends_with_a_fork_that_makes_the_change(work, made, name):
    from regimes.study.edits import regime_with

    after = BASE.but(CHANGES[name])
    with pytest.raises(ResumeError) as refused:
        rg.run(work, after, seed=2, out=made.folder)
    command = re.search(r"or fork it: (regimes fork .*)$", str(refused.value))[1]
    words = shlex.split(command)
    assert words[:4] == ["regimes", "fork", str(made.folder), "--at"]
    assert words[4] == ("40" if name == "longer" else "30")
    assert words[5::2] == ["--set"] * len(words[6::2])
    assert regime_with(BASE, words[6::2]) == after


def test_what_no_edit_makes_gets_no_command(work, made):
    with pytest.raises(ResumeError, match="give another out=$"):
        rg.run(work, PHASES, seed=2, out=made.folder)


def test_a_number_in_place_of_a_schedule_is_written_as_one(work, tmp_path):
    regime = BASE.but({"batch_size": "Linear(4, 8)"})
    made = rg.run(work, regime, out=tmp_path / "r")
    with pytest.raises(ResumeError, match=r"--at \d+ --set 'batch_size=Constant\(8\)'$"):
        rg.run(work, BASE, out=made.folder)


def test_json_of_a_folder_says_of_which_run_it_is(made):
    child = rg.fork(made, 20, {"lr.peak": 0.1})
    declared = json.loads((child.folder / "run.json").read_text())
    assert declared["identity"]["lineage"] == {
        "parent": json.loads((made.folder / "run.json").read_text())["key"],
        "at": 20,
    }
    assert made.lineage is None
    assert engine.horizon(Stored(made.folder, child.workload, BASE).begin()) == "40 steps"
