"""Several runs with folders, trained side by side in one process: each is killed, continued and finished as alone."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from regimes.core.errors import Interrupted
from regimes.engine import bursts
from regimes.engine.api import Session, stopped_by_signals
from regimes.engine.replicas import Record
from regimes.engine.together import LARGEST, Together

#: Seconds between two words of how far all are.
OFTEN = 1.0


class Ended(NamedTuple):
    """A session that has ended, and what it raised."""

    session: Session
    raised: BaseException | None


@contextlib.contextmanager
def _left_alone() -> Iterator[None]:
    """Inside, what exists already is not looked through for garbage: bursts make many objects, and every full collection
    would go through all of torch's, which took a tenth of the time of small models."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Clock:
    """The time that one of several runs takes of what all of them take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def train(sessions: Sequence[Session], largest: int = LARGEST) -> Iterator[Ended | float]:
    """Train runs of one workload side by side, stacked where they can be; yield each as it ends.

    Every second or so it yields a number besides: how many runs all that has been done of those that are going on makes.

    Parameters
    ----------
    sessions : sequence of Session
        With folders.
    largest : int
        Runs in a stack, at most.

    Raises
    ------
    Interrupted
        On a signal, after a checkpoint of every run.
    ResumeError
        If nobody asks for more, and a checkpoint on its way to disk could not be written.
    """
    with _left_alone() if len(sessions) > 1 else contextlib.nullcontext(), contextlib.ExitStack() as signals:
        signals.enter_context(stopped_by_signals(sessions))
        opened: dict[Session, contextlib.ExitStack] = {}
        try:
            for session in sessions:
                why = _open(session, opened)
                if why is not None or not session.training:
                    yield Ended(session, why or _close(session, opened))
            yield from _trained(opened, largest)
        finally:
            failed = [why for session in list(opened) if (why := _close(session, opened)) is not None]
            if failed:
                raise failed[0]


def _open(session: Session, opened: dict[Session, contextlib.ExitStack]) -> BaseException | None:
    session.clock = _Clock()
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(session.opened())
    except (Exception, SystemExit) as why:
        return why
    opened[session] = stack
    return None


def _close(session: Session, opened: dict[Session, contextlib.ExitStack]) -> BaseException | None:
    """Give a session's folder back; return why its last checkpoint or records are not on disk."""
    try:
        opened.pop(session).close()
    except (Exception, SystemExit) as why:
        return why
    return None


def _trained(opened: dict[Session, contextlib.ExitStack], largest: int) -> Iterator[Ended | float]:
    by_run = {session.run: session for session in opened}
    together = Together(list(by_run), largest)
    told = time.perf_counter()
    most = 1 if any(session.observer.probes for session in opened) else bursts.MOST
    while together.running:
        began, stopped = time.perf_counter(), None
        steps = list(together.steps(most, lambda run: by_run[run].pauses(), lambda run: by_run[run].observer.before()))
        share = (time.perf_counter() - began) / len(steps)
        for run, made in steps:
            session = by_run[run]
            session.clock.seconds += share  # type: ignore[attr-defined]
            why = made if isinstance(made, BaseException) else _settled(session, made)
            if isinstance(why, Interrupted):
                stopped = why
            elif why is not None or not session.training:
                together.drop(run)
                # A checkpoint on its way to disk was taken before whatever has ended the run since.
                yield Ended(session, _close(session, opened) or why)
        if stopped is not None:
            raise stopped
        if time.perf_counter() - told > OFTEN:
            told = time.perf_counter()
            yield sum(_share(session.run) for session in opened)


def _share(run: Any) -> float:
    """How much of a run has been made."""
    at = run.position
    if at.run_fraction is not None:
        return float(at.run_fraction)
    return float(run.frame.phase + at.fraction) / len(run.phases)


def _settled(session: Session, records: Sequence[Record]) -> BaseException | None:
    try:
        for record in records:
            session.note(record)
        session.settle()
    except (Exception, SystemExit) as why:
        return why
    return None
