"""A study's folder that holds another study: it is kept beside, so that one never overwrites another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError
from regimes.core.files import read_json, write_json

#: What a folder holds of one study; its runs are shared, each under its own key.
_FILES = ("study.json", "report.html", "design.json")
#: Under which name a design notes the numbers of seeds at which it had been judged before.
_LOOKED = "judged_before_at"
#: What it costs to add seeds to a study whose verdict is known; said before it is done, and after.
PRICE = (
    "whoever adds seeds until a verdict comes finds false ones more often than the level says (simulated: 15% instead of "
    "5% for a few additions)"
)


def to_decide(seeds: int) -> str:
    """Return what keeps the level, to be said wherever more seeds are spoken of.

    Parameters
    ----------
    seeds : int
        How many a new study would need.
    """
    return (
        f"to decide: {PRICE}; a new study on {seeds} seeds that were not used here keeps the level, and so does one that "
        "looks by plan from the start (until decided)"
    )


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
    looked = _looked_at(found, record, differing)
    if looked:
        record[_LOOKED] = looked
    if not differing:
        return _peeked(looked)
    beside = _place(folder, found)
    beside.mkdir(exist_ok=True)
    for name in _FILES:
        if (folder / name).exists():
            (folder / name).replace(beside / name)
    kept = f"{folder} held another study ({'; '.join(differing)}): it is kept in {beside}; runs that both ask for are shared"
    return "; ".join(filter(None, [kept, _peeked(looked)]))


def refuse_other(folder: Path, record: dict[str, Any]) -> None:
    """Refuse a folder that holds another study than the one that is to be written: of runs that others made there is
    nothing to share, and nothing that a move beside would save.

    Raises
    ------
    DeclarationError
        Naming what differs.
    """
    if folder.exists() and not folder.is_dir():
        raise DeclarationError(f"got '{folder}', which is a file; allowed: a folder, new or of a study", "out")
    if not (folder / "study.json").exists():
        return
    found = read_json(folder / "design.json") if (folder / "design.json").exists() else {}
    differing = _differing(found, record) if found.get("seeds") in (None, record["seeds"]) else ["seeds"]
    if differing:
        raise DeclarationError(
            f"got '{folder}', which holds another study ({'; '.join(differing)}); allowed: a new folder, or that of this "
            "very study",
            "out",
        )


def _looked_at(old: dict[str, Any], new: dict[str, Any], differing: list[str]) -> list[int]:
    """At which numbers of seeds the same question was judged before, where seeds have been added since."""
    if not old or any(not said.startswith("looks: ") for said in differing):
        return []
    before = list(old.get(_LOOKED, []))
    added = set(old.get("seeds") or ()) < set(new["seeds"])
    legal = new.get("looks") is not None and not differing  # it goes on to a look that was planned
    return [*before, len(old["seeds"])] if added and not legal else before


def _peeked(looked: list[int]) -> str | None:
    if not looked:
        return None
    times = " and ".join([", ".join(map(str, looked[:-1])), str(looked[-1])] if len(looked) > 1 else [str(looked[0])])
    return f"it was judged at {times} seeds before more were added: {PRICE}; until='decided' looks legally"


def remember(folder: Path, record: dict[str, Any]) -> None:
    """Write down what the study in the folder asked."""
    write_json(folder / "design.json", record)


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What another study asked otherwise; more seeds of the same study are no difference."""
    if not old:
        return ["what it asked is not written down"]
    said = []
    for name in (name for name in new if name != _LOOKED):
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
