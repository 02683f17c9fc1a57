"""Runs of a workload of ours: content-addressed, found or trained; what fails stops only itself."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path
from typing import Any

from regimes.core.errors import Interrupted, RegimesError, RunFailed
from regimes.engine import api
from regimes.engine.folder import Folder, Locked
from regimes.engine.identity import identity, key
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.study.courses import inside_rows
from regimes.study.tasks import Outcome, Task


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
            inside_rows(rows),
            found.work.state(),
            len(rows),
            found.tokens,
            found.seconds,
            name,
            reused,
        )
    except Interrupted:
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
