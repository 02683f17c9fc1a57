"""Groups of processes: a command and all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

#: Seconds that a command has after it was asked to end, before it is killed.
PATIENCE = 10.0
_POLL = 0.02
_PROC = Path("/proc/self/stat").exists()


def end(group: int) -> None:
    """Ask a group to end, and kill it after `PATIENCE`; interrupted while it waits (Ctrl-C twice), kill it at once."""
    try:
        _signal(group, signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and _lives(group):
            time.sleep(_POLL)
    finally:
        _signal(group, signal.SIGKILL)


def born(pid: int) -> str:
    """Return when a process began, in the system's words: with its number it is known again. Empty where there is none."""
    if _PROC:
        return (_stat(pid) or [""] * 20)[19]
    return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies may not be signaled
        os.killpg(group, number)


def _lives(group: int) -> bool:
    """Whether a group has a process that has not ended; where nobody waits for a process it stays, but does nothing."""
    if _PROC:
        stats = (_stat(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit())
        return any(stat and int(stat[2]) == group and stat[0] not in "ZX" for stat in stats)
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _stat(pid: int) -> list[str] | None:
    """State, parent, group, ... of a process, as Linux tells them behind its name."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None
