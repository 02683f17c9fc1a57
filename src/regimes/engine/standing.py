"""What a run's folder says of its run, read without torch and without more of its records than the last few."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regimes.core.files import told_by

#: What of the end of a file of records is looked at for the last steps of a run, and how much at a time.
_TAIL, _BLOCK = 1 << 18, 1 << 14
#: What is read: of a finished run the first two alone.
_READ = ("run.json", "result.json", "records.jsonl", "checkpoints")


def facts_of(folder: str | Path) -> dict[str, Any] | None:
    """Return what is known of a run; None where its run.json is none of ours.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict or None
        ``key``, ``workload``, ``regime``, ``created``, ``seed``, ``status`` (finished, running, stopped, or diverged where
        it gave up), ``step``, ``metrics`` (empty before its end).
    """
    found = settled(folder)
    return None if found is None else now(folder, found)


def now(folder: str | Path, found: dict[str, Any]) -> dict[str, Any] | None:
    """Return what `settled` has found as it stands while a process may be training the run."""
    if found["status"] == "finished":
        return found
    if _locked(folder):
        return found | {"status": "running"}
    # It may have ended between the two looks.
    return settled(folder) if os.path.exists(f"{folder}/result.json") else found


def settled(folder: str | Path) -> dict[str, Any] | None:
    """Return what a folder says of its run if no process trains it; None where its run.json is none of ours."""
    declared = told_by(f"{folder}/run.json")
    result = told_by(f"{folder}/result.json")
    try:
        row = {name: declared[name] for name in ("key", "workload", "regime", "created")}
        row["seed"] = declared["identity"]["seed"]
    except (KeyError, TypeError):
        return None
    if result:
        return row | {"status": "finished", "step": result.get("step"), "metrics": result.get("metrics", {})}
    options = declared.get("options")
    give_up = options.get("give_up", 10) if isinstance(options, dict) else 10
    return row | _unfinished(folder, give_up) | {"metrics": {}}


def stamp(folder: str | Path, finished: bool) -> tuple[str, float]:
    """Return a text that changes with everything that `settled` reads, and when any of it changed last, in seconds.

    Parameters
    ----------
    folder : path
    finished : bool
        Whether the run is: then nothing else is read than what it was and what came of it.
    """
    found, latest = [], 0
    for name in _READ[:2] if finished else _READ:
        try:
            seen = os.stat(f"{folder}/{name}")
        except OSError:
            found.append("-")
            continue
        # The time of the last change of the inode cannot be set by hand, as the one of the content can.
        latest = max(latest, seen.st_ctime_ns, seen.st_mtime_ns)
        found.append(f"{seen.st_ino} {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}")
    return ", ".join(found), latest / 1e9


def _unfinished(folder: str | Path, give_up: int) -> dict[str, Any]:
    """Status and step of a run that is not finished, if nobody trains it: diverged (it gave up) or stopped."""
    last, skipped = None, 0
    # The step at which a run gives up is not recorded any more.
    wanted = max(give_up - 1, 1)
    for row in _backwards(Path(folder) / "records.jsonl"):
        last = row["step"] + 1 if last is None else last
        if "skipped" not in row:
            break
        skipped += 1
        if skipped == wanted:
            break
    step = max(_checkpoint(folder), last or 0)
    return {"status": "diverged" if skipped == wanted else "stopped", "step": step}


def _checkpoint(folder: str | Path) -> int:
    try:
        names = os.listdir(f"{folder}/checkpoints")
    except OSError:
        return 0
    return max((int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit()), default=0)


def _backwards(file: Path) -> Iterator[dict[str, Any]]:
    """Records that are whole, those of trials apart, from the last on."""
    for line in _lines_backwards(file):
        try:
            row = json.loads(line)
        except ValueError:  # corrupted
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and "trial" not in row:
            yield row


def _lines_backwards(file: Path) -> Iterator[bytes]:
    """Lines that have an end, the last first, out of the end of a file."""
    try:
        stream = file.open("rb")
    except OSError:
        return
    with stream:
        end = stream.seek(0, os.SEEK_END)
        least, cut, ended = max(0, end - _TAIL), b"", False
        while end > least:
            begin = max(least, end - _BLOCK)
            stream.seek(begin)
            cut, *lines = (stream.read(end - begin) + cut).split(b"\n")
            if lines and not ended:
                lines.pop()  # what stands behind the last end of a line is being written
                ended = True
            yield from reversed(lines)
            end = begin
        if least == 0 and ended:
            yield cut


def _locked(folder: str | Path) -> bool:
    """Whether a process trains the run; the lock of one that was killed is free."""
    lock = f"{folder}/.lock"
    if not os.access(lock, os.W_OK):
        return False
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
