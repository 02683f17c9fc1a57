"""A study that stops as soon as it is decided: what it sees when it looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from regimes.study.arms import Arm
from regimes.study.design import Design
from regimes.study.judge import judge
from regimes.study.looks import Bill, bill
from regimes.study.queue import Queue
from regimes.study.subject import Subject
from regimes.study.table import duration
from regimes.study.tasks import Outcome, Task


class Sequential(Queue):
    """Gives seeds only to arms that are not decided, and looks after each block whether they are.

    Parameters
    ----------
    workers : int
        Runs side by side, for the bill.
    limit : float or None
        Seconds after which no block is begun that would not end in time.
    say : callable
        Takes sentences for whoever watches.
    """

    def __init__(
        self, design: Design, subject: Subject, arms: Mapping[str, Any], workers: int, limit: float | None,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(design, subject, arms)
        assert design.looks is not None
        self.looks, self.workers, self.limit, self.say = design.looks, workers, limit, say
        self._began, self._cut = time.monotonic(), False
        self._stopped: dict[str, int] = {}
        self._open = [arm for arm in arms if arm != design.baseline]
        self._look = 0
        self._seeds = self._block()
        self.total = len(self._trials) + len(self._seeds)
        self._first_bill()

    @property
    def size(self) -> int:
        """Seeds of the look that the present block leads to."""
        return self.looks.sizes[self._look]

    def _block(self) -> list[tuple[str, int]]:
        begins = self.looks.sizes[self._look - 1] if self._look else 0
        running = [self.design.baseline, *self._open]
        return [(a, s) for s in self.design.seeds[begins : self.size] for a in self.declared if a in running]

    def next(self, done: Sequence[Outcome]) -> Task | None:
        """Return the next task of the block; look where it is done."""
        task = super().next(done)
        if task is not None or self._seeds or not self._open or self._cut:
            return task
        running = [self.design.baseline, *self._open]
        ended = {(o.task.arm, o.task.seed) for o in done if o.task.trial is None}
        if any((a, s) not in ended for a in running for s in self.design.seeds[: self.size]):
            return None
        self._judge(done)
        if not self._open or self._look + 1 == len(self.looks.sizes) or self._too_dear(done):
            return None
        self._look += 1
        self._seeds = self._block()
        self.total += len(self._seeds)
        return super().next(done)

    def _judge(self, done: Sequence[Outcome]) -> None:
        """Look: arms that are decided, or failed, get no more seeds."""
        arms = self.arms(done)
        judge(self.design, arms)
        told = []
        for arm in (arm for arm in arms if arm.name in self._open):
            found = arm.comparison
            if found is None or found["verdict"] != "undecided":
                self._open.remove(arm.name)
                self._stopped[arm.name] = self.size
            told.append(f"{arm.name} {'failed' if found is None else found['verdict']}")
        self.say(f"look at {self.size} seeds: {', '.join(told)}")

    def _too_dear(self, done: Sequence[Outcome]) -> bool:
        if self.limit is None:
            return False
        took = [o.seconds for o in done if o.seconds and not o.reused]
        more = (self.looks.sizes[self._look + 1] - self.size) * (len(self._open) + 1)
        needs = float(np.mean(took)) * more / self.workers if took else 0.0
        self._cut = time.monotonic() - self._began + needs > self.limit
        return self._cut

    def _first_bill(self) -> None:
        """Say what it is likely to take, before anything is spent: nobody knows the noise yet."""
        margin = self.design.margin
        found: Bill = bill(self.looks, 2 * margin, margin, margin)
        sizes = self.looks.sizes
        self.say(
            f"until decided: {sizes[0]} to {sizes[-1]} seeds per arm; {found.low} to {found.high} are likely for a "
            f"difference of two margins, were the noise of paired differences one margin"
        )

    def seeds_of(self, arm: str) -> Sequence[int]:
        """Up to the look at which the arm was decided, or the last one."""
        return self.design.seeds[: self._stopped.get(arm, self.size)]

    def used(self, arms: Sequence[Arm]) -> tuple[int, ...]:
        """Seeds of the longest arm."""
        return self.design.seeds[: max(len(arm.outcomes) for arm in arms)]

    def said(self) -> list[str]:
        """Where it stopped, what that saved, and why it went no further."""
        runs = sum(len(self.seeds_of(arm)) for arm in self.declared)
        most = self.looks.sizes[-1]
        looked = ", ".join(map(str, self.looks.sizes[: self._look + 1]))
        said = [
            f"looked at {looked} of at most {most} seeds, at levels under which looking is legal: {runs} runs instead of "
            f"{most * len(self.declared)}"
        ]
        if self._cut:
            assert self.limit is not None
            said.append(f"stopped before {duration(self.limit)} were over; the same call with more time goes on")
        return said
