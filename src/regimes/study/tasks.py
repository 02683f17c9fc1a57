"""The runs of a study: content-addressed, found or trained; what fails stops only itself."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regimes.core.errors import RegimesError, RunFailed
from regimes.engine import api
from regimes.engine.folder import Folder, Locked
from regimes.engine.identity import identity, key
from regimes.engine.run import Run
from regimes.engine.workload import Workload

#: Seeds of tuning trials: a comparison counts its own seeds from 0 and never comes here.
TUNING_SEED = 1_000_000
#: The first of the seeds by which a study that is halved chooses its arms: a comparison and a trial never come here.
CHOOSING_SEED = 2_000_000


@dataclass(frozen=True)
class Task:
    """One run of a study.

    Parameters
    ----------
    arm : str
    declared : Regime, or what else the subject trains
    seed : int
    trial : int or None
        Number of the tuning trial; None for a seed of the comparison.
    shares : dict of str to float
        Of a trial: its place in each range.
    """

    arm: str
    declared: Any
    seed: Any
    trial: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """In words."""
        if self.trial is not None:
            return f"trial {self.trial}"
        return f"rung {self.seed - CHOOSING_SEED}" if self.chooses else f"seed {self.seed}"

    @property
    def chooses(self) -> bool:
        """Whether it chooses among the arms of a study that is halved, and is never judged."""
        return isinstance(self.seed, int) and self.seed >= CHOOSING_SEED

    @property
    def content(self) -> tuple[str, Any]:
        """What is trained, whoever asks for it: tasks of one content share one run."""
        return self.declared.hash, self.seed


@dataclass
class Outcome:
    """What one task gave: values, or a sentence why there are none.

    Parameters
    ----------
    metrics : dict
        Final metrics; empty where the run did not end.
    curve : list of dict
        Records that hold a validation: position, metrics.
    inside : list of dict
        A thinned course of training loss and probes.
    work, steps, tokens, seconds
        What it took; empty or None where nobody counted.
    failure : str or None
        Why there is no metric.
    diverged : bool
        Whether it was the training that gave up (a result, the worst there is). Otherwise a failure is one of the
        machine or of somebody's code: it says nothing about the regime, and is never a value.
    traceback : str or None
        Of a failure.
    unread : bool
        Whether the run ended well, but its metric is not where it is looked for. Where no run has left one yet, none
        will: the study ends before the others are spent.
    """

    task: Task
    metrics: dict[str, float]
    curve: list[dict[str, Any]]
    inside: list[dict[str, Any]]
    work: dict[str, Any]
    steps: int | None
    tokens: int | None
    seconds: float | None
    key: str
    reused: bool
    failure: str | None = None
    peak_memory: int | None = None
    diverged: bool = False
    traceback: str | None = None
    unread: bool = False

    @classmethod
    def without_value(cls, task: Task, failure: str, seconds: float = 0.0, **facts: Any) -> Outcome:
        """Return the outcome of a run that gave nothing."""
        return cls(task, {}, [], [], {}, 0, 0, seconds, "", False, failure=failure, **facts)

    @property
    def failed(self) -> bool:
        """Whether the run came to nothing for a reason that is not the regime's."""
        return self.failure is not None and not self.diverged


def execute(workload: Workload, task: Task, store: Path, options: dict[str, Any]) -> Outcome:
    """Run one task in the store, or find it there finished; what fails becomes an outcome.

    Parameters
    ----------
    workload : Workload
    task : Task
    store : Path
        Folder of runs by key.
    options : dict
        Further arguments of `regimes.run`; trackings are told whose run it is.

    Raises
    ------
    Interrupted
        On a signal, after a checkpoint.
    """
    began = time.perf_counter()
    options = options | {"track": [tracking.of(task.arm, task.trial) for tracking in options.get("track", ())]}
    try:
        name = key(identity(Run(workload, task.declared, task.seed)))
        found, reused = _trained(workload, task, store / name, options)
        rows = found.records
        return Outcome(
            task,
            found.metrics,
            _curve(rows, found),
            rows[:: max(1, len(rows) // 100)],
            found.work.state(),
            len(rows),
            found.tokens,
            found.seconds,
            name,
            reused,
        )
    except api.Interrupted:
        raise
    except (Exception, SystemExit) as why:
        said = str(why) if isinstance(why, RegimesError) else f"{type(why).__name__}: {why}"
        # A run that failed for a cause (no memory, say) did not give up because of its losses.
        diverged = isinstance(why, RunFailed) and why.__cause__ is None
        told = "".join(traceback.format_exception(why))
        return Outcome.without_value(task, said, time.perf_counter() - began, diverged=diverged, traceback=told)


def _trained(workload: Workload, task: Task, folder: Path, options: dict[str, Any]) -> tuple[Any, bool]:
    """Return the result, and whether it was there before; a run that another process trains is waited for."""
    while True:
        reused = (folder / "result.json").exists()
        try:
            run = api.run(workload, task.declared, task.seed, out=folder, checkpoint="50%", progress=False, **options)
        except Locked:
            print(f"{folder} is being trained by another process; waiting for it", file=sys.stderr, flush=True)
            Folder(folder).wait()
        else:
            return run, reused


def _curve(rows: list[dict[str, Any]], found: Any) -> list[dict[str, Any]]:
    """Return the rows that hold a validation, with the position after their step, at which it was measured."""
    after = [*rows[1:], {"samples": found.samples, "tokens": found.tokens}]
    return [
        {name: row[name] for name in row if name != "knobs"} | {"samples": then["samples"], "tokens": then["tokens"]}
        for row, then in zip(rows, after)
        if any(name.startswith("val/") for name in row)
    ]
