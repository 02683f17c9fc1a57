"""``trainer_state.json`` of transformers' Trainer: a folder per run, of each the state that got furthest."""

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

    A checkpoint that got further than the folder's own state may be left over from an earlier run into the same folder:
    it is believed only where it holds all that the own state has logged, and else left out, and that is noted.

    A second value of one step that is another one (an evaluation of the best model, after the last) is a column of its
    own, ``eval_loss#2``.

    Raises
    ------
    DeclarationError
        If a file is none of the Trainer's.
    """
    homes: dict[Path, dict[str, dict[str, Any]]] = {}
    for file in files:
        checkpoint = file.parent.name if _CHECKPOINT.fullmatch(file.parent.name) else ""
        home = file.parent.parent if checkpoint else file.parent
        homes.setdefault(home, {})[checkpoint] = _state(file)
    return [_furthest(_name(home, root), states) for home, states in homes.items()]


def _furthest(name: str, states: dict[str, dict[str, Any]]) -> Kept:
    """The run of one folder; `states` by checkpoint, the folder's own under no name."""
    own = states.get("")
    if own is None:
        return _run(name, max(states.values(), key=_reach))
    further = {checkpoint: state for checkpoint, state in states.items() if _reach(state) > _reach(own)}
    strange = [checkpoint for checkpoint, state in further.items() if not _continues(state, own)]
    run = _run(name, max((own, *(further[one] for one in further if one not in strange)), key=_reach))
    if strange:
        tell = "tells" if len(strange) == 1 else "tell"
        run.note = (
            f"run '{name}': {', '.join(strange)} {tell} of another run than the folder's own {FILE}, "
            f"which is of step {own['global_step']}, and {'is' if len(strange) == 1 else 'are'} left out"
        )
    return run


def _continues(state: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether a state holds all that another has logged; as text, in which NaN equals NaN.

    The Trainer's last word of a training comes after its last checkpoint, from which another goes on.
    """
    logged = {json.dumps(entry, sort_keys=True) for entry in state["log_history"]}
    said = [entry for entry in own["log_history"] if "train_runtime" not in entry]
    return all(json.dumps(entry, sort_keys=True) in logged for entry in said)


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
