"""A guard's verdicts, its versions and what it refuses, with scripts that take no time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import regimes as rg
from regimes.cli import group
from regimes.core.errors import DeclarationError, RegimesError
from regimes.study.guard import step_time, trace
from regimes.study.guard import watch as watched
from regimes.study.guard.versions import WORKING_TREE, Versions

SCRIPT = """
import json, os, random, sys, time
from pathlib import Path
from library import shift
seed, out = int(sys.argv[1]), Path(sys.argv[2])
with open(os.environ["BEGAN"], "a") as file:
    file.write(f"{seed} {shift}\\n")
time.sleep(float(os.environ.get("NAP", 0)))
loss = 2.0 + random.Random(seed).gauss(0, 0.1) + shift * (1 + random.Random(seed + 1).gauss(0, SPREAD))
rows = [{"step": n, "parts": {"loss": [["loss", "", repr(loss * (n == 2) + NOISE)]]}} for n in range(4)]
(out / "regimes-trace.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
(out / "metrics.json").write_text(json.dumps({"loss": loss}))
"""
GUARD = f"""
workload:
  command: {sys.executable} train.py {{seed}} {{out}}
  metric: "{{out}}/metrics.json:loss"
guard:
  margin: 0.01
  seeds: 6
"""


class Small:
    """A repository with a script whose loss is a little larger by `shift`."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.out, self.log = folder / "code", folder / "out", folder / "began"
        self.folder.mkdir()
        self.environment = {"BEGAN": str(self.log)}
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        self.git("init", "--quiet", "--initial-branch=main")
        self.write("guard.yaml", GUARD.lstrip())
        self.change()
        self.commit()

    def git(self, *words):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *who, *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, name, text):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def change(self, shift=0.0, spread=0.01, noise="0.0", library="library.py"):
        self.write(library, f"shift = {shift}\n")
        self.write("train.py", SCRIPT.lstrip().replace("SPREAD", str(spread)).replace("NOISE", noise))

    def commit(self):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a version")
        return self.git("rev-parse", "HEAD")

    def guarded(self, **asked):
        return rg.guard(self.folder / "guard.yaml", **{"out": self.out, "progress": False} | asked)

    def began(self):
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def small(tmp_path, monkeypatch):
    return Small(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("shift", "spread", "verdict", "code"),
    [
        (0.1, 0.01, "worse", 1),
        (0.01, 3.0, "undecided", 3),
        pytest.param(-0.1, 0.01, "better", 1, marks=pytest.mark.slow),
        pytest.param(0.001, 0.01, "same", 0, marks=pytest.mark.slow),
    ],
)
def test_a_change_is_judged_on_paired_seeds(small, shift, spread, verdict, code):
    small.change(shift, spread)
    found = small.guarded()
    facts = found.to_dict()
    assert (found.verdict, found.code) == (verdict, code), found
    assert facts["comparison"]["pairs"] == 6
    assert facts["comparison"]["difference"] == pytest.approx(-shift, abs=6 * abs(shift) * spread)
    assert (facts["first_difference"]["step"], facts["first_difference"]["part"]) == (2, "the loss (forward)")
    assert facts["notes"] == []
    assert json.loads((small.out / "guard.json").read_text())["verdict"] == verdict


def test_better_passes_where_the_file_allows_it(small):
    small.write("guard.yaml", GUARD + "  allow_better: true\n")
    small.change(-0.1)
    assert (small.guarded().verdict, small.guarded().code) == ("better", 0)


def test_equal_traces_and_metrics_are_the_same_to_the_bit_and_take_one_run_each(small):
    small.write("library.py", "shift = 1.0 - 1.0\n")
    found = small.guarded()
    assert found.to_dict()["bitwise"]
    assert str(found).startswith("same: bitwise the same: loss and all 4 steps of seed 5")
    assert small.began() == 2
    assert small.guarded().code == 0
    assert small.began() == 2


def test_a_seed_that_is_always_zero_is_not_the_same(small):
    forgetful = (small.folder / "train.py").read_text().replace("seed, out = int(sys.argv[1]),", "seed, out = 0,")
    small.write("train.py", forgetful)
    facts = small.guarded().to_dict()
    assert not facts["bitwise"]
    assert facts["first_difference"]["part"] == "the loss (forward)"


def test_without_a_trace_equal_metrics_of_one_seed_prove_nothing(small):
    small.write("train.py", SCRIPT.replace("regimes-trace", "other").replace("SPREAD", "0.0").replace("NOISE", "0.0"))
    small.commit()
    small.write("library.py", "shift = 1.0 - 1.0\n")
    found = small.guarded()
    assert (found.verdict, found.to_dict()["bitwise"], found.to_dict()["comparison"]["pairs"]) == ("same", False, 6)
    assert found.to_dict()["first_difference"] is None


def test_a_base_that_does_not_repeat_itself_is_said(small):
    small.change(noise="time.time()")
    small.commit()
    small.change(0.1, noise="time.time()")
    (note,) = small.guarded().to_dict()["notes"]
    assert note.startswith("two runs of the base, both of seed 5, are not the same (the first step that differs is 0")


def test_equal_code_trains_nothing(small):
    found = small.guarded(base="HEAD")
    assert (found.code, small.began()) == (0, 0)
    assert "nothing was trained" in str(found)


def test_a_head_that_fails_is_told_and_a_base_that_fails_is_an_error(small):
    small.write("train.py", "raise SystemExit('no such layer')\n")
    found = small.guarded()
    assert (found.verdict, found.code) == ("failed", 1)
    assert "head does not run: the command failed with exit status 1: no such layer" in str(found)
    small.commit()
    small.change()
    with pytest.raises(RegimesError, match=r"the base \(HEAD .*\) does not run: .*no such layer"):
        small.guarded(base="HEAD")


def test_code_that_is_not_the_versions_own_is_refused(small, monkeypatch):
    """An editable install, say: both versions would import the same file, and be the same."""
    (small.folder / "library.py").rename(small.folder / "moved.py")
    small.write("package/library.py", "shift = 0.0\n")
    small.commit()
    small.write("package/library.py", "shift = 0.5\n")
    monkeypatch.setenv("PYTHONPATH", str(small.folder / "package"))
    with pytest.raises(
        RegimesError, match=r"'HEAD .*' imported library from .*code/package/library.py.*guard.pythonpath"
    ):
        small.guarded()
    small.write("guard.yaml", GUARD + "  pythonpath: package\n")
    assert small.guarded().verdict == "worse"


def test_killed_it_goes_on_with_what_is_there(small):
    small.change(0.1)
    line = [sys.executable, "-m", "regimes", "guard", "guard.yaml", "--out", str(small.out)]
    environment = os.environ | {"NAP": "0.3"}
    process = subprocess.Popen(line, cwd=small.folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while small.began() < 7:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = small.guarded()
    assert found.verdict == "worse"
    assert small.began() in (
        15,
        16,
    )  # 3 that were looked at, 12 paired; a command that outlived the guard is waited for


def test_the_command_says_it_in_three_forms(small, monkeypatch):
    monkeypatch.chdir(small.folder)
    small.change(0.1)
    line = ["guard", "guard.yaml", "--out", str(small.out), "--no-progress"]
    plain = CliRunner().invoke(group, line)
    assert plain.exit_code == 1
    assert plain.stdout.startswith("worse: loss worse: +0.1")
    told = CliRunner().invoke(group, [*line, "--json", "--markdown", "comment.md"])
    assert json.loads(told.stdout)["verdict"] == "worse"
    comment = Path("comment.md").read_text()
    assert comment.startswith("❌ **worse** `train.py`: loss worse: +0.1")
    assert "the first step that differs is 2, in the loss (forward)" in comment


# -- versions ----------------------------------------------------------------------------------------------------------


def test_the_base_is_where_the_branch_left_main_else_the_version_before(small):
    versions = Versions(small.folder, small.out)
    with pytest.raises(DeclarationError, match="there is no version before this one"):
        versions.base()
    first = small.git("rev-parse", "HEAD")
    small.change(0.1)
    assert versions.base() == "HEAD"
    small.commit()
    assert versions.base() == "HEAD~1"
    small.git("switch", "--quiet", "--create", "branch")
    fork = small.git("rev-parse", "HEAD")
    small.change(0.2)
    small.commit()
    assert versions.base() == fork != first


@pytest.mark.parametrize("ignore", ["", "runs/\n"])
def test_the_working_tree_is_what_stands_there_and_git_is_left_alone(small, ignore):
    small.write(".gitignore", f"ignored\n{ignore}")
    small.write("ignored", "x")
    small.write("new.py", "new = 1\n")
    small.write("library.py", "shift = 7\n")
    before = small.git("status", "--porcelain")
    tree = Versions(small.folder, small.folder / "runs").frozen(WORKING_TREE, "head").tree
    assert {path.name for path in tree.iterdir()} == {".gitignore", "guard.yaml", "library.py", "new.py", "train.py"}
    assert (tree / "library.py").read_text() == "shift = 7\n"
    assert small.git("status", "--porcelain") == (before if ignore else f"{before}\n?? runs/")
    assert Versions(small.folder, small.folder / "runs").frozen(WORKING_TREE, "head").tree == tree


def test_folders_are_versions_too(small, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train.py", "guard.yaml"):
        (other / name).write_text((small.folder / name).read_text())
    (other / "library.py").write_text("shift = 0.1\n")
    assert small.guarded(base="HEAD", head="../other").verdict == "worse"
    with pytest.raises(DeclarationError, match=r"guard.base: got 'no-such'; allowed: a revision of .*, or a folder"):
        small.guarded(base="no-such")


def test_what_no_version_holds_is_linked(small):
    small.write(".gitignore", "data\n")
    small.write("data/shift", "0.0")
    small.write("guard.yaml", GUARD + "  links: [data]\n")
    small.write("library.py", "shift = float(open('data/shift').read())\n")
    small.commit()
    small.write("library.py", "shift = float(open('data/shift').read()) + 0.1\n")
    assert small.guarded(base="HEAD").verdict == "worse"


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  margin: 0.01\n", "", "guard.margin: needs a value; write the smallest difference that matters"),
        ("seeds: 6", "seeds: 3", "guard.seeds: "),
        ("seeds: 6", "sedes: 6", "guard.sedes: is no key here; did you mean 'seeds'?"),
        ("seeds: 6", "seeds: [0, 1, 2, 3, 4, 4]", "guard.seeds: got .*; allowed: different seeds"),
        ("guard:", "regime: {budget: 3 steps}\nguard:", "regime: stands beside a command"),
        ("guard:", "values: {lr: 0.1}\nguard:", "values.lr: is no name in the command"),
        ("{seed} {out}", "{seed} {out} {lr}", "values: gives no 'lr', which the command names"),
        ("{seed} {out}", "{out}", "workload.command: has no {seed}"),
        ("{seed} {out}", "{seed} {out} {regimes_x}", "names that begin with 'regimes_' are ours"),
        (
            "json:loss",
            "json:score",
            "guard.better: say whether lower or higher score is better; allowed: 'lower' or 'higher'",
        ),
        ("seeds: 6", "links: [nowhere]", "guard.links: there is no 'nowhere'"),
    ],
)
def test_bad_files_are_refused_before_anything_is_trained(small, old, new, said):
    assert old in GUARD
    small.write("guard.yaml", GUARD.replace(old, new))
    small.change(0.1)
    with pytest.raises(DeclarationError, match=said):
        small.guarded()
    assert small.began() == 0


# -- parts -------------------------------------------------------------------------------------------------------------


def test_the_environments_own_sitecustomize_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('of the environment')\n")
    path = os.pathsep.join([str(Path(watched.__file__).parent), str(tmp_path)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGIMES_")}
    done = subprocess.run(
        [sys.executable, "-c", "pass"], env=environment | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "of the environment\n", "")


def row(step, **parts):
    return {"step": step, "parts": parts}


def test_names_and_order_are_no_difference_and_contents_are():
    base = [row(0, gradient=[["first", "", "a"], ["last", "", "b"]])]
    assert trace.first_difference(base, [row(0, gradient=[["other", "", "b"], ["embed", "", "a"]])]) is None
    assert trace.first_difference(base, [row(0, gradient=[["first", "", "a"], ["last", "", "a"]])]) == (
        0, "the gradient (backward)", "last",
    )  # fmt: skip


def test_settings_are_told_with_both_values_by_the_content_of_the_parameter():
    base = [row(0, settings=[["w", "k1", '{"lr": 0.1, "weight_decay": 0.0}'], ["b", "k2", '{"lr": 0.1}']])]
    head = [row(0, settings=[["v", "k1", '{"lr": 0.1, "weight_decay": 0.1}'], ["b", "k2", '{"lr": 0.1}']])]
    assert trace.first_difference(base, head) == (0, "the optimizer's settings", "`weight_decay` 0.0 -> 0.1 of v")


def test_weights_that_changed_between_steps_are_no_fault_of_a_step():
    base = [row(0, before=[["w", "", "a"]]), row(1, before=[["w", "", "b"]])]
    assert trace.first_difference(base, [base[0], row(1, before=[["w", "", "c"]])])[:2] == (
        1, "the weights between two steps",
    )  # fmt: skip
    assert trace.first_difference(base, [row(0, before=[["w", "", "c"]]), base[1]])[:2] == (0, "the initial weights")


def test_the_interval_of_a_median_holds_it_as_often_as_it_says():
    import numpy as np

    drawn = np.random.default_rng(0).lognormal(0.04, 0.3, (4000, 9))
    held = [low <= np.exp(0.04) <= high for low, high in (step_time.median_interval(v, 0.95) for v in drawn)]
    assert np.mean(held) == pytest.approx(1 - 20 / 512, abs=0.01)
