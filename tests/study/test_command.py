"""Somebody's script in a study: their line, their files; pairing, tuning, the store, failures and verdicts are ours."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import regimes as rg
from regimes.cli import group
from regimes.core.errors import DeclarationError, ResumeError
from regimes.study import files
from regimes.study.command import groups
from regimes.study.command.values import Values
from regimes.study.tasks import Task

SCRIPT = """
import json, math, os, random, sys, time
lr, seed, out = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
open(os.path.join(out, "..", "..", "..", "began"), "a").write(f"{lr} {seed}\\n")
time.sleep(float(os.environ.get("NAP", 0)))
if seed == int(os.environ.get("BREAK", -1)):
    sys.exit("no memory left")
loss = 2 + 0.1 * math.log(lr / 1e-3) ** 2 + random.Random(seed).gauss(0, 0.02) + random.Random(lr + seed).gauss(0, 0.002)
loss = float("nan") if seed == int(os.environ.get("DIVERGE", -1)) else loss
with open(out + "/log.jsonl", "w") as file:
    for step in (10, 20, 30):
        file.write(json.dumps({"step": step, "val": {"loss": loss + 1 / step}}) + "\\n")
json.dump({"val": {"loss": loss}}, open(out + "/metrics.json", "w"))
print("val loss", loss)
"""
ARMS = {"base": {"lr": 1e-3}, "high": {"lr": 4e-3}}


@pytest.fixture
def work(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    return command(tmp_path)


def command(folder, **changed):
    given = {
        "command": f"{sys.executable} train.py {{lr}} {{seed}} {{out}}",
        "metric": "{out}/metrics.json:val.loss",
        "curve": "{out}/log.jsonl:val.loss",
        "directory": folder,
    }
    return rg.Command(**given | changed)


def compared(work, folder, **asked):
    asked = {"margin": 0.01, "seeds": 6, "progress": False} | asked
    return rg.compare(work, asked.pop("arms", ARMS), out=folder / "study", **asked)


def began(folder):
    return len((folder / "study" / "began").read_text().splitlines())


def test_a_study_of_a_script_says_what_the_csv_of_its_values_says(work, tmp_path):
    study = compared(work, tmp_path)
    facts = study.to_dict()
    rows = [
        {"arm": arm["name"], "seed": seed, "loss": value}
        for arm in facts["arms"]
        for seed, value in zip(facts["seeds"], arm["values"])
    ]
    told = rg.verdict(rows, arm="arm", seed="seed", metric="loss", margin=0.01).to_dict()
    ours, theirs = ({**facts["arms"][1]["comparison"]}, {**told["arms"][1]["comparison"]})
    assert {k: v for k, v in ours.items() if "seconds" not in k} == {
        k: v for k, v in theirs.items() if "seconds" not in k
    }
    assert study.verdicts == {"high": "worse"}
    assert facts["arms"][1]["curves"][0]["x"]["step"] == [10, 20, 30]
    assert facts["arms"][1]["diff"] == [{"path": "lr", "from": "0.001", "to": "0.004"}]
    assert any("the script's to keep" in note for note in facts["notes"])
    assert study.report(tmp_path / "page.html").stat().st_size > 100_000


def test_who_asks_for_runs_of_regimes_is_told_where_the_study_of_commands_is(work, tmp_path):
    compared(work, tmp_path)
    said = f"of regimes below {tmp_path}; a study of commands stands there: regimes show {tmp_path}/study"
    found = CliRunner().invoke(group, ["runs", str(tmp_path)])
    assert found.output == f"no runs {said}\n"
    with pytest.raises(ResumeError) as refused:
        rg.audit(tmp_path)
    assert str(refused.value) == f"there are no finished runs {said}"


def test_what_is_there_is_not_run_again_and_a_changed_script_is(work, tmp_path):
    first = compared(work, tmp_path)
    assert began(tmp_path) == 12
    assert compared(work, tmp_path).to_dict()["arms"] != first.to_dict()["arms"]  # now they are reused
    assert began(tmp_path) == 12
    compared(work, tmp_path, seeds=7)
    assert began(tmp_path) == 14
    (tmp_path / "train.py").write_text(SCRIPT + "# edited\n")
    compared(work, tmp_path)
    assert began(tmp_path) == 14 + 12


def test_failures_are_no_values_divergence_is_and_the_same_call_goes_on(work, tmp_path, monkeypatch):
    monkeypatch.setenv("BREAK", "2")
    facts = compared(work, tmp_path).to_dict()
    assert [arm["failed"] for arm in facts["arms"]] == [1, 1]
    assert facts["arms"][1]["comparison"] is None
    assert "exit status 1: no memory left; see" in facts["arms"][0]["failures"][0]["what"]
    monkeypatch.setenv("BREAK", "-1")
    monkeypatch.setenv("DIVERGE", "2")
    facts = compared(work, tmp_path).to_dict()
    assert began(tmp_path) == 12 + 2
    assert [(arm["failed"], arm["diverged"]) for arm in facts["arms"]] == [(0, 1), (0, 1)]


def test_tuning_chooses_values(work, tmp_path):
    facts = compared(
        work, tmp_path, arms={"base": {"lr": 1e-3}, "off": {"lr": 2e-3}}, tune={"lr": rg.times(1 / 8, 8)}, trials=5
    ).to_dict()
    chosen = [arm["tuning"]["chosen_values"]["lr"] for arm in facts["arms"]]
    assert all(abs(math.log(lr / 1e-3)) < 0.5 for lr in chosen)
    assert facts["arms"][1]["regime"] == f"lr={chosen[1]}"


def test_a_run_that_takes_too_long_has_failed_with_all_that_it_started(tmp_path):
    (tmp_path / "slow.sh").write_text("sleep 60 & echo $! > $1/child; wait\n")
    work = rg.Command("sh slow.sh {out} {seed}", "{out}/stdout.txt:/loss ([0-9.]+)/", timeout="1 s", directory=tmp_path)
    outcome = work.train(Task("a", Values({}), 0), tmp_path / "runs")
    assert (outcome.failed, outcome.failure) == (True, "ran longer than 1 s, and was ended")
    ends(tmp_path)


def ends(folder):
    """What the attempt has started ends at once."""
    child = int(next((folder / "runs").glob("*/attempt-1/child")).read_text())
    until = time.time() + 5
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.time() < until
        time.sleep(0.02)


TASK = Task("a", Values({}), 0)


def scripted(folder, text, **given):
    (folder / "own.sh").write_text(text)
    return rg.Command("sh own.sh {out} {seed}", "{out}/stdout.txt:/loss ([0-9.]+)/", directory=folder, **given)


def test_what_does_not_end_when_it_is_asked_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "PATIENCE", 0.3)
    deaf = "(trap '' TERM; sleep 60) & echo $! > $1/child; wait\n"
    assert scripted(tmp_path, deaf, timeout=0.5).train(TASK, tmp_path / "runs").failed
    ends(tmp_path)


def test_asked_twice_it_is_killed_at_once(monkeypatch):
    deaf = ["sh", "-c", "trap '' TERM; echo ready; sleep 60"]
    process = subprocess.Popen(deaf, start_new_session=True, stdout=subprocess.PIPE)
    process.stdout.readline()

    def interrupted(group):
        raise KeyboardInterrupt

    monkeypatch.setattr(groups, "_lives", interrupted)
    with pytest.raises(KeyboardInterrupt):
        groups.end(process.pid)
    assert process.wait(5) == -signal.SIGKILL


def test_the_exit_status_is_that_of_this_attempt(tmp_path):
    line = "test -f {out}/was && kill -9 $$; touch {out}/was; exit 3 # {seed}"
    work = rg.Command(line, "{out}/stdout.txt:/loss (.*)/", directory=tmp_path, resumes=True)
    said = [work.train(TASK, tmp_path / "runs").failure for _ in range(2)]
    assert ["exit status 3" in said[0], "exit status -9" in said[1]] == [True, True]


def test_an_attempt_that_goes_on_says_that_its_time_counts_anew(tmp_path, capsys):
    work = scripted(tmp_path, "sleep 60", resumes=True, timeout=0.3)
    for _ in range(2):
        assert work.train(TASK, tmp_path / "runs").failure == "ran longer than 0.3 s, and was ended"
    said = capsys.readouterr()
    assert (said.out, said.err.count("goes on from what it did before; a time limit counts from now")) == ("", 1)


ORPHAN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_command
test_command.scripted(Path({folder!r}), {text!r}, timeout={timeout}).train(test_command.TASK, Path({folder!r}) / "runs")
"""


def orphaned(folder, text, timeout):
    """A command whose study is killed while it runs."""
    driver = ORPHAN.format(tests=str(Path(__file__).parent), folder=str(folder), text=text, timeout=timeout)
    process = subprocess.Popen([sys.executable, "-c", driver], stderr=subprocess.DEVNULL)
    while not any('"pid"' in file.read_text() for file in (folder / "runs").glob("*/attempt-1.json")):
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(0.3)
    process.kill()
    process.wait()
    return scripted(folder, text, timeout=timeout)


def test_a_command_that_outlives_its_study_keeps_its_time_limit(tmp_path):
    work = orphaned(tmp_path, "sleep 60 & echo $! > $1/child; wait; echo loss 1", 2)
    began_ = time.time()
    outcome = work.train(TASK, tmp_path / "runs")
    assert outcome.failure == "ran longer than 2 s, and was ended by another call of its study"
    assert time.time() - began_ < 4
    ends(tmp_path)


def test_a_process_that_is_another_by_now_is_left_alone(tmp_path, monkeypatch):
    work = orphaned(tmp_path, "sleep 3; echo loss 1", 1)
    monkeypatch.setattr(groups, "born", lambda pid: "another")
    assert work.train(TASK, tmp_path / "runs").failure == "ran longer than 1 s, and was ended"  # the next attempt
    assert [file.read_text() for file in tmp_path.glob("runs/*/attempt-1.ended")] == ["0"]


def test_what_outlives_its_study_and_its_limit_is_no_value(tmp_path):
    work = orphaned(tmp_path, "sleep 3; echo loss 1", 1)
    while not list(tmp_path.glob("runs/*/attempt-1.ended")):
        time.sleep(0.05)
    assert work.train(TASK, tmp_path / "runs").failure == "ran longer than 1 s, and was ended"


def test_what_a_command_left_running_is_not_waited_for_once_it_has_ended(tmp_path):
    work = orphaned(tmp_path, "sleep 60 & sleep 2; echo loss 1", 30)
    while not list(tmp_path.glob("runs/*/attempt-1.ended")):
        time.sleep(0.05)
    began_ = time.time()
    assert work.train(TASK, tmp_path / "runs").metrics == {"loss": 1.0}
    assert time.time() - began_ < 15


SAVES = """
import signal, sys, time
def save(number, frame):
    time.sleep(0.5)
    open(sys.argv[1] + "/saved", "w")
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1] + "/ready", "w")
time.sleep(60)
"""


def interrupted(folder, workers, times):
    """A study of a script that waits, and what it said when it was interrupted; each run leaves its process number."""
    (folder / "study.yaml").write_text(
        f"workload: {{command: '{sys.executable} saves.py {{out}} {{seed}} {{lr}}', metric: '{{out}}/m.json:loss'}}\n"
        "arms: {a: {lr: 1}, b: {lr: 2}}\ncompare: {margin: 0.1, seeds: 6}\n"
    )
    words = [sys.executable, "-m", "regimes", "compare", "study.yaml", "--out", "study", "--workers", workers]
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    while len(list(folder.glob("study/runs/*/attempt-1/ready"))) < int(workers):
        assert process.poll() is None
        time.sleep(0.02)
    for _ in range(times):
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    return process.communicate()[1], process.returncode


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_ctrl_c_gives_what_runs_its_seconds_and_says_how_to_go_on(tmp_path, workers):
    (tmp_path / "saves.py").write_text(SAVES)
    said, code = interrupted(tmp_path, workers, 1)
    assert code == 130
    assert "what is finished is kept, continue with: regimes compare study.yaml --out study" in said
    assert len(list(tmp_path.glob("study/runs/*/attempt-1/saved"))) == int(workers)
    assert not list(tmp_path.glob("study/study.json"))  # nothing is counted as failed


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_ctrl_c_twice_kills_at_once_what_does_not_end(tmp_path, workers):
    (tmp_path / "saves.py").write_text(SAVES.replace("time.sleep(0.5)", "time.sleep(60)"))
    interrupted(tmp_path, workers, 2)
    notes = [json.loads(file.read_text()) for file in tmp_path.glob("study/runs/*/attempt-1.json")]
    assert len(notes) == int(workers)
    assert not any(groups._lives(note["pid"]) for note in notes)


DRIVER = """
import sys, regimes as rg
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_command
test_command.compared(test_command.command(Path({folder!r})), Path({folder!r}))
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_killed_half_way_and_finished_by_the_same_call(work, tmp_path, kind):
    driver = [sys.executable, "-c", DRIVER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))]
    (tmp_path / "study").mkdir()
    process = subprocess.Popen(driver, env=os.environ | {"NAP": "0.3"}, stderr=subprocess.DEVNULL)
    file = tmp_path / "study" / "began"
    while not file.exists() or len(file.read_text().splitlines()) < 5:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(kind)
    process.wait()
    facts = compared(work, tmp_path).to_dict()
    assert [arm["failed"] for arm in facts["arms"]] == [0, 0]
    assert sum(arm["reused"] for arm in facts["arms"]) >= 4
    # A command outlives the kill of its study, and what it did is taken; told to end, it is ended with it.
    assert began(tmp_path) == 12 + (kind == signal.SIGTERM)


def test_workers_run_commands_side_by_side(work, tmp_path, monkeypatch):
    alone = compared(work, tmp_path / "a").to_dict()
    (tmp_path / "a").mkdir(exist_ok=True)
    several = compared(work, tmp_path / "b", workers=2).to_dict()
    assert [arm["values"] for arm in several["arms"]] == [arm["values"] for arm in alone["arms"]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"command": "python t.py {out}"}, "command: has no {seed}"),
        ({"command": "python t.py {seed}"}, "command: has no {out}"),
        ({"metric": "metrics.json:loss"}, "metric: got 'metrics.json', where all runs would write"),
        ({"metric": "{out}/metrics.json"}, "metric: got '{out}/metrics.json'; allowed: a file that ends in .json"),
        ({"metric": "{out}/a.log:/loss/"}, "metric: got '/loss/', which has 0 groups; allowed of text: a pattern"),
        ({"timeout": "soon"}, "timeout: got 'soon'; write a time such as"),
        ({"resumes": "yes"}, "resumes: got 'yes'; allowed: true or false"),
        ({"curve": "log.jsonl:loss"}, "curve: got 'log.jsonl', where all runs would write"),
        ({"metric": "{out}/../m.json:loss"}, "metric: got '{out}/../m.json', where all runs would write"),
        ({"metric": "{out}/a.log:/(loss/"}, "metric: got '/(loss/', which is no pattern"),
    ],
)
def test_lines_that_cannot_be_compared_are_refused(tmp_path, changed, said):
    with pytest.raises(DeclarationError) as caught:
        command(tmp_path, **changed)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"a": {"lr": 1}, "b": {}}, "arms.b: gives no 'lr', which the command names"),
        ({"a": {"lr": 1}, "b": {"lr": 1, "mom": 2}}, "arms.b.mom: is no name in the command"),
        ({"a": {"lr": 1}, "b": {"lr": 1, "seed": 2}}, "arms.b.seed: is no name in the command; every run has its own"),
        ({"a": {"lr": 1}, "b": {"lr": [1]}}, "arms.b.lr: got [1]; allowed: text, a number, true or false"),
        ({"a": {"lr": 1}, "b": 3}, "arms.b: got 3; allowed: the values of the line's names"),
    ],
)
def test_values_that_change_nothing_are_refused_before_anything_is_spent(work, tmp_path, arms, said):
    with pytest.raises(DeclarationError) as caught:
        compared(work, tmp_path, arms=arms)
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "study").exists()


def test_the_line_is_quoted_and_doubled_braces_are_braces(tmp_path):
    work = rg.Command(
        "echo {text} ${{HOME}} {seed} > {out}/stdout.txt", "{out}/stdout.txt:/([0-9]+)/", directory=tmp_path
    )
    assert work.line(Values({"text": "a b; rm"}), 3, Path("o")) == "echo 'a b; rm' ${HOME} 3 > o/stdout.txt"


def test_a_file_declares_a_command_and_its_arms(tmp_path, work):
    file = tmp_path / "study.yaml"
    file.write_text(
        f"workload:\n  command: {sys.executable} train.py {{lr}} {{seed}} {{out}}\n"
        "  metric: '{out}/metrics.json:val.loss'\n"
        "arms:\n  base: {lr: 1e-3}\n  high: {like: base, lr: 4e-3}\ncompare: {margin: 0.01, seeds: 6}\n"
    )
    found = files.read(file, ["high:lr=8e-3"])
    assert found.arms == {"base": Values({"lr": 1e-3}), "high": Values({"lr": 8e-3})}
    assert found.workload.metric == "{out}/metrics.json:val.loss"
    file.write_text(file.read_text().replace("like: base", "like: bass"))
    with pytest.raises(DeclarationError, match="arms.high.like: got 'bass', which is no arm before this; did you mean"):
        files.read(file)
    file.write_text(file.read_text().replace("like: bass, ", "").replace("  metric:", "  metrik:"))
    with pytest.raises(DeclarationError, match="workload.metrik: is no key of a command"):
        files.read(file)


def test_values_keep_json_apart():
    assert json.dumps(Values({"a": 1}).but({"a": 2}).given) == '{"a": 2}'
    assert np.isclose(float(repr(Values({"lr": 0.1 + 0.2})).split("=")[1]), 0.3)


def test_a_worker_of_commands_imports_no_torch(tmp_path):
    work = scripted(tmp_path, "echo loss 1")
    told = f"""
import pickle, sys
from pathlib import Path
import regimes.study.pool
from regimes.study.tasks import Task
work = pickle.loads({pickle.dumps(work)!r})
work.placed(0)
assert work.train(Task("a", work.arms({{"a": {{}}}})["a"], 0), Path({str(tmp_path)!r}) / "runs").metrics == {{"loss": 1.0}}
print([name for name in ("torch", "scipy") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"
