"""The run folders below a folder, as they stand now, read without torch; the index is believed where it is still true."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regimes.engine import index, standing

#: What the engine keeps in a run's folder: no runs lie in there.
_PARTS = {"checkpoints", "final", "start"}


def walk(root: str | Path) -> Iterator[tuple[str, set[str]]]:
    """Yield every folder at and below `root` with the names of what lies in it; the parts of runs are passed over.

    Links to folders are not followed. What cannot be read is passed over.
    """
    waiting = [str(root)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = list(entries)
        except OSError:
            continue
        names = {entry.name for entry in found}
        parts = _PARTS if "run.json" in names else ()
        yield place, names
        # As pathlib writes them: what lies in "." has no "./" before it.
        waiting += [
            entry.name if place == "." else entry.path
            for entry in found
            if entry.name not in parts and entry.is_dir(follow_symlinks=False)
        ]


def runs(root: str | Path) -> Iterator[str]:
    """Yield every run's folder at and below `root`."""
    return (place for place, names in walk(root) if "run.json" in names)


def rows(root: Path) -> list[dict[str, Any]]:
    """Return what is known of every run below `root`, newest first; ``study`` is the folder of the study it is of."""
    by_holder: dict[str, list[str]] = {}
    found = []
    for place in runs(root):
        holder, name = os.path.split(place)
        if place == str(root):  # a run itself: what else lies beside it was not asked for
            found += _told(holder, {name: standing.facts_of(place)})
        else:
            by_holder.setdefault(holder, []).append(name)
    for holder, names in by_holder.items():
        known = index.Index(holder)
        found += _told(holder, {name: known.facts_of(name) for name in names})
        known.settle(names)
    # Two stable sorts: newest first, and by path where several began in one second.
    return sorted(sorted(found, key=lambda row: row["path"]), key=lambda row: str(row["created"]), reverse=True)


def _told(holder: str, found: dict[str, dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Rows with the path and the study of each run of a folder; comparisons keep theirs by key."""
    study = _study(holder)
    return [
        row | {"path": os.path.join(holder, name), "study": study if name == row["key"] else None}
        for name, row in found.items()
        if row is not None
    ]


def _study(holder: str | Path) -> str | None:
    """The study whose runs a folder holds: they lie in ``runs`` below the study's folder."""
    return str(Path(holder).parent) if Path(holder).resolve().name == "runs" else None


def study_of(folder: Path, key: str) -> str | None:
    """The study that a run is of."""
    return _study(folder.parent) if folder.name == key else None


def of_commands(root: Path) -> str:
    """Return half a sentence on the studies below `root` whose runs are commands, which are no runs of regimes; or ""."""
    found = [
        place
        for place, names in walk(root)
        if "study.json" in names and next(Path(place).glob("runs/*/run.json"), None) is None
    ]
    if not found:
        return ""
    several = f"{len(found)} studies of commands stand" if len(found) > 1 else "a study of commands stands"
    return f"; {several} there: regimes show {shlex.quote(min(found))}"


def reindex(root: Path) -> int:
    """Write the indexes below `root` anew from the run folders; return how many runs there are."""
    for place, names in walk(root):
        if index.NAME in names:
            index.forget(Path(place))
    return len(rows(root))
