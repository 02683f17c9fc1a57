"""Replay: a window of a run again, bitwise, with instruments on; and once more without some of its examples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regimes.core.errors import DeclarationError, show
from regimes.core.files import read_json, sync, write_json
from regimes.engine import records
from regimes.engine.folder import Folder
from regimes.engine.identity import identity
from regimes.engine.look import look, names
from regimes.engine.observation import Observer
from regimes.engine.run import Run
from regimes.engine.stored import Again, Stored, of_trial
from regimes.probes.norms import by_layer, norm

#: The files of a replay's folder.
FACTS, INSTRUMENTS = "replay.json", "instruments.jsonl"


def open_folder(path: Path, declared: dict[str, Any]) -> None:
    """Make the folder of a replay, or take the one of the same replay again.

    Raises
    ------
    DeclarationError
        If something else lies there.
    """
    if path.is_dir() and any(path.iterdir()):
        found = read_json(path / FACTS) if (path / FACTS).is_file() else {}
        if found.get("declared") != json.loads(json.dumps(declared)):
            raise DeclarationError(f"got '{path}', which holds something else; allowed: a new folder", "out")
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / FACTS, {"declared": declared})


def window(again: Again, start: int, stop: int, probes: Sequence[Any]) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield the line of every record of a window, with what the instruments say; of trials' steps, the line alone.

    Parameters
    ----------
    again : Again
        Before the window.
    start, stop : int
        The first step, and the one after the last.
    probes : sequence of Probe
        Those that name no cadence measure after every step.
    """
    run = again.until(start)
    observer = Observer(run, probes, default=None, memory={})
    while run.frame.step != stop or run.frame.trial is not None:
        run.ready()
        seen = look(run) if run.frame.trial is None else {}
        before = by_layer(run.parameters, run.parameters.values())
        observer.before()
        record, line = again.step()
        spent = run.work.observed_flops
        found = {} if "trial" in record.signals else observer.after(record)
        run.work.observed_flops = spent  # a replay is no part of the run, nor of what a fork of it is charged
        if "trial" in record.signals:
            yield line, None
            continue
        after = by_layer(run.parameters, run.parameters.values())
        growth = {name: after[name] / was - 1.0 for name, was in before.items() if name in after and was > 0.0}
        facts = {"step": record.at.step, "loss": record.loss, "skipped": record.signals.get("skipped")}
        yield line, facts | seen | {"weight": before, "growth": growth, "probes": found}


class Left:
    """A window made once more, without some examples: the fork of a run at its beginning.

    Parameters
    ----------
    stored : Stored
    tree : dict
        State of the run where the window begins.
    start, stop : int
        The first step, and the one after the last.
    examples : sequence of str
        ``index``, or ``source:index``.

    Raises
    ------
    DeclarationError
        If an example is in no batch of the window, or a batch holds nothing else.
    """

    def __init__(self, stored: Stored, tree: dict[str, Any], start: int, stop: int, examples: Sequence[str]) -> None:
        self.run = stored.begin()
        self.run.load(tree)
        self.examples, self.lines = tuple(examples), list[bytes]()
        self._met: set[str] = set()
        observer = Observer(self.run, stored.probes)
        while not self.run.finished and (self.run.frame.step != stop or self.run.frame.trial is not None):
            self.run.ready()
            self._leave_out()
            observer.before()
            self.lines.append((records.line(observer.noted(self.run.step())) + "\n").encode())
        for name in self.examples:
            if name not in self._met:
                raise DeclarationError(
                    f"got '{name}', which is in no batch of the steps {start} to {stop - 1}; allowed: examples of these, "
                    f"as {INSTRUMENTS} names them",
                    "without",
                )

    def _leave_out(self) -> None:
        frame = self.run.frame
        called = names(self.run, frame.plans[0])
        keep = np.array([name not in self.examples for name in called])
        self._met |= set(called) & set(self.examples)
        if not keep.any():
            raise DeclarationError(
                f"got {show(', '.join(self.examples))}, and the batch of step {frame.step} holds nothing else; allowed: "
                "examples that leave some of every batch",
                "without",
            )
        if not keep.all():
            frame.plans[0] = frame.plans[0].chosen(keep)

    def losses(self) -> dict[int, float | None]:
        """Loss by step."""
        rows = [json.loads(line) for line in self.lines if not of_trial(line)]
        return {row["step"]: row.get("loss") for row in rows}

    def distance(self, other: Run) -> dict[str, float]:
        """How far the weights of another run are from these, by layer and ("") in all, relative to the other's norm."""
        mine, theirs = dict(self.run.model.named_parameters()), dict(other.model.named_parameters())
        moved = {name: mine[name].detach() - p.detach() for name, p in theirs.items()}
        sizes, steps = by_layer(theirs, theirs.values()), by_layer(moved, moved.values())
        whole = {"": norm(moved.values()) / norm(theirs.values())}
        return whole | {name: step / sizes[name] for name, step in steps.items() if sizes[name] > 0.0}

    def plant(self, stored: Stored, out: Path, start: int, offset: int, workload_spec: Any) -> None:
        """Write it as a run's folder, which `regimes resume` trains to its end.

        Parameters
        ----------
        stored : Stored
            The run that it is a fork of.
        out : Path
        start : int
            Where the window began.
        offset : int
            Length of the parent's records up to there.
        workload_spec : str, mapping or None
            What builds the workload again.
        """
        without = {"examples": list(self.examples), "from": start}
        lineage = {"folder": str(stored.path.absolute()), "parent": stored.declared["key"], "at": self.run.frame.step}
        lineage |= {"without": without, "command": stored.declared["command"]}
        content, folder = identity(stored.begin()), Folder(out)
        if not (out / "run.json").exists():
            with (stored.path / "records.jsonl").open("rb") as file:
                past = file.read(offset) + b"".join(self.lines)
            folder.plant(self.run, past, content, lineage, workload_spec, stored.options)
        folder.begin(self.run, workload_spec, stored.options, content, lineage)


def write(path: Path, lines: Sequence[bytes], facts: Sequence[dict[str, Any]], told: dict[str, Any]) -> None:
    """Write what was replayed: the records byte for byte, what the instruments said, and last what it was."""
    _write(path / "records.jsonl", b"".join(lines))
    rows = [json.dumps(finite(row)) + "\n" for row in facts]
    _write(path / INSTRUMENTS, "".join(rows).encode())
    write_json(path / FACTS, finite(told))


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".part-{path.name}")
    part.write_bytes(content)
    sync(part)
    part.replace(path)


def finite(data: Any) -> Any:
    """Return JSON-able data with numbers that are not finite as text, as records have them."""
    if isinstance(data, float):
        return data if np.isfinite(data) else repr(data)
    if isinstance(data, dict):
        return {name: finite(value) for name, value in data.items()}
    return [finite(item) for item in data] if isinstance(data, list | tuple) else data
