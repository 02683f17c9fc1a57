"""A run as its folder tells it, only read and never locked; and the same run trained again, held against its records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, ResumeError, show
from regimes.core.files import read_json
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.engine import checkpoint, records
from regimes.engine.folder import START, other
from regimes.engine.identity import identity, key
from regimes.engine.observation import Observer
from regimes.engine.run import Run
from regimes.engine.step import Record
from regimes.engine.workload import Workload


class Stored:
    """A run in its folder; nothing of it is ever written.

    Parameters
    ----------
    path : Path
        The run's folder.
    workload : Workload
        What it trains.
    regime : Regime
        How.
    """

    def __init__(self, path: Path, workload: Workload, regime: Regime) -> None:
        self.path, self.workload, self.regime = path, workload, regime
        self.declared = read_json(path / "run.json")
        self.seed: int = self.declared["identity"]["seed"]
        self.options: dict[str, Any] = dict(self.declared["options"])
        self.probes: list[Any] = [parse(text) for text in self.options["probes"]]
        self.lineage: dict[str, Any] = self.declared.get("lineage") or {}
        #: Before this step there are records of it, but no state: it is a fork.
        self.first = int(self.lineage.get("at", 0))

    def begin(self, regime: Regime | None = None, seed: int | None = None) -> Run:
        """Return the run at step 0, or one of another regime or seed that is otherwise alike."""
        validate, give_up = self.options["validate"], self.options["give_up"]
        seed = self.seed if seed is None else seed
        return Run(self.workload, regime or self.regime, seed, validate=validate, give_up=give_up)

    def checked(self) -> Run:
        """Return the run at step 0, known to be the one of the folder.

        Raises
        ------
        ResumeError
            If code, data, versions or device are others: what is trained again would be another run.
        """
        run = self.begin()
        content = identity(run)
        if "lineage" in self.declared["identity"]:
            content |= {"lineage": self.declared["identity"]["lineage"]}
        if key(content) != self.declared["key"]:
            said = other(self.declared["identity"], json.loads(json.dumps(content)))
            raise ResumeError(f"{self.path} was trained by {said}; only what it was trained by trains it again")
        return run

    # -- how far it got ------------------------------------------------------------------------------------

    def lines(self, offset: int = 0) -> Iterator[bytes]:
        """Whole lines of its records from a byte on."""
        file = self.path / "records.jsonl"
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(offset)
                yield from (line for line in stream if line.endswith(b"\n"))

    def end(self) -> int:
        """How many steps there are records of, those before it was forked included."""
        newest = next(iter(self._places()), {"step": self.first, "records_bytes": 0})
        done = [json.loads(line)["step"] + 1 for line in self.lines(newest["records_bytes"]) if not of_trial(line)]
        return max([newest["step"], *done])

    def _places(self) -> Iterator[dict[str, Any]]:
        """Where its whole checkpoints stand, the newest first; a run that is being trained may delete one meanwhile."""
        folder = self.path / "checkpoints"
        for path in [*(folder / name for name in checkpoint.names(folder)), self.path / START]:
            try:
                yield checkpoint.frame(path) | {"path": path}
            except ResumeError:
                continue

    def again(self, step: int, key: str = "at") -> Again:
        """Return the run at the nearest checkpoint at or before the beginning of a step, else at its beginning.

        Parameters
        ----------
        step : int
        key : str
            Who asks for it, for the refusal.

        Raises
        ------
        DeclarationError
            If there are no records of so many steps, or the step lies before that at which it was forked.
        ResumeError
            As `checked`.
        """
        self._refuse(step, key)
        run = self.checked()
        for place in self._places():
            if place["step"] < step or (place["step"] == step and self._just_reached(place)):
                try:
                    tree = checkpoint.read(place["path"])
                except ResumeError:
                    continue
                run.load(tree["run"])
                return Again(self, run, tree["records_bytes"])
        if self.first:
            raise ResumeError(f"{self.path / START} is gone or not whole; a fork cannot be trained again without it")
        return Again(self, run, 0)

    def _refuse(self, step: int, key: str) -> None:
        if step < self.first:
            parent = self.lineage["folder"]
            raise DeclarationError(
                f"got {show(step)}, but {self.path} was forked at step {self.first}; allowed: from there on; what was "
                f"before is in {parent}",
                key,
            )
        if step > (end := self.end()):
            raise DeclarationError(
                f"got {show(step)}; allowed: {self.first} to {end}, the steps that there are records of in {self.path}",
                key,
            )

    def _just_reached(self, place: dict[str, Any]) -> bool:
        """Whether nothing came after the step before: no trial that the next step is to begin with."""
        if place["inner"]:
            return False
        stop = place["records_bytes"]
        if stop == 0 or place["path"].name == START:
            return True
        with (self.path / "records.jsonl").open("rb") as stream:
            stream.seek(max(0, stop - (1 << 20)))
            return not of_trial(stream.read(min(stop, 1 << 20)).splitlines()[-1])


class Again:
    """A run that is trained again: every record, that of its own probes included, is held against the stored one.

    Parameters
    ----------
    stored : Stored
    run : Run
        Where it begins.
    offset : int
        Length of the records up to there.
    """

    def __init__(self, stored: Stored, run: Run, offset: int) -> None:
        self.stored, self.run, self.offset = stored, run, offset
        #: The step at which it begins.
        self.begun = run.frames[0].step
        self._observer = Observer(run, stored.probes)
        self._lines = stored.lines(offset)

    def until(self, step: int) -> Run:
        """Train up to the beginning of a step, before any trial that it begins with, and return the run."""
        while self.run.frame.step != step or self.run.frame.trial is not None:
            self.step()
        return self.run

    def step(self) -> tuple[Record, bytes]:
        """Make one step; return its record and the line of it.

        Raises
        ------
        ResumeError
            If it is not byte for byte what is stored.
        """
        self._observer.before()
        record = self._observer.noted(self.run.step())
        line = (records.line(record) + "\n").encode()
        stored = next(self._lines, b"")
        if line != stored:
            raise ResumeError(f"{self.stored.path} was not trained again bit by bit: {_differs(stored, line)}")
        self.offset += len(line)
        return record, line


def of_trial(line: bytes) -> bool:
    """Whether a record's line is of a trial's step."""
    return b'"trial": ' in line


def _differs(stored: bytes, line: bytes) -> str:
    """Say in which field of which step two records first differ."""
    new = json.loads(line)
    try:
        old = json.loads(stored)
        assert isinstance(old, dict)
    except (ValueError, AssertionError):
        return f"there is no whole record of step {new['step']}"
    if old == new:  # the same values in another order, or written in another way
        return f"the record of step {new['step']} has been written by something else"
    name = next(name for name in dict.fromkeys([*new, *old]) if name not in old or old[name] != new.get(name))
    return (
        f"at step {new['step']} '{name}' is {show(new.get(name))}, and the record says {show(old.get(name))}; the record "
        "has been changed, or this machine adds in another order than the one that trained it"
    )
