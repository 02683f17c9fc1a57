"""The processes of a study: they end with the one that started them, and what they finished is kept."""

import json
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
