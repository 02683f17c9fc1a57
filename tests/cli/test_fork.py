"""``regimes fork``, ``extend`` and ``replay``: what they say and leave on disk."""

import json
import os
import re
import shlex

import pytest

from regimes.cli.replay import _names as names
from regimes.study import folders


@pytest.fixture
def base(cli):
    cli("run", "base.yaml", "--out", "runs/base")
    return cli


def written(folder):
    return [(folder / name).read_bytes() for name in ("records.jsonl", "final/model.safetensors", "result.json")]


def test_a_fork_says_what_changes_and_is_a_run_like_any_other(base):
    said = base("fork", "runs/base", "--at", "12", "--set", "lr.peak=0.05", "--set", "budget=30 steps").stdout
    lines = said.splitlines()
    child = re.match(
        r"fork of runs/base at step 12, trained again from step 0, in (runs/base-fork12-[0-9a-f]{6})$", lines[0]
    )
    assert lines[1:6] == [
        "  optimizer.lr.peak: 0.1 -> 0.05",
        "  budget: '20 steps' -> '30 steps'",
        "  at step 12: optimizer.lr 0.05 -> 0.04268",
        "  horizon: 20 steps -> 30 steps",
        "  carried: model, sampler, optimizer, loss",
    ]
    assert lines[6].startswith("tiny, seed 3: 30 steps, ")
    folder = base.folder / child[1]
    again = base("fork", "runs/base", "--at", "12", "--set", "lr.peak=0.05", "--set", "budget=30 steps").stdout
    assert again.splitlines()[:6] == lines[:6]
    assert "finished before, not trained again" in again
    rows = {os.path.basename(row["path"]): row for row in folders.rows(base.folder / "runs")}
    assert rows[folder.name]["status"] == "finished"
    assert rows[folder.name]["step"] == 30
    assert "30" in base("runs").stdout
    assert f"a fork of {base.folder / 'runs/base'} at step 12" in base("show", str(folder)).stdout
    assert json.loads(base("show", str(folder), "--json").stdout)["lineage"]["at"] == 12
    assert json.loads(base("index").stdout.split()[0]) == 2
    assert "optimizer.lr.peak: 0.1 -> 0.05" in base("diff", "runs/base", str(folder)).stdout
    assert "finished before" in base("resume", str(folder)).stdout


def test_without_edits_it_is_the_same_run(base):
    said = base("fork", "runs/base", "--at", "18", "--out", "same").stdout
    assert "from its checkpoint there" in said
    assert "nothing is edited: it goes on as its parent does" in said
    assert written(base.folder / "same") == written(base.folder / "runs/base")
    told = json.loads(base("fork", "runs/base", "--at", "18", "--out", "same", "--json").stdout)
    assert (told["folder"], told["steps"], told["finished_before"]) == ("same", 20, True)


def test_the_refusal_of_a_changed_file_ends_with_a_command_that_works(base):
    said = base(
        "run", "base.yaml", "--out", "runs/base", "--set", "lr.peak=0.2", "--set", "budget=25 steps", code=1
    ).stderr
    command = shlex.split(re.search(r"or fork it: (.*)$", said.strip())[1])
    assert command[0] == "regimes"
    assert "horizon: 20 steps -> 25 steps" in base(*command[1:]).stdout


def test_extend_refuses_to_choose_and_does_what_is_said(base):
    said = base("extend", "runs/base", "--budget", "+10 steps", "--at", "14", code=2).stderr
    assert re.match(r"--schedule: say what the schedules do, of which optimizer\.lr is .* now; allowed: rescale \(.*\), hold "
                    r"\(.*\), cooldown \(.*\)$", said.strip())  # fmt: skip
    told = json.loads(base("extend", "runs/base", "--budget", "+10 steps", "--schedule", "cooldown", "--at", "14", "--json",
                           "--out", "longer").stdout)  # fmt: skip
    assert (told["steps"], told["folder"]) == (30, "longer")
    declared = json.loads((base.folder / "longer/run.json").read_text())
    assert "Then(Window(Cosine(0.1, warmup='20%'), start='0%', length='20 steps'), second=Linear(" in declared["regime"]
    assert declared["lineage"]["at"] == 14
    assert (
        "got '10 steps'; allowed: an amount to add"
        in base("extend", "runs/base", "--budget", "10 steps", code=2).stderr
    )


def test_replay_tells_a_table_and_json_and_writes_the_runs_bytes(base):
    said = base(
        "replay", "runs/base", "--steps", "10:13", "--probe", "sharpness,LayerNorms", "--probe", "example_loss"
    ).stdout
    lines = said.splitlines()
    assert (
        lines[0] == "steps 10 to 12, made again from step 0, 10 steps before: every record is byte for byte the run's"
    )
    assert lines[1].split()[:2] == ["step", "loss"]
    assert "sharpness" in lines[1]
    assert [line.split()[0] for line in lines[2:5]] == ["10", "11", "12"]
    folder = base.folder / lines[-1]
    records = (base.folder / "runs/base/records.jsonl").read_bytes().splitlines(keepends=True)
    assert (folder / "records.jsonl").read_bytes() == b"".join(records[10:13])
    told = json.loads(base("replay", "runs/base", "--steps", "10:13", "--probe", "sharpness", "--json").stdout)
    first = told["rows"][0]
    assert first["loss"] == json.loads(records[10])["loss"]
    assert set(first) >= {"step", "loss", "gradient_norm", "gradient", "weight", "growth", "examples", "probes"}
    assert first["probes"]["sharpness"] > 0.0
    assert len(first["examples"]) == 8
    rows = [json.loads(line) for line in (folder / "instruments.jsonl").read_text().splitlines()]
    assert rows[0]["probes"]["example_loss/hardest_1_example"] in [float(name) for name, _ in rows[0]["examples"]]
    assert "index" not in [path.stem for path in folder.iterdir()]
    assert len(folders.rows(base.folder / "runs")) == 1


def test_replay_without_an_example_shows_what_it_did(base):
    told = json.loads(base("replay", "runs/base", "--steps", "10", "--json").stdout)
    example = told["rows"][0]["examples"][0][0]
    said = base("replay", "runs/base", "--steps", "10:13", "--without", example, "--out", "w").stdout
    assert f"without {example}:" in said
    assert re.search(r"^step  loss +without +difference$", said, re.MULTILINE)
    assert re.search(r"^weights afterwards: \S+ away, relative to their norm$", said, re.MULTILINE)
    assert "go on without: regimes resume w/without" in said
    assert "tiny, seed 3: 20 steps" in base("resume", "w/without").stdout
    assert written(base.folder / "w/without")[1] != written(base.folder / "runs/base")[1]
    refused = base("replay", "runs/base", "--steps", "10:13", "--without", "4711", code=2).stderr
    assert refused.startswith("--without: got '4711', which is in no batch of the steps 10 to 12")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fork", "runs/none", "--at", "3"], "runs/none is no run folder"),
        (["fork", "runs/base", "--at", "99"], "--at: got 99; allowed: 0 to 20"),
        (["fork", "runs/base", "--at", "3", "--set", "lr.peek=1"], "--set lr.peek=1: "),
        (
            ["fork", "runs/base", "--at", "3", "--set", "budget=2 steps"],
            "budget: got '2 steps', which is over at step 3",
        ),
        (["extend", "runs/base", "--budget", "+1 parsec"], "--budget: got '1 parsec'"),
        (["replay", "runs/base", "--steps", "19:22"], "--steps: got 19:22; allowed: steps 0 to 19"),
        (["replay", "runs/base", "--steps", "a:b"], "--steps: got 'a:b'; allowed: the first step"),
        (["replay", "runs/base", "--steps", "3", "--probe", "sharpnes"], "--probe: "),
        (["replay", "runs/base", "--steps", "3", "--without", "x"], "--without: got 'x'; allowed: the number"),
        (["replay", "runs/base", "--steps", "3", "--out", "runs"], "--out: got 'runs', which holds something else"),
    ],
)
def test_refusals_name_the_option(base, arguments, said):
    code = 1 if "none" in arguments[1] else 2
    assert said in base(*arguments, code=code).stderr


def test_from_anywhere_it_works_where_the_run_was_started(base, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    run = os.path.relpath(base.folder / "runs/base")
    base("fork", run, "--at", "18", "--set", "lr.peak=0.2", "--out", "here")
    monkeypatch.chdir(base.folder)
    assert not (base.folder / "here").exists()
    monkeypatch.chdir(tmp_path_factory.mktemp("third"))
    base("replay", str(base.folder / "runs/base"), "--steps", "3")
    assert [path.name for path in (base.folder / "runs").iterdir() if "replay" in path.name]


def test_a_program_that_nothing_builds_again_is_told_how(cli):
    cli.write("own.py", """
        import regimes as rg
        from cli_test_module import work
        workload = work()
        regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="4 steps")
    """)  # fmt: skip
    cli("run", "own.py", "--out", "own")
    assert "do it in the program that trained it, with workload=" in cli("fork", "own", "--at", "2", code=1).stderr


def test_names_of_instruments():
    assert names("sharpness,ExampleLoss(quantiles=[0.5, 0.9], hardest=2), layer_norms") == [
        "sharpness", "ExampleLoss(quantiles=[0.5, 0.9], hardest=2)", "layer_norms",
    ]  # fmt: skip
