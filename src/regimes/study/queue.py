"""What runs next: tuning trials, then seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from regimes.core.errors import RegimesError
from regimes.study.arms import Arm
from regimes.study.choice import choose
from regimes.study.design import Design
from regimes.study.search import Tried
from regimes.study.subject import Subject
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
