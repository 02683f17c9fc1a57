"""A process that carries the records of one run to a tracker: the run waits for it only at its end, and not for long."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import regimes

#: Seconds that a tracker has, at the end of a run, to take what is left before it is given up.
PATIENCE = 60.0


class Courier:
    """The process, as the run sees it.

    It is a process, not a thread: trackers draw from Python's random numbers (to space out retries), change signal
    handlers and print, none of which may reach a run.

    Parameters
    ----------
    name : str
        The tracker's.
    job : dict
        What it is to do (`regimes.track.__main__`).
    log : Path
        Takes what the tracker prints.
    """

    def __init__(self, name: str, job: dict[str, Any], log: Path) -> None:
        self.name, self._log = name, log
        places = [str(Path(regimes.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with log.open("ab") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "regimes.track"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=file, start_new_session=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
                )  # fmt: skip
        except OSError as why:  # no memory for a process, no place for its log: the run goes on
            self._never = f"it could not be started: {why}"
            return
        self._say(json.dumps(job))

    def _say(self, text: str) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # one that has died is noticed at the end
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()

    def end(self, word: str) -> str | None:
        """Tell it how the run ended, wait until it has delivered what there is, and return what went wrong."""
        if self._process is None:
            return self._lost(self._never)
        self._say(word)
        killer = threading.Timer(PATIENCE, self._process.kill)
        killer.start()
        try:
            with contextlib.suppress(OSError):
                answer, _ = self._process.communicate()
        finally:
            killer.cancel()
        try:
            error = json.loads(answer)["error"]
        except (ValueError, KeyError, NameError):
            code = self._process.returncode
            late = code == -9
            error = (
                f"it took more than {PATIENCE:g} s to take what was left" if late else f"it ended with status {code}"
            )
        if error is None:
            with contextlib.suppress(OSError):
                if self._log.stat().st_size == 0:
                    self._log.unlink()
            return None
        return self._lost(f"{error}; {self._log}")

    def _lost(self, error: str) -> str:
        return f"{self.name} does not hold all points ({error}); the same call sends what is missing"
