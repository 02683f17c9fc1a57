"""The run folder: the truth about a run, whole at every moment.

run.json (written at the start), records.jsonl, times.jsonl, checkpoints/, final/, and result.json when finished. A fork
has start/ besides: the checkpoint that it begins from.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from regimes.core.errors import DeclarationError, ResumeError
from regimes.core.files import read_json, sync, write_json
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.core.registry import USER_MODULES
from regimes.engine import checkpoint, fork_command
from regimes.engine.buffers import state_of
from regimes.engine.identity import identity, key
from regimes.engine.run import Run
from regimes.engine.saving import Saver

FORMAT = 1
#: The checkpoint that a fork begins from; it is never deleted.
START = "start"


class Locked(ResumeError):
    """Another process trains the run of this folder."""


class Folder:
    """One run's folder, locked by the process that trains.

    Parameters
    ----------
    path : str or Path
        Where.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._lock = FileLock(str(self.path / ".lock"))
        self._saver = Saver()

    # -- opening -------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Take the run for this process.

        Raises
        ------
        Locked
            If another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise Locked(f"{self.path} is being trained by another process; wait for it or give another out=") from None

    def wait(self) -> None:
        """Return when no process trains the run."""
        with self._lock.acquire(poll_interval=0.1):
            return

    def unlock(self) -> None:
        """Let the run go, and the memory in which its checkpoints were copied."""
        self._saver = Saver()
        self._lock.release()

    def begin(
        self,
        run: Run,
        workload_spec: Any,
        options: dict[str, Any],
        content: dict[str, Any] | None = None,
        lineage: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write run.json at the start, or check that what stands there is the same run.

        Parameters
        ----------
        run : Run
            At its start.
        workload_spec : str, mapping or None
            What builds the workload again; None where only the program itself does.
        options : dict
            As `regimes.run` takes them.
        content : dict, optional
            The identity of the run, where it is known already.
        lineage : dict, optional
            Of a fork at its start: from which run, at which step, with which edits. Whoever names the folder of a fork
            later means that fork.

        Raises
        ------
        ResumeError
            If the folder holds another regime, seed, workload or code, naming what differs.
        """
        content = identity(run) if content is None else content
        file = self.path / "run.json"
        found = read_json(file) if file.exists() else None
        if found is not None and lineage is None:
            lineage = found.get("lineage")
        if lineage is not None:
            content = content | {"lineage": descent(lineage)}
        declared = {
            "format": FORMAT,
            "key": key(content),
            "regime": repr(run.regime),
            "identity": content,
            "workload": run.workload.name,
            "workload_spec": workload_spec,
            "modules": sorted(name for name in USER_MODULES if not name.startswith("_regimes_")),
            "options": options,
            "command": [sys.executable, *sys.argv],
            "directory": os.getcwd(),
            "threads": torch.get_num_threads(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        if lineage is not None:
            declared["lineage"] = lineage
        if found is None:
            write_json(file, declared)
            return declared
        refuse_changes(found, declared, self.path)
        return found

    def plant(
        self, run: Run, records: bytes, content: dict[str, Any], lineage: dict[str, Any], workload_spec: Any,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        """Make this the folder of a fork: the records of its past, the state it starts from, and last its run.json.

        Parameters
        ----------
        run : Run
            Where the fork begins.
        records : bytes
            Lines of the run that it is of, up to there.
        content, lineage, workload_spec, options
            As of `begin`.

        Raises
        ------
        Locked
            If another process makes it.
        """
        self.lock()
        try:
            if (self.path / "run.json").exists():  # another process has been faster
                return
            part = self.path / f".part-records-{os.getpid()}"
            part.write_bytes(records)
            sync(part)
            part.replace(self.path / "records.jsonl")
            shutil.rmtree(self.path / START, ignore_errors=True)  # of a fork that was killed before it had a run.json
            checkpoint.write(self.path, START, {"run": run.tree(), "records_bytes": len(records)})
            self.begin(run, workload_spec, options, content, lineage)
        finally:
            self.unlock()

    # -- during --------------------------------------------------------------------------------------------

    def reserve(self, run: Run) -> None:
        """Have the memory made in which checkpoints are copied, while the run begins, so that the first one is quick."""
        self._saver.reserve({"run": {"states": run.states, **state_of(run.model)}})

    def save(
        self, run: Run, records_bytes: int, first: Callable[[], None] = lambda: None, keep: int = 2
    ) -> None:  # fmt: skip
        """Copy the run's state; a thread then writes it as a checkpoint under a free name, and deletes old ones.

        Parameters
        ----------
        run : Run
            Between two steps; it may go on at once.
        records_bytes : int
            Length of the records up to here.
        first : callable
            Called in the thread before the checkpoint can be seen: brings to disk what it counts on.
        keep : int
            Checkpoints that are left.

        Raises
        ------
        ResumeError
            As `saved`, of the checkpoint before.
        """
        name, step = f"step-{run.work.steps:010d}", run.frame.step

        def write(plain: Any, tensors: dict[str, Tensor]) -> None:
            try:
                first()
                checkpoint.store(self.checkpoints, name, plain, tensors)
            except (OSError, SafetensorError) as why:
                last = next(iter(checkpoint.names(self.checkpoints)), "none")
                raise ResumeError(
                    f"the checkpoint at step {step} could not be written ({_said(why)}); the last whole one "
                    f"is {last}; mend it and run: regimes resume {self.path}"
                ) from None
            checkpoint.prune(self.checkpoints, keep)

        self._saver.save({"run": run.tree(), "records_bytes": records_bytes}, write)

    def saved(self) -> None:
        """Return when the checkpoint that was saved last is on disk.

        Raises
        ------
        ResumeError
            If it could not be written (disk full, say); earlier checkpoints are still there.
        """
        self._saver.wait()

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest whole checkpoint and what was refused on the way; a fork has the one that it began from."""
        tree, said = checkpoint.newest(self.checkpoints)
        if tree is None and (self.path / START).is_dir():
            tree = checkpoint.read(self.path / START)
        return tree, said

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Write final/ and, last of all, result.json: from then on the run is finished.

        Raises
        ------
        ResumeError
            If they cannot be written; the checkpoint of the last step is there.
        """
        from safetensors.torch import save_file

        weights, called = run.judged_weights()
        raw = _contiguous(dict(run.model.state_dict()))
        judged = raw | ({} if weights is None else _contiguous(dict(weights)))
        part = self.path / f".part-final-{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            save_file(_unshared(judged), part / "model.safetensors", metadata={"weights": called})
            if weights is not None:
                save_file(_unshared(raw), part / "raw.safetensors", metadata={"weights": "raw"})
            for file in part.iterdir():
                sync(file)
            shutil.rmtree(self.path / "final", ignore_errors=True)
            part.rename(self.path / "final")
            sync(self.path)
            write_json(self.path / "result.json", result | {"weights": called})
        except (OSError, SafetensorError) as why:
            raise ResumeError(
                f"the final weights could not be written ({_said(why)}); the last checkpoint holds the whole run; mend it "
                f"and run: regimes resume {self.path}"
            ) from None

    @property
    def result(self) -> dict[str, Any] | None:
        """The result, if the run is finished."""
        file = self.path / "result.json"
        return read_json(file) if file.exists() else None


def _said(why: Exception) -> str:
    return getattr(why, "strerror", None) or str(why)


def _contiguous(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _unshared(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tied weights are stored once per name: safetensors refuses shared memory."""
    seen: set[int] = set()
    out = {}
    for name, t in tensors.items():
        out[name] = t.clone() if t.data_ptr() in seen else t
        seen.add(t.data_ptr())
    return out


def descent(lineage: dict[str, Any]) -> dict[str, Any]:
    """What of a lineage is part of a fork's identity: which run it is of (by its key), where, and what was left out."""
    return {name: lineage[name] for name in ("parent", "at", "without") if name in lineage}


def refuse_changes(found: dict[str, Any], declared: dict[str, Any], path: Path) -> None:
    """Refuse to continue a folder under another declaration, naming the differing paths."""
    if found.get("format") != FORMAT:
        raise ResumeError(f"{path} was written in format {found.get('format')}; this version reads {FORMAT}")
    if found["key"] == declared["key"]:
        return
    old, new = found["identity"], declared["identity"]
    if old["regime"] != new["regime"]:
        said = _regime_difference(path, found["regime"], declared["regime"])
        raise ResumeError(f"{path} holds another regime; {said}")
    raise ResumeError(
        f"{path} holds a run of {other(old, new)}; continuing would mix two runs in one folder; give another out="
    )


def other(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in what the second of two identities first differs."""
    first = next(name for name in dict.fromkeys([*new, *old]) if old.get(name) != new.get(name))
    what = {"sources": "program"}.get(first, first)
    return f"another {what}; {first}: {_short(old.get(first), new.get(first))}"


def _regime_difference(path: Path, old: str, new: str) -> str:
    try:
        before, after = parse(old), parse(new)
    except DeclarationError:
        return f"there stands {old}; give another out="
    if not isinstance(before, Regime) or not isinstance(after, Regime) or before == after:
        return f"there stands {old}; give another out="
    rows = "; ".join(f"{d.path}: {d.old} -> {d.new}" for d in before.diff(after))
    fork = fork_command.command(path, before, after)
    return f"it differs in {rows}; give another out=" + (f", or fork it: {fork}" if fork else "")


def _short(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
        return ", ".join(f"{name} ({old.get(name)} -> {new.get(name)})" for name in names[:4])
    return f"{old} -> {new}"
