"""The processes of a study: they end with the one that started them, and what they finished is kept."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from filelock import FileLock, Timeout

#: Imported by every worker: each holds a lock for as long as it lives, which the system takes from it when it dies.
SCRIPT = """
import os, time
from pathlib import Path
import torch
from filelock import FileLock
import regimes as rg

FOLDER = Path(__file__).parent

class Slow(torch.nn.Linear):
    def forward(self, x):
        if self.training:
            time.sleep(0.01)
        return super().forward(x)

def net():
    return Slow(3, 2)

def work():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return rg.Workload(model=net, train=(x, y), val=(x, y), loss=torch.nn.CrossEntropyLoss())

if __name__ == "__main__":
    base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="20 steps")
    rg.compare(work(), {"slow": base, "fast": base.but(lr=0.2)}, margin=0.01, seeds=6, validate=None,
               out=FOLDER / "study", workers=2, progress=False)
else:
    ALIVE = FileLock(FOLDER / f"worker-{os.getpid()}.lock")
    ALIVE.acquire()
"""


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "study.py"
    file.write_text(textwrap.dedent(SCRIPT))
    return file


def ends_within(lock, seconds):
    """Whether the worker that holds the lock is gone after that long at most."""
    try:
        with FileLock(lock).acquire(timeout=seconds):
            return True
    except Timeout:
        return False


def facts(folder):
    return {arm["name"]: arm for arm in json.loads((folder / "study" / "study.json").read_text())["arms"]}


@pytest.mark.slow
def test_workers_end_with_a_killed_study_which_then_goes_on(script):
    folder = script.parent
    process = subprocess.Popen([sys.executable, script])
    while len(list(folder.glob("study/runs/*/result.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    workers = list(folder.glob("worker-*.lock"))
    assert len(workers) == 2
    assert [ends_within(lock, 10.0) for lock in workers] == [True, True]

    finished = {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("study/runs/*/result.json")}
    assert 3 <= len(finished) < 12
    subprocess.run([sys.executable, script], check=True)
    arms = json.loads((folder / "study" / "study.json").read_text())["arms"]
    assert [(len(arm["values"]), arm["failures"]) for arm in arms] == [(6, []), (6, [])]
    assert sum(arm["reused"] for arm in arms) == len(finished)
    assert {key: (folder / f"study/runs/{key}/result.json").stat().st_mtime_ns for key in finished} == finished


@pytest.mark.slow
def test_interrupted_alone_the_study_ends_at_once_with_checkpoints(script):
    """SIGINT reaches the study's process and no other; runs of 2000 steps would take 20 seconds."""
    folder = script.parent
    script.write_text(script.read_text().replace("20 steps", "2000 steps"))
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE)
    while sum(file.stat().st_size > 0 for file in folder.glob("study/runs/*/records.jsonl")) < 12:
        assert process.poll() is None
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert time.monotonic() - began < 4.0, said
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert "Process " not in said  # no traceback of a worker
    assert [ends_within(lock, 0.0) for lock in folder.glob("worker-*.lock")] == [True, True]
    checkpoints = list(folder.glob("study/runs/*/checkpoints/step-*"))
    assert len(checkpoints) == 12  # all are trained side by side
    assert all(0 < int(path.name.split("-")[1]) < 1000 for path in checkpoints)


DYING = """
import multiprocessing, os, signal
from pathlib import Path
import torch
import regimes as rg

FOLDER = Path(__file__).parent

def loss(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

class Mine(rg.SGD):
    def step(self, state, parameters, evaluate):
        return super().step(state, parameters, evaluate)

class Kill(rg.SGD):
    \"\"\"Ends a worker in the middle of a run, always or the first time only; the step tried before anything is spent passes.\"\"\"

    def step(self, state, parameters, evaluate):
        once = FOLDER / "once"
        if multiprocessing.parent_process() is not None and (self.momentum == 0.5 or not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(state, parameters, evaluate)

def work():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return rg.Workload(model=lambda: torch.nn.Linear(3, 2), train=(x, y), val=(x, y), loss=loss)

def start(workers, **arms):
    rg.compare(work(), arms, margin=0.01, seeds=3, level=0.5, validate=None, out=FOLDER / "study", workers=workers,
               progress=False, make=(work, ()))
"""
BODY = """
if __name__ == "__main__":
    base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="5 steps")
"""


def write(tmp_path, body):
    script = tmp_path / "study.py"
    script.write_text(DYING + BODY + body)
    return script


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_run_tried_once_more(tmp_path):
    script = write(
        tmp_path,
        """
    once, always = (base.but(optimizer=Kill(lr=0.1, momentum=m)) for m in (0.0, 0.5))
    start(2, base=base, once=once, always=always)
""",
    )
    subprocess.run([sys.executable, script], check=True)
    arms = facts(tmp_path)
    assert [None in arms[name]["values"] for name in arms] == [False, False, True]
    assert arms["always"]["values"] == [None] * 3
    assert [row["what"] for row in arms["always"]["failures"]] == [
        "its worker process died 2 times (exit code -9); where memory runs out, processes are killed"
    ] * 3


@pytest.mark.slow
def test_the_same_runs_whatever_the_workers(tmp_path):
    """What a script defines has one name in its own process and another in its workers; equal arms share runs."""
    body = "\n    start({}, base=base, again=base.but(lr=0.1), fast=base.but(optimizer=Mine(lr=0.2)))\n"
    subprocess.run([sys.executable, write(tmp_path, body.format(1))], check=True)
    alone = facts(tmp_path)
    assert [alone[name]["reused"] for name in alone] == [0, 3, 0]
    subprocess.run([sys.executable, write(tmp_path, body.format(2))], check=True)
    beside = facts(tmp_path)
    assert [beside[name]["reused"] for name in beside] == [3, 3, 3]

    shutil.rmtree(tmp_path / "study")
    script = write(tmp_path, body.format(2))
    found = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    assert "waiting" not in found.stderr  # the second of two equal runs begins when the first is there
    first = facts(tmp_path)
    assert [first[name]["failures"] for name in first] == [[]] * 3
    assert first["base"]["reused"] + first["again"]["reused"] == 3
    assert [first[name]["values"] for name in first] == [alone[name]["values"] for name in alone]
    subprocess.run([sys.executable, write(tmp_path, body.format(1))], check=True)
    assert [arm["reused"] for arm in facts(tmp_path).values()] == [3, 3, 3]


@pytest.mark.slow
def test_a_script_that_guards_nothing_is_told(tmp_path):
    script = write(tmp_path, "")
    script.write_text(
        script.read_text().replace('if __name__ == "__main__":', "if True:") + "    start(2, a=base, b=base)\n"
    )
    found = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert found.returncode == 1
    assert "if __name__ == '__main__':, or take workers=1" in found.stderr.splitlines()[-1]
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_workload_that_workers_cannot_build_is_told(tmp_path):
    script = write(tmp_path, "    start(2, base=base, again=base)\n")
    script.write_text(
        script.read_text().replace("def work():", "def work():\n    if (FOLDER / 'study').exists(): 1 / 0")
    )
    (tmp_path / "study").mkdir()
    script.write_text(script.read_text().replace("rg.compare(work(),", "rg.compare(rg.workloads.load('quadratic'),"))
    found = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert found.returncode == 1
    assert "cannot be built in a worker process (ZeroDivisionError: division by zero)" in found.stderr
