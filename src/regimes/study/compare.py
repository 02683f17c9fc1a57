"""Compare regimes at equal budget over paired seeds, tuned with the same number of trials."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, show
from regimes.engine.workload import Workload
from regimes.study import earlier
from regimes.study.arms import Arm
from regimes.study.choice import choose
from regimes.study.command import Command
from regimes.study.design import Design, design_of
from regimes.study.live import Live
from regimes.study.own import Own
from regimes.study.pool import Pool
from regimes.study.ranges import Range
from regimes.study.study import Study
from regimes.study.subject import Subject
from regimes.study.tasks import TUNING_SEED, Outcome, Task


def compare(
    workload: Workload | Command,
    arms: Mapping[str, Any],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    better: str | None = None,
    margin: float,
    seeds: int | Sequence[int] = 8,
    tune: Mapping[str, Range] | None = None,
    trials: int = 0,
    equal: str | None = None,
    level: float = 0.95,
    name: str = "study",
    out: str | Path | None = None,
    workers: int = 1,
    validate: str | None = "10%",
    progress: bool | None = None,
    workload_spec: Any = None,
    command: str | None = None,
    make: Any = None,
) -> Study:
    """Train every arm on the same seeds, and say whether it is better, or whether it was the seed.

    Seeds are paired: the same seed means the same initial weights, data order and noise wherever the arms allow it.
    The improvement over the baseline has a paired-t interval, simultaneous over the arms; with margin m > 0 an arm is
    **same** if -m < low and high < m, **better** if low > 0 and high >= m, **worse** mirrored, else **undecided**.

    Parameters
    ----------
    workload : Workload or Command
        What is trained: a workload of ours, or somebody's script as it is (`regimes.Command`).
    arms : mapping of str to Regime
        Of a command, mappings of the values that its line is filled with.
    baseline : str, optional
        The arm that others are compared with; default the first.
    metric : str
        ``val/loss`` (the default), or a metric's name ("acc": on test where there is one, else val). A command has one.
    better : "lower" or "higher"
        Default: lower for losses; must be said for anything else.
    margin : float
        The smallest difference that matters, in the metric's unit. There is no default.
    seeds : int or sequence of int
        How many, or which. Default 8.
    tune : mapping of path pattern to range, optional
        What is tuned, for every arm with the same number of `trials`, on seeds that the comparison does not use.
    trials : int
        Tuning trials per arm.
    equal : str, optional
        At what the budgets are equal: steps, samples, tokens or flops. Default: the baseline budget's own unit.
    level : float
        Simultaneous confidence. Default 0.95.
    name : str
        For messages, and for the folder where `out` is not given. Default "study"; of a file, its stem.
    out : path, optional
        The study's folder; default runs/<name>. Runs that are there are not computed again. Where it holds another
        study, that one is kept beside, in a folder earlier-1, and the runs are shared.
    workers : int
        Runs side by side, in processes of their own. One that dies is replaced, and its run tried once more.
    validate : Duration or None
        Cadence of the curves.
    progress : bool, optional
        Show what is done on stderr. Default: a live table on a terminal, else a line per run.
    workload_spec : str or mapping, optional
        What builds the workload again; kept with every run.
    command : str, optional
        What a person types to do the same again.
    make : tuple, optional
        (function, arguments) that builds the workload in a worker. Default: the workload itself is sent.

    Returns
    -------
    Study
        A run that failed (the disk was full, a process was killed, somebody's code raised) is never a value: the other
        runs are finished, the study says what failed, and called again computes what is missing. A run that diverged is
        a result.

    Raises
    ------
    DeclarationError
        Before anything is spent: unknown metric, unequal budgets, too few seeds for the level, a tuned pattern that
        fits nothing.
    RegimesError
        If worker processes cannot start.
    """
    folder = _folder(out, name)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise DeclarationError(f"got {show(workers)}; allowed: how many runs side by side, 1 or more", "workers")
    options = {"validate": validate, "workload_spec": workload_spec}
    subject = subject_of(workload, options)
    with subject.kept():
        arms = subject.arms(arms) if isinstance(arms, Mapping) else arms
        design = design_of(subject, arms, baseline, metric, better, margin, seeds, tune or {}, trials, equal, level)
        queue = _Queue(design, subject, arms)
        made = None if make is None else (_made, (make, options))
        pool = Pool(subject, folder / "runs", workers, made, list(arms.values()))
        outcomes = _outcomes(pool, queue, Live(design, name, progress))
        collected = queue.arms(outcomes)
        record = design.record(subject, arms)
        said = [*design.notes, pool.note, earlier.make_room(folder, record), *_failures(collected, command)]
        study = Study.of(design, name, subject, collected, command, folder, [note for note in said if note])
    study.save()
    earlier.remember(folder, record)
    return study


def subject_of(workload: Any, options: dict[str, Any]) -> Subject:
    """Return what trains the arms: a workload of ours with the engine's options, or what trains them itself.

    Raises
    ------
    DeclarationError
        If it is neither.
    """
    if isinstance(workload, Workload):
        return Own(workload, options)
    if isinstance(workload, Command):
        return workload
    raise DeclarationError(f"got {show(workload)}; allowed: a Workload or a Command", "workload")


def _made(make: tuple[Any, ...], options: dict[str, Any]) -> Subject:
    """Build the subject in a worker process."""
    function, arguments = make
    return subject_of(function(*arguments), options)


def _folder(out: str | Path | None, name: str) -> Path:
    folder = Path("runs") / name if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise DeclarationError(f"got '{folder}', which is a file; allowed: a folder, new or of a study", "out")
    return folder


def _outcomes(pool: Pool, queue: _Queue, live: Live) -> list[Outcome]:
    """Run everything, showing what has come."""
    began, outcomes = time.perf_counter(), []
    try:
        with live:
            for outcome in pool.outcomes(queue.next):
                outcomes.append(outcome)
                live.show(outcomes, queue.total, time.perf_counter() - began)
    finally:
        pool.close()
    return outcomes


def _failures(arms: Sequence[Arm], command: str | None) -> list[str]:
    """One sentence per arm with runs that failed, and what to do."""
    said = []
    for arm in arms:
        failed = [o for o in [*arm.trials, *arm.outcomes] if o.failed]
        if failed:
            named = ", ".join(o.task.what for o in failed)
            said.append(f"arm '{arm.name}': what failed is no value ({named}): {failed[0].failure}")
    return (
        [*said, f"what failed is tried again, and only that computed, by {command or 'the same call'}"] if said else []
    )


class _Queue:
    """Decides what runs next: each arm's trials first, then seeds, all arms of a seed before the next."""

    def __init__(self, design: Design, subject: Subject, arms: Mapping[str, Any]) -> None:
        self.design, self.subject, self.declared = design, subject, arms
        self.chosen: dict[str, Any] = {} if design.points else dict(arms)
        self._trials = [(arm, number) for arm in arms for number in range(len(design.points))]
        self._seeds = [(arm, seed) for seed in design.seeds for arm in arms]
        self.total = len(self._trials) + len(self._seeds)

    def next(self, done: Sequence[Outcome]) -> Task | None:
        """Return the next task that can start now."""
        if self._trials:
            arm, number = self._trials.pop(0)
            declared = self._at(arm, self.design.points[number])
            return Task(arm, declared, TUNING_SEED, number)
        for place, (arm, seed) in enumerate(self._seeds):
            if arm not in self.chosen:
                self._choose(arm, done)
            if arm in self.chosen:
                del self._seeds[place]
                return Task(arm, self.chosen[arm], seed)
        return None

    def _choose(self, arm: str, done: Sequence[Outcome]) -> None:
        mine = [o for o in done if o.task.arm == arm and o.task.trial is not None]
        # Where a trial failed there is nothing to choose from yet: the arm was tuned less than the others.
        if len(mine) < len(self.design.points) or any(o.failed for o in mine):
            return
        try:
            shares = choose(mine, self.design).shares
        except RegimesError:
            shares = None
        self.chosen[arm] = self.declared[arm] if shares is None else self._at(arm, shares)

    def _at(self, arm: str, shares: Mapping[str, float]) -> Any:
        """The arm with every tuned knob at its share of its range."""
        return self.subject.tuned(self.declared[arm], self.design.ranges, shares)

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
                for seed in self.design.seeds
            ]
            collected.append(Arm(arm, self.declared[arm], self.chosen.get(arm, self.declared[arm]), ordered, trials))
        return collected
