"""The demo's arms under the real command line, killed at random moments and resumed: the bytes of an unbroken run."""

import json
import signal
import time

import numpy as np
import pytest

from regimes.recipes.demo import arms

#: Kills per arm that must strike a process in training, and of these such as leave a checkpoint half written.
KILLS, HALF_WRITTEN = 5, 1
#: Runs of one arm that may be started until that many have struck: on a busy machine a run may end too early.
ATTEMPTS = 8
FILE = """
workload: char_lm
seed: 1
options: {{checkpoint: 3 steps, validate: 25%}}
regime: {regime}
"""


class Kills:
    """One arm: kills its processes and counts what was struck."""

    def __init__(self, cli, file, seed, stretch):
        self.cli, self.file, self.stretch = cli, file, stretch
        self.rng = np.random.default_rng(seed)
        self.struck = self.half_written = 0

    @property
    def enough(self):
        return self.struck >= KILLS and self.half_written >= HALF_WRITTEN

    def break_once(self, folder):
        """Run or resume, and kill; False where the process had ended before, which is no kill."""
        checkpoints = folder / "checkpoints"
        before = listing(checkpoints)
        command = ("resume", str(folder)) if before else ("run", self.file, "--out", str(folder))
        process = self.cli.process(*command)
        if seen(process, lambda: listing(checkpoints) - before):
            self._strike(process, checkpoints)
        out, err = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, out + err
            return False
        if not (folder / "result.json").exists():
            self.struck += 1
            self.half_written += bool(parts(checkpoints, process))
        return True

    def _strike(self, process, checkpoints):
        """Kill after a random delay; every third time, and until one is hit, at once when a checkpoint is begun."""
        aimed = self.struck % 3 == 0 or (self.struck >= KILLS and not self.half_written)
        # The first kill finds the very first checkpoint half written: there is none to go on from.
        delay = float(self.rng.uniform(0.0, self.stretch / KILLS)) if self.struck else 0.0
        time.sleep(delay)
        if aimed:
            seen(process, lambda: parts(checkpoints, process))
        process.kill()


def listing(checkpoints):
    """Names in the folder, those of half-written checkpoints too."""
    return {path.name for path in checkpoints.iterdir()} if checkpoints.is_dir() else set()


def parts(checkpoints, process):
    """Checkpoints that this process has begun and not finished."""
    return [name for name in listing(checkpoints) if name.startswith(".part-") and name.endswith(f"-{process.pid}")]


def seen(process, condition):
    """Wait for a condition as long as the process lives; True if it came."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)  # writing a checkpoint takes ten times as long; and the process needs the core
    return False


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert "note:" not in out, out


def unbroken(cli, file, folder):
    """Run without a break; return the seconds from the first checkpoint to the end."""
    process = cli.process("run", file, "--out", str(folder))
    assert seen(process, lambda: listing(folder / "checkpoints"))
    began = time.perf_counter()
    finish(process)
    return time.perf_counter() - began


@pytest.mark.slow
@pytest.mark.parametrize("arm", arms())
def test_killed_at_random_moments_it_ends_in_the_bytes_of_an_unbroken_run(arm, cli, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = cli.write("arm.yaml", FILE.format(regime=json.dumps(repr(arms()[arm].but(budget="60 steps")))))
    whole = cli.folder / "whole"
    kills = Kills(cli, file, list(arms()).index(arm), unbroken(cli, file, whole))
    for attempt in range(ATTEMPTS):
        folder = cli.folder / f"killed-{attempt}"
        while not kills.enough and kills.break_once(folder):
            pass
        finish(cli.process("resume", str(folder)))
        for name in ("final/model.safetensors", "records.jsonl"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
        assert not list(folder.rglob(".part-*"))
        if kills.enough:
            break
    print(f"{arm}: {kills.struck} kills in training, {kills.half_written} of a half-written checkpoint")
    assert kills.struck >= KILLS
    assert kills.half_written >= HALF_WRITTEN
