"""The runs of a command: found finished, read again, or run; what is read is not part of what they are."""

from __future__ import annotations

import math
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regimes.core.duration import seconds
from regimes.core.errors import Interrupted, RegimesError
from regimes.core.files import read_json, write_json
from regimes.study.command.measured import Measured, Unread
from regimes.study.command.process import Attempts, Ended, tail
from regimes.study.tasks import Outcome, Task

if TYPE_CHECKING:
    from regimes.study.command.workload import Command


def train(work: Command, task: Task, folder: Path) -> Outcome:
    """Run one task in its folder, or find it finished there; what fails becomes an outcome."""
    began = time.perf_counter()
    try:
        return _outcome(work, task, folder)
    except Interrupted:
        raise
    except (OSError, RegimesError, ValueError) as why:
        told = "".join(traceback.format_exception(why))
        spent = time.perf_counter() - began
        return Outcome.without_value(task, str(why), spent, traceback=told, unread=isinstance(why, Unread))


def _outcome(work: Command, task: Task, folder: Path) -> Outcome:
    attempts, file = Attempts(folder.resolve(), work.resumes), folder / "result.json"
    reader = {"metric": work.metric, "curve": work.curve}
    with attempts.locked() as lock:
        found = read_json(file) if file.exists() else {}
        reused = found.get("reader") == reader
        if not reused:
            ended = attempts.ended()
            reused = ended is not None and ended.code == 0 and reader not in _refused(ended.out)
            if ended is None or not reused:
                out = attempts.next()
                line = work.line(task.declared, task.seed, out)
                before = work.digests(task)
                ended = attempts.run(line, out, lock, Path(work.directory), seconds(work.timeout))
                _refuse_changed(before, work.digests(task))
            found = _result(work, ended) | {"reader": reader}
            write_json(file, found)
    name = work.measured.name
    return Outcome(
        task, {name: _number(found["metric"])}, [{**row, name: _number(row[name])} for row in found["curve"]], [], {},
        None, None, found["seconds"], folder.name, reused,
    )  # fmt: skip


def _refuse_changed(before: dict[str, str], now: dict[str, str]) -> None:
    """Refuse a run that changed what it is made of: it would not be found again, and made anew by every call."""
    for path, digest in now.items():
        if before.get(path) != digest:
            raise RegimesError(
                f"{path} changed while the command ran that names it; what a run writes belongs into {{out}}, and a script "
                "is left alone while it runs"
            )


def _result(work: Command, ended: Ended) -> dict[str, Any]:
    """What a command that has ended left.

    Raises
    ------
    RegimesError
        If it failed.
    Unread
        If its metric or its curve is not there.
    """
    if ended.code != 0:
        said = tail(ended.out / "stderr.txt") or tail(ended.out / "stdout.txt")
        raise RegimesError(
            f"the command failed with exit status {ended.code}{f': {said}' if said else ''}; see {ended.out}"
        )
    name = work.measured.name
    try:
        metric = work.measured.last(ended.out, ended.left)
        rows = [] if work.curve is None else Measured.parse(work.curve, "curve").rows(ended.out)
    except Unread as why:
        _refuse(ended.out, {"metric": work.metric, "curve": work.curve})
        raise Unread(f"{why}; where metric: or curve: is corrected it is only read again, else run again") from None
    curve = [{"step": step - 1, name: repr(value)} for step, value in rows]
    return {"metric": repr(metric), "curve": curve, "seconds": ended.seconds, "attempt": ended.out.name}


def _refused(out: Path) -> list[dict[str, Any]]:
    """Where a metric was looked for in what an attempt left, and not found."""
    file = out.with_name(f"{out.name}.unread.json")
    return list(read_json(file)["readers"]) if file.exists() else []


def _refuse(out: Path, reader: dict[str, Any]) -> None:
    write_json(out.with_name(f"{out.name}.unread.json"), {"readers": [*_refused(out), reader]})


def _number(text: str) -> float:
    """JSON has no NaN: numbers are kept as text. A metric that is not finite is that of a run that diverged."""
    value = float(text)
    return value if math.isfinite(value) else math.nan
