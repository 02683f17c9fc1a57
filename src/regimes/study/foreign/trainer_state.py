"""``trainer_state.json`` of transformers' Trainer: a folder per run, the newest checkpoint's state of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, show
from regimes.study.design import is_number
from regimes.study.foreign.rows import flat
from regimes.study.foreign.trackers import Kept

FILE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def places(path: Path) -> Iterator[Path]:
    """Yield the files."""
    yield from ([path] if path.name == FILE and path.is_file() else sorted(path.rglob(FILE)))


def read(files: Sequence[Path], root: Path) -> list[Kept]:
    """Return the run of every output folder, called as the folder; each from the state that got furthest.

    A second value of one step that is another one (an evaluation of the best model, after the last) is a column of its
    own, ``eval_loss#2``.

    Raises
    ------
    DeclarationError
        If a file is none of the Trainer's.
    """
    furthest: dict[Path, dict[str, Any]] = {}
    for file in files:
        state = _state(file)
        home = file.parent.parent if _CHECKPOINT.fullmatch(file.parent.name) else file.parent
        known = furthest.get(home)
        if known is None or _reach(state) >= _reach(known):
            furthest[home] = state
    return [_run(_name(home, root), state) for home, state in furthest.items()]


def _name(home: Path, root: Path) -> str:
    inside = home.is_relative_to(root) and home != root
    return home.relative_to(root).as_posix() if inside else home.resolve().name


def _reach(state: dict[str, Any]) -> tuple[int, int]:
    return state["global_step"], len(state["log_history"])


def _state(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as why:
        raise DeclarationError(f"'{file}' cannot be read as JSON: {why}", "frame") from None
    if not isinstance(state, dict) or not {"global_step", "log_history", "max_steps"} <= set(state):
        raise DeclarationError(f"'{file}' holds {show(state)}, which is no state of a Trainer", "frame")
    return state


def _run(name: str, state: dict[str, Any]) -> Kept:
    run = Kept(name, flat(state.get("trial_params") or {}))
    ended = state["global_step"] >= state["max_steps"]
    for entry in state["log_history"]:
        ended = ended or "train_runtime" in entry  # the Trainer's last word, after an early stop too
        point = run.points.setdefault(entry["step"], {})
        for key, value in entry.items():
            if key != "step" and is_number(value):
                point[key if point.get(key, value) == value else f"{key}#2"] = value
    if not ended:
        run.unfinished = f"its state is of step {state['global_step']} of {state['max_steps']}"
    return run
