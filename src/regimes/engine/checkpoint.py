"""Checkpoints are directories: filled under another name, synced, renamed once; never pickled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from regimes.core.errors import ResumeError
from regimes.core.files import sync
from regimes.engine import trees

FORMAT = 1


def write(folder: Path, name: str, tree: dict[str, Any]) -> Path:
    """Write a state tree as ``folder/name``; a crash at any moment leaves the earlier checkpoints.

    Parameters
    ----------
    folder : Path
        The run's checkpoint folder.
    name : str
        A free name: replacing an old 50 MiB file costs 80 ms, a rename to a free name nothing.
    tree : dict
        State tree.
    """
    tensors: dict[str, Tensor] = {}
    return store(folder, name, trees.flatten(tree, tensors), tensors)


def store(folder: Path, name: str, plain: Any, tensors: dict[str, Tensor]) -> Path:
    """Write, as `write` does, a state tree that `trees.flatten` has taken apart."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final, part = folder / name, folder / f".part-{name}-{os.getpid()}"
    if final.exists():
        return final
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, part / "tensors.safetensors")
        text = json.dumps({"format": FORMAT, "tensors": sorted(tensors), "tree": plain})
        (part / "state.json").write_text(text)
        for file in ("tensors.safetensors", "state.json"):
            sync(part / file)
        sync(part)
        part.rename(final)
        sync(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return final


def read(path: Path) -> dict[str, Any]:
    """Read one checkpoint.

    Raises
    ------
    ResumeError
        If it is truncated, foreign or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as why:
        raise ResumeError(f"checkpoint {path} is not whole ({why})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ResumeError(f"checkpoint {path} is of a foreign format; this version reads format {FORMAT}")
    if sorted(tensors) != content["tensors"]:
        raise ResumeError(f"checkpoint {path} lacks tensors that its state names")
    return trees.restore(content["tree"], tensors)


def frame(path: Path) -> dict[str, Any]:
    """Return where a checkpoint stands, without its tensors: step, finished, records_bytes, and whether in a trial.

    Raises
    ------
    ResumeError
        If it is truncated or foreign.
    """
    try:
        tree = json.loads((path / "state.json").read_text())["tree"]
        run, (outer, *inner) = tree["run"], tree["run"]["frames"]
        place = {"step": outer["step"], "finished": run["finished"], "inner": bool(inner)}
        return place | {"records_bytes": tree["records_bytes"]}
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise ResumeError(f"checkpoint {path} is not whole ({why})") from None


def names(folder: Path) -> list[str]:
    """Names of the finished checkpoints, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), reverse=True)


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest whole checkpoint and the sentences about those that were refused, which are set aside.

    A refused one keeps its content under ``.refused-<name>``: it neither counts among the kept ones nor stands in the
    way of a new one of its name.
    """
    said: list[str] = []
    for name in names(folder):
        try:
            return read(folder / name), said
        except ResumeError as why:
            aside = folder / f".refused-{name}"
            said.append(f"{why}; it is kept as {aside.name}")
            if not aside.exists():
                (folder / name).rename(aside)
    return None, said


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what a crash left half written."""
    for name in names(folder)[keep:]:
        shutil.rmtree(folder / name, ignore_errors=True)
    for part in folder.glob(".part-*"):
        if not part.name.endswith(f"-{os.getpid()}"):
            shutil.rmtree(part, ignore_errors=True)
