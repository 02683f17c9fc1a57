"""What each command does, says and leaves on disk."""

import json
import re
import signal
import time

import pytest

import regimes as rg
from regimes.study.study import Study

STUDY = """
workload: cli_test_module:work
compare: {margin: 0.05, seeds: 6, name: tiny, validate: 50%}
arms:
  a: {optimizer: SGD(lr=Cosine(0.1)), batch_size: 8, budget: 12 steps}
  b: {like: a, lr.peak: 0.5}
"""


def files_of(folder):
    names = ["records.jsonl", "final/model.safetensors"]
    return [(folder / name).read_bytes() for name in names]


# -- run and resume ------------------------------------------------------------------------------------------------


def test_run_trains_in_a_folder_once(cli):
    first = json.loads(cli("run", "base.yaml", "--json").stdout)
    assert (first["folder"], first["steps"], first["seed"]) == ("runs/base-seed3", 20, 3)
    assert not first["finished_before"]
    assert set(first["metrics"]) == {"val/loss", "val/acc"}
    before = files_of(cli.folder / "runs/base-seed3")
    again = cli("run", "base.yaml").stdout
    assert "finished before, not trained again" in again
    assert files_of(cli.folder / "runs/base-seed3") == before
    expected = rg.run(cli_workload(), rg.Regime(
        optimizer=rg.SGD(lr=rg.Cosine(0.1, warmup="20%"), momentum=0.9), batch_size=8, budget="20 steps"), seed=3)  # fmt: skip
    assert first["metrics"] == expected.metrics


def cli_workload():
    import cli_test_module

    return cli_test_module.work()


def test_flags_reach_the_run(cli):
    cli("run", "base.yaml", "--out", "x", "--seed", "7", "--set", "lr.peak=0.2", "--set", "budget=10 steps",
        "--validate", "50%", "--probe", "GradientNorm(every='50%')", "--no-progress")  # fmt: skip
    declared = json.loads((cli.folder / "x/run.json").read_text())
    assert declared["regime"] == (
        "Regime(optimizer=SGD(lr=Cosine(0.2, warmup='20%'), momentum=0.9), batch_size=8, budget='10 steps')"
    )
    assert declared["identity"]["seed"] == 7
    assert declared["workload_spec"] == "cli_test_module:work"
    rows = [json.loads(line) for line in (cli.folder / "x/records.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val/loss" in row] == [4, 9]
    assert any("gradient_norm" in name for row in rows for name in row)


def test_a_changed_declaration_is_refused_in_the_same_folder(cli):
    cli("run", "base.yaml", "--out", "x")
    result = cli("run", "base.yaml", "--out", "x", "--set", "batch_size=4", code=1)
    assert "x holds another regime; it differs in main.batch_size: 8 -> 4" in result.stderr.replace(
        "in batch", "in main.batch"
    )


@pytest.mark.parametrize(
    ("workload", "number", "code"),
    [("yaml", signal.SIGINT, 130), pytest.param("python", signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_interrupted_and_resumed_ends_in_the_same_bits(cli, number, code, workload):
    if workload == "yaml":
        file = cli.write("slow.yaml", "workload: cli_test_module:slow\nregime:\n  optimizer: AdamW(lr=1e-2)\n"
                         "  batch_size: 8\n  budget: 60 steps\n")  # fmt: skip
    else:
        file = cli.write(
            "slow.py",
            """
            import regimes as rg
            from cli_test_module import slow as workload
            regime = rg.Regime(optimizer=rg.AdamW(lr=1e-2), batch_size=8, budget="60 steps")
            """,
        )
    process = cli.process("run", file, "--out", "stopped")
    checkpoints = cli.folder / "stopped/checkpoints"
    while not (checkpoints.is_dir() and any(checkpoints.iterdir())) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert re.search(r"^stopped at step \d+; continue with: regimes resume stopped$", said, re.MULTILINE), said
    assert not (cli.folder / "stopped/result.json").exists()

    resumed = cli.process("resume", str(cli.folder / "stopped"))
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, said
    assert ("running the recorded command again" in said) == (workload == "python")
    cli("run", file, "--out", "whole")
    assert files_of(cli.folder / "stopped") == files_of(cli.folder / "whole")


def test_resume_works_from_anywhere_and_with_classes_of_the_users(cli, tmp_path_factory, monkeypatch):
    cli.write(
        "cli_test_classes.py",
        """
        from regimes.core.component import fixed
        from regimes.core.kinds import Schedule
        class Flat(Schedule):
            peak: float = fixed()
            def curve(self, x): return self.peak
        """,
    )
    cli.write(
        "own.yaml",
        """
        workload: cli_test_module:work
        modules: [cli_test_classes]
        regime: {optimizer: 'SGD(lr=cli_test_classes:Flat(0.1))', batch_size: 8, budget: 20 steps}
        """,
    )
    cli("run", "own.yaml", "--out", "own")
    folder = cli.folder / "own"
    before = files_of(folder)
    (folder / "result.json").unlink()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    process = cli.process("resume", str(folder), "--json")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert json.loads(out)["steps"] == 20
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "nowhere is no run folder: it holds no run.json"),
        ("{}", "says nothing of 'regime'"),
        ("{", "cannot be read"),
    ],
)
def test_resume_of_what_is_no_run(cli, content, said):
    if content is not None:
        (cli.folder / "nowhere").mkdir()
        (cli.folder / "nowhere/run.json").write_text(content)
    assert said in cli("resume", "nowhere", code=1).stderr


# -- errors --------------------------------------------------------------------------------------------------------


def test_a_bad_declaration_is_said_in_sentences_and_code_2(cli):
    cli.write("bad.yaml", "workload: cli_test_module:work\nsed: 3\nregime: {optimizer: SGD(lr=-1), batch_size: 8}\n")
    result = cli("run", "bad.yaml", code=2)
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "bad.yaml:2: sed: is no key here; did you mean 'seed'?",
        "bad.yaml:3: regime.optimizer.lr: got -1; allowed: a finite number >= 0",
    ]
    assert "Traceback" in cli("run", "bad.yaml", "--debug", code=2).stderr
    assert not (cli.folder / "runs").exists()


def test_what_the_engine_refuses_has_the_files_line(cli):
    cli.write("bad.yaml", "workload: cli_test_module:work\nregime:\n  optimizer: SGD(lr=Linear(1, -1))\n"
              "  batch_size: 8\n  budget: 9 steps\n")  # fmt: skip
    assert cli("run", "bad.yaml", code=2).stderr.startswith(
        "bad.yaml:3: regime.optimizer.lr: Linear(1.0, final=-1.0) at "
    )
    assert not (cli.folder / "runs").exists()


def test_errors_in_the_users_model_keep_their_traceback(cli):
    cli.write(
        "bad.yaml", "workload: cli_test_module:bad_model\nregime: {optimizer: SGD, batch_size: 8, budget: 9 steps}\n"
    )
    result = cli("run", "bad.yaml", code=1)
    first, *rest = result.stderr.splitlines()
    assert "step 0" in first
    assert "return super().forward(x) + undefined_name" in result.stderr
    assert rest[-1] == "NameError: name 'undefined_name' is not defined"
    assert "/regimes/engine/" not in result.stderr


def test_commands_for_the_other_kind_of_file_are_named(cli):
    cli.write("study.yaml", STUDY)
    assert "run it with: regimes compare study.yaml" in cli("run", "study.yaml", code=2).stderr
    assert "run it with: regimes run base.yaml" in cli("compare", "base.yaml", code=2).stderr


def test_a_fault_of_ours_is_called_so(cli, monkeypatch):
    monkeypatch.setattr("regimes.atlas.load", lambda: 1 / 0)
    result = cli("list", code=1)
    assert result.stderr == "a fault of regimes itself: ZeroDivisionError: division by zero; --debug shows where\n"


# -- looking -------------------------------------------------------------------------------------------------------


def test_runs_show_index_diff(cli):
    cli("run", "base.yaml", "--out", "runs/a")
    cli("run", "base.yaml", "--out", "runs/b", "--seed", "4", "--set", "lr.peak=0.3")
    rows = json.loads(cli("runs", "--json").stdout)
    assert {(row["path"], row["seed"], row["status"], row["step"]) for row in rows} == {
        ("runs/a", 3, "finished", 20), ("runs/b", 4, "finished", 20),
    }  # fmt: skip
    table = cli("runs").stdout.splitlines()
    assert table[0].split() == ["run", "workload", "seed", "status", "step", "metrics"]
    assert {line.split()[0] for line in table[1:]} == {"a", "b"}

    (cli.folder / "runs/index.sqlite").unlink()
    assert [{**row, "study": None} for row in json.loads(cli("runs", "--json").stdout)] == rows
    assert json.loads(cli("index", "--json").stdout) == {"root": "runs", "runs": 2}
    assert len(json.loads(cli("runs", "--json").stdout)) == 2

    assert json.loads(cli("diff", "runs/a", "runs/b", "--json").stdout) == [
        {"path": "seed", "old": "3", "new": "4"},
        {"path": "optimizer.lr.peak", "old": "0.1", "new": "0.3"},
    ]
    assert cli("diff", "base.yaml", "runs/a").stdout == "they do not differ\n"

    shown = json.loads(cli("show", "runs/a", "--json").stdout)
    assert (shown["workload"], shown["status"], shown["steps_recorded"], shown["notes"]) == ("tiny", "finished", 20, [])
    text = cli("show", "runs/a").stdout
    assert text.startswith("runs/a: tiny, seed 3, finished at step 20\n  Regime(optimizer=SGD(")
    with (cli.folder / "runs/a/records.jsonl").open("a") as file:
        file.write("{broken\n")
    assert "note: line 21 of runs/a/records.jsonl is corrupted" in cli("show", "runs/a").stdout


def test_diff_of_arms(cli):
    cli.write("study.yaml", STUDY)
    assert cli("diff", "study.yaml:a", "study.yaml:b").stdout == "optimizer.lr.peak: 0.1 -> 0.5\n"
    assert "but no 'c'; allowed: a, b" in cli("diff", "study.yaml:a", "study.yaml:c", code=2).stderr
    assert "name one, for example study.yaml:a" in cli("diff", "study.yaml", "base.yaml", code=2).stderr


def test_list_and_show_of_components(cli):
    optimizers = cli("list", "optimizers").stdout
    assert optimizers.startswith("optimizer:\n")
    assert re.search(r"^  AdamW +Adam with decoupled weight decay$", optimizers, re.MULTILINE)
    shown, everything = (
        len(json.loads(cli("list", "optimizers", *more, "--json").stdout)) for more in ((), ("--all",))
    )
    assert everything > shown
    assert cli("list", "optimizers").stderr == f"{everything - shown} more with --all; one's card: regimes show NAME\n"
    assert cli("list", "optimizers", "--all").stderr == "one's card: regimes show NAME\n"
    listed = json.loads(cli("list", "--axis", "order", "--json").stdout)
    assert {"Reshuffle"} <= {entry["name"] for entry in listed}
    assert all("order" in entry["axes"] and entry["shelf"] == "core" for entry in listed)
    card = cli("show", "wsd").stdout
    assert card.startswith("WSD: Warm-up, stable, decay\n")
    assert re.search(r"^decay +'10%' +a Duration$", card, re.MULTILINE)
    assert "Hägele" in card
    assert "did you mean 'AdamW'?" in cli("show", "AdmaW", code=2).stderr


# -- plan and check ------------------------------------------------------------------------------------------------


def test_plan_and_check_write_nothing(cli):
    before = sorted(cli.folder.iterdir())
    text = cli("plan", "base.yaml").stdout
    assert "tiny, seed 3: 10 trained parameters" in text
    assert "optimizer.lr = Cosine(0.1, warmup='20%')" in text
    facts = json.loads(cli("plan", "base.yaml", "--no-time", "--set", "budget=7 steps", "--json").stdout)
    assert (facts["steps"], facts["phases"][0]["samples"], facts["seconds"]) == (7, 56, None)
    assert cli("check", "base.yaml").stdout == "base.yaml: a run on tiny: 20 steps\n"
    found = json.loads(cli("check", "base.yaml", "--json").stdout)
    assert found["ok"]
    cli.write(
        "base.yaml", "workload: cli_test_module:work\nregime:\n  optimizer: SGD\n  batch_size: 0\n  budget: 3 steps\n"
    )
    problems = json.loads(cli("check", "base.yaml", "--json", code=2).stdout)
    assert problems == {"ok": False, "problems": [
        {"line": 4, "key": "regime.batch_size", "message": "got 0; allowed: an integer >= 1 and <= 1e+07"}]}  # fmt: skip
    assert [file for file in sorted(cli.folder.iterdir()) if file.name != "__pycache__"] == [
        file for file in before if file.name != "__pycache__"
    ]


def test_plan_of_a_comparison(cli):
    cli.write("study.yaml", STUDY)
    text = cli("plan", "study.yaml", "--no-time").stdout
    assert "12 runs: 2 arms, 0 trials and 6 seeds each" in text
    facts = json.loads(cli("plan", "study.yaml", "--no-time", "--json").stdout)
    assert (facts["runs"], facts["arms"]["b"]["steps"]) == (12, 12)


# -- compare -------------------------------------------------------------------------------------------------------


def test_compare_report_show(cli):
    cli.write("study.yaml", STUDY)
    facts = json.loads(cli("compare", "study.yaml", "--no-progress", "--set", "b:lr.peak=0.4", "--json").stdout)
    assert [arm["name"] for arm in facts["arms"]] == ["a", "b"]
    assert facts["command"] == "regimes compare study.yaml --set b:lr.peak=0.4"
    assert facts["arms"][1]["diff"] == [{"path": "optimizer.lr.peak", "from": "0.1", "to": "0.4"}]
    study = Study.load(cli.folder / "runs/tiny")
    assert study.to_dict()["sentence"] == facts["sentence"]
    assert (cli.folder / "runs/tiny/report.html").stat().st_size > 10_000
    assert cli("report", "runs/tiny", "--out", "x.html").stdout == "x.html\n"
    assert cli("show", "runs/tiny").stdout == f"{study}\n"
    assert "is no study: there is no" in cli("report", "runs", code=1).stderr
