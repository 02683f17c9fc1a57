"""The run folders below a folder, as they stand now, read without torch.

The index is believed only about runs that are finished: a run that was killed could not tell it.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

#: Enough of the end of a file of records for the last steps of a run.
_TAIL = 1 << 18


def rows(root: Path) -> list[dict[str, Any]]:
    """Return what is known of every run below `root`, newest first; ``study`` is the folder of the study it is of."""
    known, found = _indexed(root), []
    for file in root.rglob("run.json"):
        folder = file.parent
        row = known.get(folder.resolve()) or facts_of(folder)
        if row is not None:
            found.append(row | {"path": str(folder), "study": study_of(folder, row["key"])})
    # Two stable sorts: newest first, and by path where several began in one second.
    return sorted(sorted(found, key=lambda row: row["path"]), key=lambda row: str(row["created"]), reverse=True)


def _indexed(root: Path) -> dict[Path, dict[str, Any]]:
    """Rows of finished runs by their folder."""
    from regimes.engine import index

    found = {}
    for file in root.rglob("index.sqlite"):
        for row in index.rows(file.parent):
            # A path is relative to where the run was started, which may be another folder than this.
            places = (Path(row["path"]), file.parent / Path(row["path"]).name)
            place = next((place for place in places if (place / "result.json").is_file()), None)
            if place is not None and row["status"] == "finished":
                found[place.resolve()] = row
    return found


def of_commands(root: Path) -> str:
    """Return half a sentence on the studies below `root` whose runs are commands, which are no runs of regimes; or ""."""
    found = [file.parent for file in sorted(root.rglob("study.json")) if not list(file.parent.glob("runs/*/run.json"))]
    if not found:
        return ""
    several = f"{len(found)} studies of commands stand" if len(found) > 1 else "a study of commands stands"
    return f"; {several} there: regimes show {shlex.quote(str(found[0]))}"


def facts_of(folder: Path) -> dict[str, Any] | None:
    """Return what a run's folder says, as a row of the index; None where its run.json is none of ours."""
    declared, result = told_by(folder / "run.json"), told_by(folder / "result.json")
    try:
        row = {name: declared[name] for name in ("key", "workload", "regime", "created")}
        row["seed"] = declared["identity"]["seed"]
    except (KeyError, TypeError):
        return None
    if result:
        return row | {"status": "finished", "step": result.get("step"), "metrics": result.get("metrics", {})}
    return row | standing(folder, declared.get("options", {}).get("give_up", 10)) | {"metrics": {}}


def told_by(file: Path) -> dict[str, Any]:
    """Return the dict that a JSON file holds; nothing where there is no such file, or it holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def study_of(folder: Path, key: str) -> str | None:
    """The study that a run is of: comparisons keep theirs by key, in ``runs`` below the study's folder."""
    holder = folder.parent
    inside = folder.name == key and holder.resolve().name == "runs"
    return str(holder.parent) if inside else None


def standing(folder: Path, give_up: int = 10) -> dict[str, Any]:
    """Return status and step of a run that is not finished: running, diverged (it gave up) or stopped."""
    names = [path.name for path in folder.glob("checkpoints/step-*")]
    checkpoint = max((int(name[5:]) for name in names if name[5:].isdigit()), default=0)
    last = _last_records(folder)
    step = max([checkpoint, *(int(row["step"]) + 1 for row in last[-1:])])
    if _locked(folder):
        return {"status": "running", "step": step}
    # The step at which a run gives up is not recorded any more.
    tail = last[-max(give_up - 1, 1) :]
    gave_up = len(tail) >= give_up - 1 and bool(tail) and all("skipped" in row for row in tail)
    return {"status": "diverged" if gave_up else "stopped", "step": step}


def _last_records(folder: Path) -> list[dict[str, Any]]:
    """The last records that are whole, those of trials apart."""
    file = folder / "records.jsonl"
    if not file.is_file():
        return []
    with file.open("rb") as records:
        records.seek(max(0, file.stat().st_size - _TAIL))
        lines = records.read().split(b"\n")[:-1]
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # cut off at either end, or corrupted
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and "trial" not in row:
            found.append(row)
    return found


def _locked(folder: Path) -> bool:
    """Whether a process trains the run; the lock of one that was killed is free."""
    from filelock import FileLock, Timeout

    lock = folder / ".lock"
    if not os.access(lock, os.W_OK):
        return False
    try:
        with FileLock(str(lock)).acquire(timeout=0):
            return False
    except Timeout:
        return True
