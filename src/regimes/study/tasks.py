"""The runs of a study: content-addressed, in this process or in workers side by side; a crash stops only itself."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from regimes.core.errors import RegimesError, RunFailed
from regimes.core.regime import Regime
from regimes.engine import api
from regimes.engine.identity import identity, key
from regimes.engine.run import Run
from regimes.engine.workload import Workload


@dataclass(frozen=True)
class Task:
    """One run of a study.

    Parameters
    ----------
    arm : str
    regime : Regime
    seed : int
    trial : int or None
        Number of the tuning trial; None for a seed of the comparison.
    """

    arm: str
    regime: Regime
    seed: int
    trial: int | None = None


@dataclass
class Outcome:
    """What one task gave.

    Parameters
    ----------
    metrics : dict
        Final metrics; empty where the run failed.
    curve : list of dict
        Records that hold a validation: position, metrics.
    inside : list of dict
        A thinned course of training loss and probes.
    failure : str or None
        Why there is no metric.
    """

    task: Task
    metrics: dict[str, float]
    curve: list[dict[str, Any]]
    inside: list[dict[str, Any]]
    work: dict[str, Any]
    steps: int
    tokens: int
    seconds: float
    key: str
    reused: bool
    failure: str | None = None
    peak_memory: int | None = None


def execute(workload: Workload, task: Task, store: Path, validate: str | None) -> Outcome:
    """Run one task in the store, or find it there finished; failures become outcomes."""
    began = time.perf_counter()
    try:
        name = key(identity(Run(workload, task.regime, task.seed)))
        folder = store / name
        reused = (folder / "result.json").exists()
        found = api.run(
            workload, task.regime, task.seed, out=folder, validate=validate, checkpoint="50%", progress=False
        )
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
    except (RunFailed, Exception) as why:
        if isinstance(why, api.Interrupted):
            raise
        said = str(why) if isinstance(why, RegimesError) else "".join(traceback.format_exception(why)[-3:])
        return Outcome(task, {}, [], [], {}, 0, 0, time.perf_counter() - began, "", False, failure=said)


def _curve(rows: list[dict[str, Any]], found: Any) -> list[dict[str, Any]]:
    """Return the rows that hold a validation, with the position after their step, at which it was measured."""
    after = [*rows[1:], {"samples": found.samples, "tokens": found.tokens}]
    return [
        {name: row[name] for name in row if name != "knobs"} | {"samples": then["samples"], "tokens": then["tokens"]}
        for row, then in zip(rows, after)
        if any(name.startswith("val/") for name in row)
    ]


_WORKLOAD: Workload | None = None


def _start_worker(packed: bytes, counter: Any, workers: int) -> None:
    global _WORKLOAD
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with counter.get_lock():
        place, counter.value = counter.value, counter.value + 1
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= workers > 1:
        os.sched_setaffinity(0, {cores[place % len(cores)]})
    torch.set_num_threads(1)
    make, arguments = pickle.loads(packed)
    _WORKLOAD = make(*arguments)
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        _WORKLOAD.device = torch.device("cuda", place % torch.cuda.device_count())


def _end_with_parent() -> None:
    """Wait for the end of the study's process, and end at once: a killed parent cannot tell its workers to stop.

    What was running is as after a kill: the next call goes on from its last checkpoint.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _execute_in_worker(task: Task, store: Path, validate: str | None) -> Outcome:
    assert _WORKLOAD is not None
    return execute(_WORKLOAD, task, store, validate)


def same(workload: Workload) -> Workload:
    """Return the workload itself (a picklable maker for workers)."""
    return workload


class Pool:
    """Executes tasks, `workers` at a time; with one worker in this process.

    Parameters
    ----------
    workload : Workload
    make : tuple or None
        (function, arguments) that builds the workload in a worker; default: the workload itself, pickled.
    """

    def __init__(self, workload: Workload, store: Path, workers: int, validate: str | None, make: Any = None) -> None:
        self.workload, self.store, self.validate, self.note = workload, store, validate, ""
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            try:
                packed = pickle.dumps(make or (same, (workload,)))
            except (pickle.PicklingError, AttributeError, TypeError) as why:
                self.note = f"one run at a time: the workload cannot be sent to worker processes ({why})"
                workers = 1
            else:
                context = multiprocessing.get_context("spawn")
                counter = context.Value("i", 0)
                self._pool = ProcessPoolExecutor(workers, context, _start_worker, (packed, counter, workers))
        self.workers = workers

    def outcomes(self, queue: Callable[[Sequence[Outcome]], Task | None]) -> Iterator[Outcome]:
        """Yield outcomes as they come; `queue(done)` names the next task, or None while (or when) there is none."""
        done: list[Outcome] = []
        if self._pool is None:
            while (task := queue(done)) is not None:
                done.append(execute(self.workload, task, self.store, self.validate))
                yield done[-1]
            return
        running: dict[Any, Task] = {}
        while True:
            while len(running) < self.workers + 1 and (task := queue(done)) is not None:
                running[self._pool.submit(_execute_in_worker, task, self.store, self.validate)] = task
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                done.append(_outcome_of(future, task))
                yield done[-1]

    def close(self) -> None:
        """Stop the workers; what runs is stopped with a checkpoint."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _outcome_of(future: Any, task: Task) -> Outcome:
    try:
        return future.result()
    except KeyboardInterrupt:
        raise
    except Exception as why:
        return Outcome(
            task,
            {},
            [],
            [],
            {},
            0,
            0,
            0.0,
            "",
            False,
            failure=f"the worker died: {type(why).__name__}: {why}",
        )
