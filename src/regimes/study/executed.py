"""Runs of a workload of ours: content-addressed, found or trained; what fails stops only itself."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from regimes.core.errors import RegimesError, RunFailed
from regimes.engine.api import Session
from regimes.engine.folder import Locked
from regimes.engine.identity import key
from regimes.engine.result import RunResult
from regimes.engine.sessions import Ended, train
from regimes.engine.workload import Workload
from regimes.study.courses import inside_rows
from regimes.study.tasks import Outcome, Task, UnderWay


def execute(
    workload: Workload, tasks: Sequence[Task], store: Path, options: dict[str, Any]
) -> Iterator[Outcome | UnderWay]:
    """Run tasks in the store, side by side, or find them there finished; yield each as it ends, and how far they are.

    What fails becomes an outcome.

    Parameters
    ----------
    workload : Workload
    tasks : sequence of Task
        Of different content.
    store : Path
        Folder of runs by key.
    options : dict
        Further arguments of `regimes.run`; trackings are told whose run it is.

    Raises
    ------
    Interrupted
        On a signal, after a checkpoint.
    """
    given: dict[Session, _Given] = {}
    for task in tasks:
        began = time.perf_counter()
        try:
            session = _session(workload, task, store, options)
        except (Exception, SystemExit) as why:
            yield _failed(task, why, time.perf_counter() - began)
        else:
            given[session] = _Given(task, session.folder is not None and session.folder.result is not None, began)
    for found in train(list(given)):
        if not isinstance(found, Ended):
            yield UnderWay(found)
            continue
        session, raised = found
        task, reused, began = given[session]
        if isinstance(raised, Locked):
            raised, reused = _waited(session, reused)
        try:
            if raised is not None:
                raise raised
            yield _outcome(task, session, reused)
        except (Exception, SystemExit) as why:
            yield _failed(task, why, time.perf_counter() - began)


class _Given(NamedTuple):
    task: Task
    reused: bool
    began: float


def _session(workload: Workload, task: Task, store: Path, options: dict[str, Any]) -> Session:
    """The session of a task, in the folder that its content names."""
    track = [tracking.of(task.arm, task.trial) for tracking in options.get("track", ())]
    return Session.at(
        workload, task.declared, task.seed, lambda content: store / key(content),
        **options | {"track": track, "checkpoint": "50%"},
    )  # fmt: skip


def _waited(session: Session, reused: bool) -> tuple[BaseException | None, bool]:
    """Train a run that another process was training, when that one has let it go."""
    while True:
        assert session.folder is not None
        print(f"{session.folder.path} is being trained by another process; waiting for it", file=sys.stderr, flush=True)
        session.folder.wait()
        reused = session.folder.result is not None
        [raised] = [found.raised for found in train([session]) if isinstance(found, Ended)]
        if not isinstance(raised, Locked):
            return raised, reused


def _outcome(task: Task, session: Session, reused: bool) -> Outcome:
    found = RunResult.of(session.run, [], session.folder, 0.0, session.notes)
    rows = found.records
    assert found.folder is not None
    return Outcome(
        task,
        found.metrics,
        _curve(rows, found),
        inside_rows(rows),
        found.work.state(),
        len(rows),
        found.tokens,
        found.seconds,
        found.folder.name,
        reused,
    )


def _failed(task: Task, why: BaseException, seconds: float) -> Outcome:
    said = str(why) if isinstance(why, RegimesError) else f"{type(why).__name__}: {why}"
    # A run that failed for a cause (no memory, say) did not give up because of its losses.
    diverged = isinstance(why, RunFailed) and why.__cause__ is None
    told = "".join(traceback.format_exception(why))
    return Outcome.without_value(task, said, seconds, diverged=diverged, traceback=told)


def _curve(rows: list[dict[str, Any]], found: Any) -> list[dict[str, Any]]:
    """Return the rows that hold a validation, with the position after their step, at which it was measured."""
    after = [*rows[1:], {"samples": found.samples, "tokens": found.tokens}]
    return [
        {name: row[name] for name in row if name != "knobs"} | {"samples": then["samples"], "tokens": then["tokens"]}
        for row, then in zip(rows, after)
        if any(name.startswith("val/") for name in row)
    ]
