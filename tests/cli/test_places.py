"""Runs as they stand on disk, and what is said of places that a command cannot take."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

STUDY = """
workload: cli_test_module:work
compare: {margin: 0.05, seeds: 6, name: tiny, validate: 50%}
arms:
  a: {optimizer: SGD(lr=Cosine(0.1)), batch_size: 8, budget: 12 steps}
  b: {like: a, lr.peak: 0.5}
"""
SLOW = """
workload: cli_test_module:slow
regime: {optimizer: SGD(lr=0.1), batch_size: 8, budget: 2000 steps}
options: {checkpoint: 3 steps}
"""


# -- runs and show -------------------------------------------------------------------------------------------------


def test_a_killed_run_is_listed_where_it_stopped(cli):
    cli.write("slow.yaml", SLOW)
    process = cli.process("run", "slow.yaml", "--out", "runs/slow")
    checkpoints = cli.folder / "runs/slow/checkpoints"
    while not (checkpoints.is_dir() and any(checkpoints.glob("step-*"))) and process.poll() is None:
        time.sleep(0.02)
    [row] = json.loads(cli("runs", "--json").stdout)
    assert row["status"] == "running"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    [row] = json.loads(cli("runs", "--json").stdout)
    steps = [int(path.name[5:]) for path in checkpoints.glob("step-*")]
    recorded = len((cli.folder / "runs/slow/records.jsonl").read_bytes().split(b"\n")) - 1
    assert (row["status"], row["step"]) == ("stopped", max(*steps, recorded))
    assert row["step"] >= 3
    shown = cli("show", "runs/slow").stdout
    assert f"stopped at step {row['step']}\n" in shown
    assert shown.endswith("continue with: regimes resume runs/slow\n")


def test_runs_of_studies_are_counted_and_listed_on_demand(cli):
    cli.write("study.yaml", STUDY)
    cli("compare", "study.yaml", "--no-progress")
    cli("run", "base.yaml", "--out", "runs/base")
    lines = cli("runs").stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["run", "base"]
    assert lines[2:] == [
        "study tiny: 12 runs, 12 finished",
        "12 runs of studies are not listed; regimes runs runs --all, or regimes show runs/tiny",
    ]
    everything = cli("runs", "--all").stdout.splitlines()
    assert sum(line.startswith("tiny/runs/") for line in everything) == 12
    assert len(everything) == 14
    rows = json.loads(cli("runs", "--json").stdout)
    assert sorted(str(row["study"]) for row in rows) == ["None"] + ["runs/tiny"] * 12
    assert len(cli("runs", "runs/tiny").stdout.splitlines()) == 13


def test_skipped_steps_and_giving_up_are_shown(cli):
    cli.write(
        "bad.yaml",
        """
        workload: cli_test_module:work
        regime: {optimizer: 'SGD(lr=1e30, weight_decay=1e10)', batch_size: 8, budget: 30 steps}
        options: {give_up: 4}
        """,
    )
    assert "where it began: regimes show runs/bad-seed0" in cli("run", "bad.yaml", code=1).stderr
    rows = [json.loads(line) for line in (cli.folder / "runs/bad-seed0/records.jsonl").read_text().splitlines()]
    bad = [row["step"] for row in rows if "skipped" in row]
    facts = json.loads(cli("show", "runs/bad-seed0", "--json").stdout)
    assert (facts["skipped"], facts["first_skipped"]["step"], facts["status"]) == (3, bad[0], "diverged")
    text = cli("show", "runs/bad-seed0").stdout
    assert f"skipped: 3 of {len(rows)} steps, the first at step {bad[0]}: the loss was not finite; examples: " in text
    assert "it gave up: too many steps in a row" in text
    [row] = json.loads(cli("runs", "--json").stdout)
    assert (row["status"], row["step"]) == ("diverged", len(rows))


def test_broken_folders_are_passed_over(cli):
    cli("run", "base.yaml", "--out", "runs/base")
    for name, content in [("a", "{}"), ("b", "{"), ("c", "[]"), ("d", '{"key": "x", "identity": 3}')]:
        (cli.folder / "runs" / name).mkdir()
        (cli.folder / "runs" / name / "run.json").write_text(content)
    assert [row["path"] for row in json.loads(cli("runs", "--json").stdout)] == ["runs/base"]


# -- wrong places --------------------------------------------------------------------------------------------------


@pytest.fixture
def places(cli):
    cli.write("study.yaml", STUDY)
    cli("run", "base.yaml", "--out", "runs/base")
    (cli.folder / "runs/begun/runs/0123").mkdir(parents=True)
    words = ["/usr/bin/python", "-m", "regimes", "compare", "study.yaml", "--workers", "2"]
    (cli.folder / "runs/begun/runs/0123/run.json").write_text(json.dumps({"command": words}))
    (cli.folder / "empty").mkdir()
    return cli


WRONG = [
    (("report", "base.yaml"), 1, "base.yaml is no study: .*it declares a run; train it with: regimes run base.yaml"),
    (("report", "study.yaml"), 1, "it declares a comparison; train and judge it with: regimes compare study.yaml"),
    (("report", "runs/base"), 1, "there is no runs/base/study.json; it is a run's folder; .*regimes show runs/base"),
    (("report", "runs"), 1, "it is a folder of runs; list them with: regimes runs runs"),
    (("report", "empty"), 1, "it is a folder without runs"),
    (("resume", "runs/begun"), 1, "it is a study's folder; .*go on with: regimes compare study.yaml --workers 2$"),
    (("resume", "runs"), 1, "holds no run.json; it is a folder of runs"),
    (("resume", "base.yaml"), 1, "it declares a run; train it with: regimes run base.yaml"),
    (("diff", "runs/begun", "base.yaml"), 2, "allowed: a declaration file, FILE:ARM, or a run's folder; it is a study"),
    (("diff", "Cosine", "SGD"), 2, "it is a component; look at it with: regimes show Cosine"),
    (("diff", "study", "base.yaml"), 2, "got 'study'; .*did you mean 'study.yaml'"),
    (("diff", "base.yaml:a", "base.yaml"), 2, "base.yaml declares one run, without arms; write base.yaml"),
    (("run", "runs/base"), 2, "ends in .yaml, .yml or .py; it is a run's folder"),
    (("run", "bse.yaml"), 2, "there is no file 'bse.yaml'; did you mean 'base.yaml'"),
    (("compare", "study"), 2, "did you mean 'study.yaml'"),
    (("show", "runs"), 2, "allowed: a component, a workload, a run's folder or a study's; it is a folder of runs"),
    (("show", "bse.yaml"), 2, "no folder 'bse.yaml'; did you mean 'base.yaml'"),
    (("runs", "rns"), 1, "there is no folder rns; did you mean 'runs'"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), WRONG)
def test_what_a_command_cannot_take_is_told_with_what_can(places, arguments, code, said):
    assert re.search(said, places(*arguments, code=code).stderr.strip())


# -- options are blamed, not the file ------------------------------------------------------------------------------

BLAMED = [
    (("compare", "study.yaml", "--seeds", "3"), "--seeds: got 3; allowed: at least 6 seeds"),
    (("compare", "study.yaml", "--seeds", "2"), "--seeds: got 2; allowed: at least 6 seeds"),
    (("compare", "study.yaml", "--out", "base.yaml"), "--out: got 'base.yaml', which is a file"),
    (("run", "base.yaml", "--out", "base.yaml"), "--out: got 'base.yaml', which is a file"),
    (("run", "base.yaml", "--validate", "5"), "--validate: got '5', an amount without a unit"),
    (("run", "base.yaml", "--validate", "0%"), "--validate: got '0%'; allowed: more than nothing"),
    (("run", "base.yaml", "--probe", "GradientNrm"), "--probe: got 'GradientNrm': .*did you mean 'GradientNorm'?"),
    (("run", "base.yaml", "--probe", "Nope"), "--probe: got 'Nope': there is no component 'Nope'; allowed: AlphaReQ, "),
    (("run", "base.yaml", "--probe", "Cosine"), "--probe: got 'Cosine': Cosine is a schedule; allowed: a probe"),
    (("run", "base.yaml", "--probe", "3"), "--probe: got '3'; allowed: a probe, for example GradientNorm"),
    (("demo", "--seeds", "2"), "--seeds: got 2; allowed: at least "),
]


@pytest.mark.parametrize(("arguments", "said"), BLAMED)
def test_options_are_blamed_for_their_values(cli, arguments, said):
    cli.write("study.yaml", STUDY)
    assert re.match(said, cli(*arguments, code=2).stderr)
    assert not (cli.folder / "runs").exists()


def test_the_file_is_still_blamed_for_its_own_values(cli):
    cli.write("study.yaml", STUDY.replace("seeds: 6", "seeds: 3"))
    assert cli("compare", "study.yaml", code=2).stderr.startswith("study.yaml:2: compare.seeds: got 3; allowed")


# -- python -m regimes ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_python_m_regimes_is_the_command_line_and_is_recorded_so(cli):
    cli.write(
        "one.py",
        """
        import regimes as rg
        from cli_test_module import work as workload
        regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="6 steps")
        """,
    )
    start = [sys.executable, "-m", "regimes"]
    done = subprocess.run([*start, "run", "one.py", "--out", "x"], cwd=cli.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = cli.folder / "x"
    assert json.loads((folder / "run.json").read_text())["command"] == [*start, "run", "one.py", "--out", "x"]
    before = (folder / "records.jsonl").read_bytes()
    (folder / "result.json").unlink()
    again = subprocess.run([*start, "resume", "x"], cwd=cli.folder, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "running the recorded command again" in again.stderr
    assert (folder / "records.jsonl").read_bytes() == before


# -- studies -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_is_written_anew_only_where_something_changed(cli):
    cli.write("study.yaml", STUDY)
    cli("compare", "study.yaml", "--no-progress")
    page = cli.folder / "runs/tiny/report.html"
    page.write_text("old")
    cli("compare", "study.yaml", "--no-progress")  # says how many runs were there before
    assert page.stat().st_size > 10_000
    page.write_text("kept")
    assert cli("compare", "study.yaml", "--no-progress").stdout.endswith("Report: runs/tiny/report.html\n")
    assert page.read_text() == "kept"
    page.unlink()
    cli("compare", "study.yaml", "--no-progress")
    assert page.stat().st_size > 10_000


def test_a_metric_that_is_never_a_number_gets_advice(cli):
    cli.write(
        "cli_test_nan.py",
        """
        import torch
        import regimes as rg
        from cli_test_module import work
        def workload():
            made = work()
            return rg.Workload(model=made.model, train=made.sources["train"]["train"], val=made.sources["val"]["val"],
                               loss=made.loss, metrics={"auc": lambda out, target: torch.full(target.shape, torch.nan)})
        """,
    )
    named = STUDY.replace("cli_test_module:work", "cli_test_nan:workload")
    cli.write("nan.yaml", named.replace("name: tiny", "metric: auc, better: higher, name: tiny"))
    text = cli("compare", "nan.yaml", "--no-progress").stdout
    assert re.search(
        r"^advice: val/auc is a number in no run, although .*: regimes show runs/tiny/runs/\w{20}$", text, re.M
    )
    cli.write("one.yaml", "workload: cli_test_nan:workload\nregime: {optimizer: SGD, batch_size: 8, budget: 3 steps}\n")
    assert "advice: val/auc cannot be told on this data" in cli("run", "one.yaml").stdout
    assert "advice: " not in cli("run", "base.yaml").stdout
    cli.write("far.yaml", STUDY.replace("SGD(lr=Cosine(0.1))", "'SGD(lr=Cosine(1e30), weight_decay=1e10)'"))
    assert re.search(r"^advice: val/loss is a number in no run: lower the", cli("compare", "far.yaml").stdout, re.M)


@pytest.mark.slow
def test_workers_do_not_repeat_what_building_the_workload_says(cli):
    cli.write(
        "cli_test_loader.py",
        """
        import torch
        from torch.utils.data import DataLoader, TensorDataset
        import regimes as rg
        def workload():
            x = torch.linspace(-1, 1, 32).view(-1, 1)
            loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)
            return rg.Workload(model=lambda: torch.nn.Linear(1, 2), train=loader, val=loader, name="loaders",
                               loss=torch.nn.CrossEntropyLoss())
        """,
    )
    cli.write("study.yaml", STUDY.replace("cli_test_module:work", "cli_test_loader:workload"))
    process = cli.process("compare", "study.yaml", "--workers", "2", "--no-progress")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count("train: of the DataLoader its data set") == 1
    assert said.count("val: of the DataLoader its data set") == 1
