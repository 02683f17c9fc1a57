"""A study's folder that holds another study: it is kept beside, so that one never overwrites another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regimes.engine.folder import read_json, write_json

#: What a folder holds of one study; its runs are shared, each under its own key.
_FILES = ("study.json", "report.html", "design.json")


def make_room(folder: Path, record: dict[str, Any]) -> str | None:
    """Move another study out of the way; return a sentence that says what differs and where it is now.

    The same study, or the same with more seeds, is brought up to date in its place.

    Parameters
    ----------
    folder : Path
        The study's.
    record : dict
        What the study that is to be written asks.
    """
    if not (folder / "study.json").exists():
        return None
    found = read_json(folder / "design.json") if (folder / "design.json").exists() else {}
    differing = _differing(found, record)
    if not differing:
        return None
    beside = _place(folder, found)
    beside.mkdir(exist_ok=True)
    for name in _FILES:
        if (folder / name).exists():
            (folder / name).replace(beside / name)
    return (
        f"{folder} held another study ({'; '.join(differing)}): it is kept in {beside}, and shares its runs with this"
    )


def remember(folder: Path, record: dict[str, Any]) -> None:
    """Write down what the study in the folder asked."""
    write_json(folder / "design.json", record)


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What another study asked otherwise; more seeds of the same study are no difference."""
    if not old:
        return ["what it asked is not written down"]
    said = []
    for name in new:
        before, after = old.get(name), new[name]
        if name == "seeds" and set(before or ()) <= set(after):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
            said += [f"{name}: {', '.join(map(repr, changed))}"] if changed else []
        elif before != after:
            said.append(f"{name}: {before} -> {after}")
    return said


def _place(folder: Path, record: dict[str, Any]) -> Path:
    """The folder of the same study from before, or a new one."""
    number = 1
    while (beside := folder / f"earlier-{number}").exists():
        if record and (beside / "design.json").exists() and not _differing(read_json(beside / "design.json"), record):
            break
        number += 1
    return beside
