"""A tracked run: the same bits, every point once, whatever is killed, and whatever fails is a note."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.track import courier, tracking
from regimes.track.tracking import tracked

HERE = Path(__file__).parent


def bits(folder):
    return [(Path(folder) / name).read_bytes() for name in ("records.jsonl", "result.json", "final/model.safetensors")]


def points(lines):
    return [(line["at"], line["values"]) for line in lines if "at" in line]


def test_the_points_are_the_records_and_no_bit_of_the_run_changes(copying, told, work, regime, tmp_path):
    plain = rg.run(work, regime, out=tmp_path / "plain", validate="50%")
    result = rg.run(work, regime, out=tmp_path / "a", validate="50%", track="tensorboard@samples")
    assert bits(tmp_path / "plain") == bits(tmp_path / "a")
    assert result.notes == plain.notes == []
    lines = told(tmp_path / "a" / "a.told")
    found = points(lines)
    assert [at for at, _ in found] == [4 * (step + 1) for step in range(40)]
    for (_, values), row in zip(found, plain.records):
        want = {"train/loss": row["loss"], "lr/all": row["knobs"]["optimizer.lr"]}
        want |= {name: row[name] for name in row if name.startswith("val/")}
        assert values == want | (plain.metrics if row["step"] == 39 else {})
    config = lines[0]["job"]["config"]
    assert (config["seed"], config["optimizer"], config["optimizer.lr.peak"]) == (0, "SGD", 0.1)
    assert config["budget"] == "40 steps"
    assert lines[-1] == {"closed": True}


def test_nothing_is_loaded_or_written_where_nobody_tracks(tmp_path):
    code = (
        "import sys, regimes as rg\n"
        "rg.run(rg.workloads.load('quadratic'), rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget='3 steps'), "
        f"out={str(tmp_path / 'a')!r})\n"
        "print([name for name in sys.modules if name.startswith('regimes.track')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not [file.name for file in (tmp_path / "a").iterdir() if "track" in file.name]


def test_stopped_and_resumed_every_point_comes_once(copying, told, work, regime, tmp_path):
    for place, _ in enumerate(rg.stream(work, regime, out=tmp_path / "a", track="tensorboard", checkpoint="5 steps")):
        if place == 22:  # beyond the checkpoint at step 20: steps 20 to 22 are made again
            break
    first = told(tmp_path / "a" / "a.told")
    assert first[-1] == {"closed": False}
    assert points(first)[-1][0] == 22
    rg.run(work, regime, out=tmp_path / "a", track="tensorboard", checkpoint="5 steps")
    rg.run(work, regime, out=tmp_path / "b", track="tensorboard", checkpoint="5 steps")
    assert points(told(tmp_path / "a" / "a.told")) == points(told(tmp_path / "b" / "b.told"))


def test_killed_at_any_moment_every_point_comes_once(copying, told, tmp_path):
    script = (
        "import sys, time, regimes as rg\n"
        "from regimes.track import tracking\n"
        "tracking.TRACKERS['tensorboard'] = 'copying:Copying'\n"
        "tracking.find_spec = lambda name: object()\n"
        "regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1)), batch_size=4, budget='120 steps')\n"
        "for _ in rg.stream(rg.workloads.load('quadratic'), regime, out='a', track='tensorboard', checkpoint='10 steps'):\n"
        "    time.sleep(0.02)\n"
    )
    for wait in (0.7, 1.6, None):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=os.environ)
        until = time.monotonic() + 60
        while wait is not None and not (tmp_path / "a" / "a.told").exists() and time.monotonic() < until:
            time.sleep(0.02)
        if wait is not None:
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        process.wait(120)
    found = points(told(tmp_path / "a" / "a.told"))
    assert [at for at, _ in found] == list(range(1, 121))
    rows = [json.loads(line) for line in (tmp_path / "a" / "records.jsonl").read_text().splitlines()]
    assert [values["train/loss"] for _, values in found] == [row["loss"] for row in rows]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("FAILS", "ConnectionError: the server is gone"),
        ("DIES", "it ended with status 7"),
        pytest.param("HANGS", "it took more than", marks=pytest.mark.slow),
    ],
)
def test_a_tracker_that_fails_is_a_note_and_the_same_call_sends_the_rest(
    copying, told, work, regime, tmp_path, monkeypatch, how, said
):
    monkeypatch.setattr(courier, "PATIENCE", 15.0 if how == "HANGS" else 120.0)
    monkeypatch.setenv(f"COPYING_{how}_AT", "15")
    result = rg.run(work, regime, out=tmp_path / "a", track="tensorboard")
    rg.run(work, regime, out=tmp_path / "plain")
    assert bits(tmp_path / "plain") == bits(tmp_path / "a")
    assert len(result.notes) == 1
    assert result.notes[0].startswith("tensorboard does not hold all points (" + said)
    monkeypatch.delenv(f"COPYING_{how}_AT")
    monkeypatch.setattr(courier, "PATIENCE", 120.0)
    assert rg.run(work, regime, out=tmp_path / "a", track="tensorboard").notes == []
    lines = told(tmp_path / "a" / "a.told")
    assert [at for at, _ in points(lines)] == list(range(1, 41))
    rg.run(work, regime, out=tmp_path / "a", track="tensorboard")  # held: nobody is sent out
    assert told(tmp_path / "a" / "a.told") == lines


def test_a_finished_run_and_a_fork_are_sent_whole(copying, told, work, regime, tmp_path):
    base = rg.run(work, regime, out=tmp_path / "a")
    rg.run(work, regime, out=tmp_path / "a", track="tensorboard@tokens")
    assert len(points(told(tmp_path / "a" / "a.told"))) == 40
    child = rg.fork(base, at=10, edits={"lr.peak": 0.2}, out=tmp_path / "b")
    rg.run(work, child.regime, out=tmp_path / "b", track="tensorboard")
    assert points(told(tmp_path / "b" / "b.told"))[10:][0][1] != points(told(tmp_path / "a" / "a.told"))[10][1]


def test_resume_goes_on_tracking_as_before(copying, told, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from regimes.cli import group

    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(
        "workload: quadratic\nregime: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 30 steps}\n"
    )
    runner = CliRunner()
    stream = rg.stream(
        rg.workloads.load("quadratic"), rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="30 steps"), out="x",
        track="tensorboard@tokens", workload_spec="quadratic",
    )  # fmt: skip
    for record in stream:
        if record.at.step == 11:
            stream.close()
            break
    assert [one.text for one in tracked(Path("x"))] == ["tensorboard@tokens"]
    done = runner.invoke(group, ["resume", "x"])
    assert done.exit_code == 0, done.output
    assert len(points(told("x/x.told"))) == 30
    done = runner.invoke(group, ["run", "base.yaml", "--out", "y", "--track", "tensorboard@tokens"])
    assert done.exit_code == 0, done.output
    assert points(told("y/y.told")) == points(told("x/x.told"))


def test_a_study_is_a_group_also_of_worker_processes(copying, told, work, regime, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="worker processes look for the package themselves")
    monkeypatch.setattr(tracking.Tracking, "__post_init__", lambda self: None)  # workers are sent what was checked
    arms = {"a": regime, "again": regime}  # of one content: they share their runs, and are two in a tracker
    asked = {"margin": 0.01, "seeds": 6, "progress": False, "workers": 2, "name": "s"}
    study = rg.compare(work, arms, out=tmp_path / "s", track="tensorboard", **asked)
    names = {file.stem for file in (tmp_path / "s").glob("*.told")}
    assert names == {f"{arm}-s{seed}" for arm in arms for seed in range(6)} | {"s-verdict"}
    for arm in arms:
        lines = told(tmp_path / "s" / f"{arm}-s2.told")
        job, last = lines[0]["job"], points(lines)[-1][1]
        assert (job["group"], job["config"]["arm"], job["config"]["study"], job["config"]["seed"]) == ("s", arm, "s", 2)
        assert last["val/loss"] == next(a["values"][2] for a in study.to_dict()["arms"] if a["name"] == arm)
    table = told(tmp_path / "s" / "s-verdict.told")[1]
    assert table["sentence"] == study.to_dict()["sentence"]
    assert [(row[0], row[-1]) for row in table["rows"]] == [("a", "baseline"), ("again", "same")]


def test_a_run_of_tuning_says_so(copying, told, work, regime, tmp_path):
    one = tracking.Tracking("tensorboard", home=str(tmp_path), study="s").of("a", 3)
    rg.run(work, regime, 7, out=tmp_path / "x", track=one)
    job = told(tmp_path / "a-s7-trial3.told")[0]["job"]
    assert (job["config"]["trial"], job["config"]["arm"]) == (3, "a")


@pytest.mark.parametrize(
    ("track", "out", "said"),
    [
        ("tensorbord", "x", "track: got 'tensorbord'; did you mean 'tensorboard'?"),
        ("tensorboard@epochs", "x", "track: got 'epochs' behind the @; allowed: step, samples, tokens"),
        ("tensorboard", None, "track: got 'tensorboard', but the run has no folder; allowed: with out="),
        ([3], "x", "track: got 3"),
    ],
)
def test_refusals_come_before_anything_is_spent(copying, work, regime, tmp_path, track, out, said):
    with pytest.raises(DeclarationError) as caught:
        rg.run(work, regime, out=out and tmp_path / out, track=track)
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "x").exists()


def test_a_tracker_that_is_not_installed_says_what_to_install(work, regime, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(
        DeclarationError, match="'mlflow', which is not installed here; install it with: pip install mlflow"
    ):
        rg.run(work, regime, out=tmp_path / "x", track="mlflow")
    with pytest.raises(DeclarationError, match="'wandb', which is not installed"):
        rg.compare(work, {"a": regime, "b": regime}, margin=0.1, out=tmp_path / "s", track=["wandb"])
    command = rg.Command("true {seed} {out}", metric="{out}/m.json:loss")
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    with pytest.raises(DeclarationError, match="only runs of ours leave records"):
        rg.compare(command, {"a": {}, "b": {}}, margin=0.1, out=tmp_path / "s", track="wandb")
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_cannot_be_started_is_a_note(copying, regime, work, tmp_path, monkeypatch):
    """No memory for a process, no place for its log, a note that cannot be read: the run is the same."""
    plain = rg.run(work, regime, out=tmp_path / "plain")

    def refused(*words, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(courier.subprocess, "Popen", refused)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "tracked.json").write_text("{half")
    found = rg.run(work, regime, out=tmp_path / "a", track="tensorboard")
    assert found.metrics == plain.metrics
    assert any("could not be started: [Errno 12] Cannot allocate memory" in note for note in found.notes)
