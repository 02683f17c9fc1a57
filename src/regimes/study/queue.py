"""What runs next: tuning trials, then seeds; and, where a study may stop early, what it sees when it looks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from regimes.core.errors import RegimesError
from regimes.study.arms import Arm
from regimes.study.choice import choose
from regimes.study.design import Design
from regimes.study.judge import judge
from regimes.study.looks import Bill, bill
from regimes.study.search import Tried
from regimes.study.subject import Subject
from regimes.study.table import duration
from regimes.study.tasks import TUNING_SEED, Outcome, Task


class Queue:
    """Decides what runs next: each arm's trials first, then seeds, all arms of a seed before the next."""

    def __init__(self, design: Design, subject: Subject, arms: Mapping[str, Any]) -> None:
        self.design, self.subject, self.declared = design, subject, arms
        self.chosen: dict[str, Any] = {} if design.trials else dict(arms)
        self._trials = [(arm, number) for arm in arms for number in range(design.trials)]
        self._seeds = [(arm, seed) for seed in design.seeds for arm in arms]
        self.total = len(self._trials) + len(self._seeds)

    def next(self, done: Sequence[Outcome]) -> Task | None:
        """Return the next task that can start now."""
        for place, (arm, number) in enumerate(self._trials):
            shares = self.design.search.at(number, self._tried(arm, number, done))
            if shares is not None:
                del self._trials[place]
                return Task(arm, self._at(arm, shares), TUNING_SEED, number, shares)
        for place, (arm, seed) in enumerate(self._seeds):
            if arm not in self.chosen:
                self._choose(arm, done)
            if arm in self.chosen:
                del self._seeds[place]
                return Task(arm, self.chosen[arm], seed)
        return None

    def _tried(self, arm: str, number: int, done: Sequence[Outcome]) -> list[Tried]:
        """The arm's trials before this one that have ended; what failed is no value, and nothing follows it."""
        mine = [o for o in done if o.task.arm == arm and o.task.trial is not None and not o.failed]
        ordered = sorted((o for o in mine if (o.task.trial or 0) < number), key=lambda o: o.task.trial or 0)
        return [Tried(dict(o.task.shares), o.metrics.get(self.design.tuning_metric, math.nan)) for o in ordered]

    def _choose(self, arm: str, done: Sequence[Outcome]) -> None:
        mine = [o for o in done if o.task.arm == arm and o.task.trial is not None]
        # Where a trial failed there is nothing to choose from yet: the arm was tuned less than the others.
        if len(mine) < self.design.trials or any(o.failed for o in mine):
            return
        try:
            shares = choose(mine, self.design).shares
        except RegimesError:
            shares = None
        self.chosen[arm] = self.declared[arm] if shares is None else self._at(arm, shares)

    def _at(self, arm: str, shares: Mapping[str, float]) -> Any:
        """The arm with every tuned knob at its share of its range."""
        return self.subject.tuned(self.declared[arm], self.design.ranges, shares)

    def seeds_of(self, arm: str) -> Sequence[int]:
        """The seeds on which an arm is judged."""
        return self.design.seeds

    def arms(self, done: Sequence[Outcome]) -> list[Arm]:
        """Collect what each arm gave."""
        collected = []
        for arm in self.declared:
            mine = [o for o in done if o.task.arm == arm]
            by_seed = {o.task.seed: o for o in mine if o.task.trial is None}
            trials = sorted((o for o in mine if o.task.trial is not None), key=lambda o: o.task.trial or 0)
            broken = ", ".join(str(o.task.trial) for o in trials if o.failed)
            why = f"not trained: tuning is not finished, trial {broken} failed"
            ordered = [
                by_seed.get(seed) or Outcome.without_value(Task(arm, self.declared[arm], seed), why)
                for seed in self.seeds_of(arm)
            ]
            collected.append(Arm(arm, self.declared[arm], self.chosen.get(arm, self.declared[arm]), ordered, trials))
        return collected

    def used(self, arms: Sequence[Arm]) -> tuple[int, ...]:
        """Seeds that some arm was judged on."""
        return self.design.seeds

    def said(self) -> list[str]:
        """What should be known of how the study went."""
        return []


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


def queue_of(
    design: Design, subject: Subject, arms: Mapping[str, Any], workers: int, limit: float | None,
    say: Callable[[str], None],
) -> Queue:  # fmt: skip
    """Return the queue of a design: to its end, or until it is decided."""
    if design.looks is None:
        return Queue(design, subject, arms)
    return Sequential(design, subject, arms, workers, limit, say)
