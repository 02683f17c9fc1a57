"""What the steps and the trials of a phase cost, measured at a few places of it on a throwaway run."""

from __future__ import annotations

import math
import statistics
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from regimes.engine import trials
from regimes.engine.run import Run

#: Places at which a step is taken after the first, and when to stop earlier; where trials are looked for, and how long.
PLACES, SECONDS = 8, 2.0
GRID, TRIAL_SECONDS = 256, 5.0


class Cost(NamedTuple):
    """What some steps took."""

    steps: float = 0.0
    samples: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        """Return the sum with so many of another."""
        return Cost(*(mine + times * theirs for mine, theirs in zip(self, other)))


@dataclass
class Costs:
    """Of one phase: each step that was taken, all trials, one validation.

    Parameters
    ----------
    steps : list of Cost
        One at each place; nearly equal spaces of the budget lie between them.
    trials : Cost
        All of the phase.
    validation : float
        Floating-point operations of one, where the phase needs any.
    seconds : list of float
        Of the steps.
    """

    steps: list[Cost] = field(default_factory=list)
    trials: Cost = Cost()
    validation: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def per_sample(self, name: str, unit: str) -> float:
        """Return the mean tokens or operations of an example; places divide the budget's own unit evenly."""
        if unit == "steps":
            return sum(getattr(one, name) for one in self.steps) / max(sum(one.samples for one in self.steps), 1.0)
        return statistics.fmean(getattr(one, name) / max(one.samples, 1.0) for one in self.steps)


class Measuring:
    """Measures one phase of a throwaway run, which stands at its beginning and is used up.

    Parameters
    ----------
    run : Run
    index : int
        The phase.
    notes : list of str
        Where to say what could not be counted.
    """

    def __init__(self, run: Run, index: int, notes: list[str]) -> None:
        self.run, self.phase, self.notes = run, run.phases[index], notes
        self.found = Costs()
        self._begin = run.frame.counters()

    @property
    def here(self) -> bool:
        """Whether the run still stands in the phase."""
        return not self.run.finished and self.run.frame.phase == self.phase.index

    def trials_first(self) -> None:
        """Make the trials that come before the first step."""
        if self.phase.declaration.evaluate is not None and self.run.validation.present:
            before = self.run.work.spent
            self.run.validation.measure("val", account="side_flops")
            self.found.validation = self.run.work.spent - before
        self._first = self.found.trials = self._trials()

    def rest(self) -> None:
        """After the first step: look for later trials, and take steps at other places."""
        length, self._one = self.phase.length, self.found.steps.pop()
        of_unit = max(getattr(self._one, length.unit), 1e-30)
        self._steps = float(length.steps or max(length.total / of_unit, 1.0))
        if self.phase.proposing and self.here and self._steps > 1.0:
            self._later_trials()
        began = clock.perf_counter()
        for place in range(PLACES):
            if not self.here or (self.found.steps and clock.perf_counter() - began > SECONDS):
                break
            self._move((place + 0.5) / PLACES)
            self.run.redraw()
            self.step()
        self.found.steps = self.found.steps or [self._one]

    def step(self) -> None:
        """Take one step of the phase, and note what it took."""
        run, consumed = self.run, self.run.consumed
        self._trials()  # those of this place have been counted
        began = clock.perf_counter()
        record, cost = self._taken()
        cost = cost._replace(tokens=float(run.frame.tokens - record.at.tokens))
        if run.workload.device.type == "cuda":
            torch.cuda.synchronize(run.workload.device)
        self.found.seconds.append(clock.perf_counter() - began)
        if "skipped" in record.signals:
            said = f"a step of phase '{self.phase.name}' was skipped: {record.signals['skipped']}"
            self.notes += [said] if said not in self.notes else []
        if self.found.validation and self._validated(consumed, cost):
            cost = cost._replace(flops=cost.flops - self.found.validation)
        self.found.steps.append(cost)

    def _validated(self, before: float, cost: Cost) -> bool:
        """Whether needed validation fell into the step."""
        length, cadence = self.phase.length, self.phase.declaration.evaluate
        assert cadence is not None  # what is needed has one
        every = length.amount(cadence)
        after = before + getattr(cost._replace(flops=cost.flops - self.found.validation), length.unit)
        return int(after / every + 1e-9) > int(before / every + 1e-9)

    def _taken(self) -> tuple[Any, Cost]:
        """Take one step, of a trial or of the phase."""
        run = self.run
        samples, spent = run.work.samples, run.work.spent
        record = run.step()
        return record, Cost(1.0, run.work.samples - samples, 0.0, run.work.spent - spent)

    # -- trials ------------------------------------------------------------------------------------------------------

    def _trials(self) -> Cost:
        """Make what is proposed at this place, each for two steps, and return what the whole of it would take."""
        run, total, began = self.run, Cost(), clock.perf_counter()
        while True:
            before = run.work.spent
            trials.begin(run)
            total = total.plus(Cost(flops=run.work.spent - before))  # looks, and validation before a trial
            if run.frame.trial is None:
                return total
            total = total.plus(self._trial())
            if clock.perf_counter() - began > TRIAL_SECONDS:
                owner = run.phase.proposing[0].removeprefix("knobs.")
                self.notes.append(f"trials of phase '{self.phase.name}' ({owner}) are too many to count all of them")
                return total

    def _trial(self) -> Cost:
        """Two steps of the trial that has begun: the second ends it, with the passes that come at its end."""
        run, about = self.run, self.run.frame.trial
        assert about is not None
        amount, begin, total = about["amount"], about["begin"], self.phase.length.total
        if not about["past_end"]:
            amount = min(amount, total - begin)
        about["amount"] = math.inf
        _, first = self._taken()
        if run.frame.trial is None:
            return first
        used = run.consumed - begin
        about["amount"] = used
        _, last = self._taken()
        steps = math.ceil(amount / used - 1e-9) if used else 1
        return Cost(flops=max(last.flops - first.flops, 0.0)).plus(first, steps)

    def _later_trials(self) -> None:
        """Add the trials of the rest of the phase: those of every step, or those that begin at some places of it."""
        again = self._trials()
        if again.flops or again.steps:
            if self._first.flops or self._first.steps:
                self.found.trials = self._first.plus(again, self._steps - 1.0)
                return
            self.found.trials = self.found.trials.plus(again)
        began = clock.perf_counter()
        for place in self._grid():
            self._move(place)
            self.found.trials = self.found.trials.plus(self._trials())
            if clock.perf_counter() - began > TRIAL_SECONDS:
                self.found.trials = Cost().plus(self.found.trials, 1.0 / place)
                self.notes.append(
                    f"trials of phase '{self.phase.name}' were counted up to {place:.0%} of it, and the rest taken for "
                    "as many"
                )
                break

    def _grid(self) -> Iterator[float]:
        count = int(min(GRID, self._steps))
        return (place / count for place in range(1, count))

    # -- places ------------------------------------------------------------------------------------------------------

    def _move(self, share: float) -> None:
        """Stand where a share of the phase's budget is used up, as the first step's numbers say."""
        run, length, begin, one = self.run, self.phase.length, self._begin, self._one
        steps = share * self._steps
        amounts = {"step": steps, "samples": steps * one.samples, "tokens": steps * one.tokens}
        own = {"steps": "step", "samples": "samples", "tokens": "tokens"}.get(length.unit)
        if own is not None:
            amounts[own] = share * length.total
        for name, amount in amounts.items():
            setattr(run.frame, f"phase_{name}", int(amount))
            setattr(run.frame, name, getattr(begin, name) + int(amount))
        if own is None:
            run.frame.spent = share * length.total
            run.work.before_phase = run.work.spent - run.frame.spent
        run.locate()
