"""What stands at a path that a person named, and which command takes it: a refusal then says what to do instead."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from regimes.core.errors import nearest
from regimes.core.files import told_by
from regimes.study import folders

SUFFIXES = (".yaml", ".yml", ".py")


def refused(sentence: str, path: str | Path) -> str:
    """Return the sentence of a refusal with what to do instead.

    Examples
    --------
    >>> refused("there is no file 'no/such/place.yaml'", "no/such/place.yaml")
    "there is no file 'no/such/place.yaml'"
    """
    return "; ".join(part for part in (sentence, _instead(path)) if part)


def _instead(path: str | Path) -> str:
    """What stands there, and the command for it; of a place that is not there, the nearest that is."""
    place = Path(path)
    if (place / "run.json").is_file():
        return f"it is a run's folder; look at it with: regimes show {place}"
    if is_study(place):
        return f"it is a study's folder; look at it with: regimes show {place}; go on with: {study_command(place)}"
    if place.is_dir():
        if next(folders.runs(place), None) is not None:
            return f"it is a folder of runs; list them with: regimes runs {place}"
        return "it is a folder without runs"
    if place.is_file():
        return _of_file(place)
    return _nothing(place)


def is_study(place: Path) -> bool:
    """Whether a folder is a study's: judged, or with runs of a comparison that is not finished."""
    return (place / "study.json").is_file() or next(place.glob("runs/*/run.json"), None) is not None


def study_command(place: Path) -> str:
    """The command that goes on with a study, as its folder knows it."""
    for file in itertools.chain([place / "study.json"], place.glob("runs/*/run.json")):
        command = told_by(file).get("command")
        if isinstance(command, str):
            return command
        if isinstance(command, list):  # the words of the process that trained a run of it
            return typed([str(word) for word in command])
    return "the same call"


def typed(words: list[str]) -> str:
    """What a person types to run a recorded command of this command line again."""
    if words[1:3] == ["-m", "regimes"]:
        return shlex.join(words[2:])
    script = Path(words[1]).stem if len(words) > 1 else ""
    return shlex.join(["regimes", *words[2:]] if script == "regimes" else words)


def _of_file(file: Path) -> str:
    if file.name == "study.json":
        return f"it is a study; look at it with: regimes show {file.parent}"
    if file.suffix not in SUFFIXES:
        return "it is a file that declares nothing"
    keys = re.findall(r"^(\w+)\s*[:=]", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    if {"arms", "compare"} & {*keys}:
        return f"it declares a comparison; train and judge it with: regimes compare {file}"
    return f"it declares a run; train it with: regimes run {file}"


def _nothing(place: Path) -> str:
    for suffix in SUFFIXES:
        if place.with_name(place.name + suffix).is_file():
            return f"did you mean '{place}{suffix}'?"
    beside: Iterable[Path] = place.parent.iterdir() if place.parent.is_dir() else ()
    hint = nearest(place.name, [one.name for one in beside if not one.name.startswith(".")])
    return hint if hint.startswith("did you mean") else ""
