"""A study in which the worse half of the arms leaves after each rung, and the last are judged on seeds of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from regimes.study.arms import Arm
from regimes.study.design import Design
from regimes.study.halving import ranked
from regimes.study.queue import Queue
from regimes.study.subject import Subject
from regimes.study.tasks import CHOOSING_SEED, Outcome, Task


class Halved(Queue):
    """Trains rungs on seeds that only choose; what is left, and the baseline, on those of the comparison.

    An arm of which a run failed (which is no value) is ranked nowhere: it is put aside, and tried again by the same call.

    Parameters
    ----------
    say : callable
        Takes sentences for whoever watches.
    """

    def __init__(self, design: Design, subject: Subject, arms: Mapping[str, Any], say: Callable[[str], None]) -> None:
        super().__init__(design, subject, arms)
        assert design.halving is not None
        self.halving, self.say = design.halving, say
        self.staying = [arm for arm in arms if arm != design.baseline]
        self._rungs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
        self._rung = 0
        self._seeds = self._block()
        self._given = len(self._seeds)
        self.total = self.halving.runs(len(design.seeds))
        self._first_bill()

    @property
    def judging(self) -> bool:
        """Whether every rung is over."""
        return self._rung == len(self.halving.seeds)

    def _block(self) -> list[tuple[str, int]]:
        if self.judging:
            judged = [arm for arm in self.declared if self.seeds_of(arm)]
            return [(arm, seed) for seed in self.design.seeds for arm in judged]
        begins = self.halving.seeds[self._rung - 1] if self._rung else 0
        added = range(begins, self.halving.seeds[self._rung])
        return [(arm, CHOOSING_SEED + number) for number in added for arm in self.staying]

    def next(self, done: Sequence[Outcome]) -> Task | None:
        """Return the next task of the rung; where it is done, the worse half leaves."""
        task = super().next(done)
        if task is not None or self._seeds or self.judging or not self._ended(done):
            return task
        self._leave(done)
        self._rung += 1
        self._seeds = self._block()
        self._given += len(self._seeds)
        self.total = self._given if self.judging else self.total
        return self.next(done)

    def _ended(self, done: Sequence[Outcome]) -> bool:
        count = self.halving.seeds[self._rung]
        return all(len(self._chosen_by(arm, done)) == count for arm in self.staying)

    def _chosen_by(self, arm: str, done: Sequence[Outcome]) -> list[Outcome]:
        """What an arm's seeds of the rungs gave, in their order."""
        mine = [o for o in done if o.task.arm == arm and o.task.chooses]
        return sorted(mine, key=lambda o: o.task.seed)

    def _leave(self, done: Sequence[Outcome]) -> None:
        """Rank the arms of the rung; the better half stays, what failed is put aside."""
        found = {arm: self._chosen_by(arm, done) for arm in self.staying}
        values = {
            arm: [o.metrics.get(self.design.metric, math.nan) for o in mine]
            for arm, mine in found.items()
            if not any(o.failed for o in mine)
        }
        order = ranked(values, self.design.better)
        self.staying = order[: self.halving.sizes[self._rung + 1]]
        for place, arm in enumerate(order, 1):
            finite = [value for value in values[arm] if math.isfinite(value)]
            self._rungs[arm].append({
                "seeds": len(values[arm]),
                "mean": math.fsum(finite) / len(finite) if finite else None,
                "diverged": len(values[arm]) - len(finite),
                "place": place,
                "of": len(order),
                "stays": arm in self.staying,
            })  # fmt: skip
        gone = ", ".join(arm for arm in order if arm not in self.staying)
        self.say(f"rung {self._rung + 1}, {self._seed_words()}: {gone or 'nobody'} leave{'' if ',' in gone else 's'}")

    def _seed_words(self) -> str:
        count = self.halving.seeds[self._rung]
        return f"{count} seed{'s' * (count > 1)} each"

    def _first_bill(self) -> None:
        """Say what it takes and what it risks, before anything is spent: nobody knows the noise yet."""
        self.say(
            f"until halved: {self.halving.words}, which are judged on {len(self.design.seeds)} seeds of their own: "
            f"{self.total} runs instead of {len(self.declared) * len(self.design.seeds)}; an arm better than all others by "
            f"two margins is among them in {self.halving.keeps_best(2.0):.0%} of studies, were the noise of a run one margin"
        )

    def seeds_of(self, arm: str) -> Sequence[int]:
        """Those of the comparison, for the baseline and the arms that are left; none before, and where none is left."""
        judged = self.judging and self.staying and (arm == self.design.baseline or arm in self.staying)
        return self.design.seeds if judged else ()

    def arms(self, done: Sequence[Outcome]) -> list[Arm]:
        """Collect what each arm gave, and how it fared in the rungs."""
        collected = super().arms(done)
        for arm in collected:
            arm.choosing, arm.rungs = self._chosen_by(arm.name, done), self._rungs[arm.name]
        return collected

    def said(self) -> list[str]:
        """Who left when, and what that saved."""
        told = []
        for number, seeds in enumerate(self.halving.seeds, 1):
            gone = [arm for arm, rows in self._rungs.items() if len(rows) == number and not rows[-1]["stays"]]
            told += [f"after {seeds} seed{'s' * (seeds > 1)} {', '.join(gone)}"] if gone else []
        most = len(self.declared) * len(self.design.seeds)
        return [
            f"halved: arms left by the seeds of the rungs, which say nothing of them: {'; '.join(told)}",
            f"only what stayed was trained on seeds that chose nothing, and is judged: {self._given} runs instead of {most}",
        ]
