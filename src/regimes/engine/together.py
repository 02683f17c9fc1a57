"""Several runs in one process: stacked where they can be, stacked anew where one of them enters another phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from regimes.engine import bursts, memory
from regimes.engine.replicas import Stack
from regimes.engine.stackable import Unstackable, bound, form, why_not
from regimes.engine.step import Record

#: Runs in a stack, at most.
LARGEST = 64


class Together:
    """Steps runs side by side.

    Parameters
    ----------
    runs : sequence of Run
        Of one workload.
    largest : int
        Runs in a stack, at most.
    """

    def __init__(self, runs: Sequence[Any], largest: int = LARGEST) -> None:
        self.largest = largest
        self.stacks: list[Stack] = []
        self.alone: list[Any] = []
        #: Why runs are not stacked, in words, as often as it was met.
        self.reasons: list[str] = []
        #: Of stacks, and of runs alone.
        self._pace, self._single = bursts.Pace(), bursts.Pace()
        self._group(runs)

    def _group(self, runs: Iterable[Any]) -> None:
        """Stack what has one form; whatever cannot be stacked goes on alone."""
        groups: dict[Any, list[Any]] = {}
        for run in runs:
            why = why_not(run)
            if why is None:
                groups.setdefault(form(run), []).append(run)
            elif not run.finished:
                self._leave([run], why)
        for members in groups.values():
            why = bound(members[0]) if len(members) > 1 else None
            if why is not None:
                self._leave(members, why)
                continue
            largest = min(self.largest, memory.fitting(members[0])) if len(members) > 1 else 1
            for start in range(0, len(members), largest):
                part = members[start : start + largest]
                if len(part) == 1:
                    self._leave(part, "no other run has its form" if len(members) == 1 else "memory is short")
                    continue
                try:
                    self.stacks.append(Stack(part))
                except Unstackable as why:
                    self._leave(part, str(why))

    def _leave(self, runs: list[Any], why: str) -> None:
        self.alone += runs
        self.reasons.append(why)

    def steps(
        self,
        most: int = bursts.MOST,
        last: Callable[[Any], bool] = lambda run: False,
        before: Callable[[Any], None] = lambda run: None,
    ) -> Iterator[tuple[Any, list[Record] | BaseException]]:
        """Make some steps of every run: yield each with its records, or with what it raised.

        Parameters
        ----------
        most : int
            Steps of a run at once, at most; 1 where somebody looks at every step.
        last : callable
            ``last(run)``, asked where a run stands after a step: whether the caller has something to do before the next.
        before : callable
            Called with every run before it makes a single step.
        """
        for stack in list(self.stacks):
            began = time.perf_counter()
            try:
                made = self._stepped(stack, min(most, self._pace.most), last, before)
            except Unstackable as why:  # from the next step on
                self.stacks.remove(stack)
                stack.release()
                self._leave(stack.runs, str(why))
            else:
                steps = max((len(each) for each in made if isinstance(each, list)), default=1)
                seconds = time.perf_counter() - began
                self._pace.note(seconds, steps)
                stack.graphs.worth.note(seconds / steps, stack.left)
                yield from zip(stack.runs, made)
        for run in list(self.alone):
            yield run, self._alone(run, most, last, before)
        self._regroup()

    def _alone(
        self, run: Any, most: int, last: Callable[[Any], bool], before: Callable[[Any], None]
    ) -> list[Record] | BaseException:
        began = time.perf_counter()
        try:
            made = bursts.burst(run, min(most, self._single.most), last) if most > 1 else []
            if not made:
                before(run)
                made = [run.step()]
        except (Exception, SystemExit) as why:
            return why
        self._single.note(time.perf_counter() - began, len(made))
        return made

    def _stepped(
        self, stack: Stack, most: int, last: Callable[[Any], bool], before: Callable[[Any], None]
    ) -> list[list[Record] | BaseException]:
        several = stack.burst(most, last) if most > 1 else [[]]
        if several[0]:
            return list(several)
        for run in stack.runs:
            before(run)
        return [[found] if isinstance(found, Record) else found for found in stack.step()]

    def drop(self, run: Any) -> None:
        """Leave a run out from the next step on: it has failed, or somebody else goes on with it."""
        self.alone = [other for other in self.alone if other is not run]
        for stack in self.stacks:
            if run in stack.runs:
                self._dissolve(stack, [other for other in stack.runs if other is not run])
                return

    def _regroup(self) -> None:
        self.alone = [run for run in self.alone if not run.finished]
        for stack in [stack for stack in self.stacks if not stack.whole]:
            self._dissolve(stack, stack.runs)

    def _dissolve(self, stack: Stack, left: Sequence[Any]) -> None:
        self.stacks.remove(stack)
        stack.release()
        self._group([run for run in left if not run.finished])

    @property
    def running(self) -> bool:
        """Whether any run is left."""
        return bool(self.stacks or self.alone)
