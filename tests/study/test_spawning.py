"""Processes that end with the one that asked for them."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
import torch
from regimes.study.spawning import context, end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=context(2), initializer=end_with_parent) as pool:
        print(pool.submit({what}).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


def alive(pid):
    """Whether a process is there and has not ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_of_a_killed_process_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(what="os.getpid").replace("import sys", "import os, sys"))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    assert alive(worker)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10.0
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(worker)


def test_a_worker_has_the_environment_of_now(tmp_path):
    """Also where the server began earlier, under another."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, torch\nimport regimes as rg\nfrom regimes.study import spawning\n\n"
        "def work():\n    print(os.environ.get('SAID'), flush=True)\n    return rg.workloads.load('quadratic', examples=64)\n\n"
        "if __name__ == '__main__':\n    spawning.prepare(2)\n    os.environ['SAID'] = 'later'\n"
        "    base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget='4 steps')\n"
        "    rg.compare(work(), {'a': base, 'b': base.but({'optimizer.lr': 0.2})}, margin=0.1, seeds=6, workers=2,\n"
        "               progress=False, make=(work, ()), out='study')\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "SAID"}
    done = subprocess.run(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, check=True, cwd=tmp_path, env=env
    )
    assert done.stdout.split() == ["later"] * 3
