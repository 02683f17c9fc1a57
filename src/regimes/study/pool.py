"""Runs in this process, or in worker processes side by side: they end with the study, and a dead one is replaced."""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import os
import pickle
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from regimes.core.errors import Interrupted, RegimesError
from regimes.study.command import groups
from regimes.study.spawning import context, end_with_parent
from regimes.study.stopping import terminable
from regimes.study.subject import Subject
from regimes.study.tasks import Outcome, Task, UnderWay

#: Seconds that workers have for the step they are in and its checkpoint, or to end a command, before they are killed.
PATIENCE = groups.PATIENCE + 2
#: Seconds that they have when they are asked again.
LAST = 1.0
#: How often a task is given to a worker before its death counts as the task's failure.
TRIES = 2


class Pool:
    """Executes tasks, `workers` at a time; with one worker in this process.

    Parameters
    ----------
    subject : Subject
    store : Path
        Folder of runs by key.
    workers : int
    make : tuple or None
        (function, arguments) that builds the subject in a worker; default: the subject itself, pickled.
    arms : sequence
        Those whose tasks will come: where they cannot be sent to a worker, one run at a time is left.
    """

    def __init__(
        self,
        subject: Subject,
        store: Path,
        workers: int,
        make: Any = None,
        arms: Sequence[Any] = (),
    ) -> None:
        self.subject, self.store, self.note = subject, store, ""
        self._workers: list[_Worker] = []
        self._waiting: list[Task] = []
        self._singly: list[Task] = []
        if workers > 1:
            try:
                packed = pickle.dumps(make or (_same, (subject,)))
                pickle.dumps(list(arms))
            except (pickle.PicklingError, AttributeError, TypeError) as why:
                self.note = f"one run at a time: what is trained cannot be sent to worker processes ({why})"
            else:
                self._workers = [_Worker(packed, place, workers) for place in range(workers)]

    def outcomes(self, queue: Callable[[Sequence[Outcome]], Task | None]) -> Iterator[Outcome | UnderWay]:
        """Yield outcomes as they come, and in between how far the others are.

        `queue(done)` names the next task, or None while (or when) there is none.

        Raises
        ------
        RegimesError
            If worker processes cannot start, or the first run that ended has left no metric: what runs beside it is
            finished, and the others are not spent.
        """
        done: list[Outcome] = []
        if not self._workers:
            while not _in_vain(done) and (tasks := self._next(queue, done, 1)):
                for found in self.subject.train_all(tasks, self.store):
                    if isinstance(found, Outcome):
                        done.append(found)
                    yield found
            _refuse(done)
            return
        with terminable():
            # A second of loading what the report is drawn with, while this process has nothing to do.
            threading.Thread(target=importlib.import_module, args=("altair",), daemon=True).start()
            while True:
                idle = [worker for worker in self._workers if not worker.tasks]
                for place, worker in enumerate(idle if not _in_vain(done) else ()):
                    if tasks := self._next(queue, done, len(idle) - place):
                        worker.give(tasks, self.store)
                busy = {worker.inbox: worker for worker in self._workers if worker.tasks}
                if not busy:
                    break
                for inbox in connection.wait(list(busy)):
                    worker = busy[inbox]  # type: ignore[index]
                    answer = worker.answer()
                    self._singly += worker.handed_back()
                    if isinstance(answer, Outcome):
                        done.append(answer)
                        yield answer
                    elif answer is not None:
                        yield UnderWay(sum(worker.under_way for worker in self._workers))
        _refuse(done)

    def _next(self, queue: Callable[[Sequence[Outcome]], Task | None], done: list[Outcome], takers: int) -> list[Task]:
        """The next tasks for one of `takers`: its share of those that can start now.

        A task whose run is being trained waits, and finds it finished. What killed a worker among others goes alone.
        """
        training = {task.content for worker in self._workers for task in worker.tasks}
        if self._singly:
            return [self._singly.pop(0)]
        while sum(task.content not in training for task in self._waiting) < takers * self.subject.together:
            if (new := queue(done)) is None:
                break
            self._waiting.append(new)
        free: dict[Any, Task] = {}
        for task in self._waiting:
            if task.content not in training:
                free.setdefault(task.content, task)
        most = min(self.subject.together, math.ceil(len(free) / takers))
        chosen = list(free.values())[:most]
        self._waiting = [task for task in self._waiting if not any(task is other for other in chosen)]
        return chosen

    def close(self) -> None:
        """Stop the workers; what they train stops after its step, with a checkpoint.

        One that has nothing to do is left to end by itself: Python and torch take a second for it.
        """
        busy = [worker for worker in self._workers if worker.tasks]
        try:
            for worker in self._workers:
                worker.stop()
            until = time.monotonic() + PATIENCE
            for worker in busy:
                worker.process.join(max(0.0, until - time.monotonic()))
        finally:
            for worker in busy:  # asked twice, a worker kills at once what it was ending
                worker.process.terminate()
            for worker in busy:
                worker.process.join(LAST)
                worker.process.kill()
                worker.process.join()


class _Worker:
    """A process of its own that trains some runs at a time.

    Parameters
    ----------
    packed : bytes
        What builds the workload.
    place, workers : int
        Which worker of how many: decides about cores and devices.
    """

    def __init__(self, packed: bytes, place: int, workers: int) -> None:
        self._about = packed, place, workers
        self.tasks: list[Task] = []
        self._store: Path | None = None
        self._tries, self._began = 0, False
        self._back: list[Task] = []
        self.under_way = 0.0
        self._start()

    def _start(self) -> None:
        begin = context(self._about[2])
        self.inbox, theirs = begin.Pipe()
        self.process: Any = begin.Process(target=_serve, args=(theirs, dict(os.environ), *self._about))  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()

    def give(self, tasks: list[Task], store: Path) -> None:
        """Let the process train tasks."""
        self.tasks, self._store, self._tries = list(tasks), store, 0
        self._send()

    def _send(self) -> None:
        self._tries += 1
        with contextlib.suppress(OSError):  # a process that has died is noticed when it is asked for its answer
            self.inbox.send((self.tasks, self._store))

    def answer(self) -> Outcome | UnderWay | None:
        """Return what the process has to say: an outcome, how far it is, or nothing yet.

        Raises
        ------
        RegimesError
            If it died before it had ever begun to work, or cannot build the workload.
        """
        try:
            outcome = self.inbox.recv()
        except (EOFError, OSError):
            return self._died()
        if isinstance(outcome, str):
            raise RegimesError(
                f"the workload cannot be built in a worker process ({outcome}); what a notebook defines is not known "
                "there: define it in a module, or take workers=1"
            )
        if outcome is None:
            self._began = True
            return None
        self.under_way = outcome.runs if isinstance(outcome, UnderWay) else 0.0
        if isinstance(outcome, UnderWay):
            return outcome
        self.tasks = [task for task in self.tasks if task.content != outcome.task.content]
        return outcome

    def handed_back(self) -> list[Task]:
        """Tasks that were given together to a process that died, to be given one by one; told once."""
        back, self._back = self._back, []
        return back

    def _died(self) -> Outcome | None:
        self.inbox.close()
        self.process.join()
        code = self.process.exitcode
        if not self._began:
            raise RegimesError(
                "the worker processes cannot start (what they said stands above); a script that trains with workers "
                "has to do so under if __name__ == '__main__':, or take workers=1"
            )
        self._start()
        if len(self.tasks) > 1:
            self._back, self.tasks = self.tasks, []
            return None
        if self._tries < TRIES:
            self._send()
            return None
        [task], self.tasks = self.tasks, []
        return Outcome.without_value(
            task,
            f"its worker process died {TRIES} times (exit code {code}); where memory runs out, processes are killed",
        )

    def stop(self) -> None:
        """Ask the process to end."""
        self.inbox.close()
        if self.tasks:
            self.process.terminate()


def _in_vain(done: Sequence[Outcome]) -> bool:
    """Whether runs end, but leave no metric where it is looked for: the first does not, and none has."""
    return any(outcome.unread for outcome in done) and all(outcome.failed for outcome in done)


def _refuse(done: Sequence[Outcome]) -> None:
    if _in_vain(done):
        first = next(outcome for outcome in done if outcome.unread)
        told = f"{first.task.what} of '{first.task.arm}': {first.failure}"
        raise RegimesError(f"{told}. No other run is begun, as none would leave a metric")


def _same(subject: Subject) -> Subject:
    return subject


def _serve(inbox: Any, environment: dict[str, str], packed: bytes, place: int, workers: int) -> None:
    """Be a worker: build the workload, then train what comes until the study ends."""
    os.environ.clear()  # that of the server is as it was when it began
    os.environ.update(environment)
    end_with_parent()
    # Ctrl-C reaches every process of a terminal; a worker ends when the study tells it to, or within its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _be_main()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= workers > 1:
        os.sched_setaffinity(0, set(cores[place::workers]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the study's process built the same workload, and has shown them
            make, arguments = pickle.loads(packed)
            # Commands train in processes of their own: their workers never import torch, which takes seconds.
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            subject: Subject = make(*arguments)
    except Exception as why:
        inbox.send(f"{type(why).__name__}: {why}")
        return
    subject.placed(place)
    with subject.kept(), contextlib.suppress(EOFError, OSError, Interrupted):
        inbox.send(None)
        while True:
            for outcome in subject.train_all(*inbox.recv()):
                inbox.send(outcome)


def _be_main() -> None:
    """Call the script ``__main__`` here too: what it defines is then the same, by name, as in the study's process."""
    for thing in gc.get_objects():
        if issubclass(type(thing), types.FunctionType | type) and thing.__module__ == "__mp_main__":
            thing.__module__ = "__main__"
        names = thing.__globals__ if type(thing) is types.FunctionType else {}
        if names.get("__name__") == "__mp_main__":  # what is defined from now on takes its module from here
            names["__name__"] = "__main__"
