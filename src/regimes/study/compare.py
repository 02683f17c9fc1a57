"""Compare regimes at equal budget over paired seeds, tuned with the same number of trials."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regimes.core.duration import seconds
from regimes.core.errors import DeclarationError, show
from regimes.core.notice import notice
from regimes.engine.workload import Workload
from regimes.study import earlier
from regimes.study.arms import Arm
from regimes.study.command import Command
from regimes.study.design import design_of
from regimes.study.live import Live
from regimes.study.one_run import lender_of
from regimes.study.own import Own
from regimes.study.pool import Pool
from regimes.study.queue import Queue
from regimes.study.queues import queue_of
from regimes.study.ranges import Range
from regimes.study.side_by_side import side_by_side
from regimes.study.study import Study
from regimes.study.subject import Subject
from regimes.study.tasks import Outcome
from regimes.study.workers import processes
from regimes.track.tracking import tracked_whole, trackings


def compare(
    workload: Workload | Command,
    arms: Mapping[str, Any],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    better: str | None = None,
    margin: float,
    seeds: int | Sequence[int] | None = None,
    tune: Mapping[str, Range] | None = None,
    trials: int = 0,
    search: str = "quasi",
    equal: str | None = None,
    level: float = 0.95,
    until: str | None = None,
    max_cost: str | float | None = None,
    noise: Study | str | Path | None = None,
    assume: str | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    workers: int | None = 1,
    validate: str | None = "10%",
    progress: bool | None = None,
    workload_spec: Any = None,
    command: str | None = None,
    make: Any = None,
    track: Any = None,
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
    seeds : int or sequence of int, optional
        How many, or which. Default 8; with ``until="decided"`` the most there may be, default 24.
    tune : mapping of path pattern to range, optional
        What is tuned, for every arm with the same number of `trials`, on seeds that the comparison does not use.
    trials : int
        Tuning trials per arm.
    search : "quasi", "random", "refine", "bayes" or "optuna"
        Where trials are placed (`regimes.study.search.Search`). Default quasi, laid out beforehand; refine and bayes look
        at the trials before.
    equal : str, optional
        At what the budgets are equal: steps, samples, tokens or flops. Default: the baseline budget's own unit.
    level : float
        Simultaneous confidence. Default 0.95.
    until : "decided" or "halved", optional
        "decided" stops as soon as it is decided: the study looks at its verdicts from the least number of seeds on that
        can show something, after every second seed, at levels that keep all its looks together at `level`
        (group-sequential, `regimes.study.looks`). An arm that is decided, a lost one too, gets no more seeds.
        "halved" is for many arms: the worse half leaves after 1, 3, 7 ... seeds of their own until two are left, and only
        these are judged, on `seeds` that chose nothing (successive halving, `regimes.study.halving`). Without `tune`.
    max_cost : str or float, optional
        With ``until="decided"``: no seeds are begun that would take the study beyond this time, such as "30 min".
    noise : Study or path, optional
        Of one run each (``seeds=1``), which is no verdict: a study of several seeds, a smaller one for example, whose
        paired noise the differences are held against. Default: one beside `out` of the same setting: workload, data,
        size, budget and metric.
    assume : "normal", optional
        Allow fewer seeds than a test without assumptions needs: verdicts then rest on paired differences that are
        normally distributed.
    name : str, optional
        For messages, and for the folder where `out` is not given. Default the name of `out`, else "study"; of a file,
        its stem.
    out : path, optional
        The study's folder; default runs/<name>. Runs that are there are not computed again. Where it holds another
        study, that one is kept beside, in a folder earlier-1, and the runs are shared.
    workers : int or None
        Processes that runs are dealt to, default 1: this one. Each trains those that it is given side by side, stacked
        where they can be (`regimes.engine.replicas`). One that dies is replaced, and its runs tried once more, one by one.
        None: as many as there are cores, where that saves more than it costs to start them.
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
    track : str, or sequence of str, optional
        As of `regimes.run`, for every run: they are a group, called as the study, each run with its arm and seed, and its
        trial where it was tuning; the table of verdicts comes last.

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
    name = name or (Path(out).name if out is not None else "") or "study"
    folder = _folder(out, name)
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise DeclarationError(f"got {show(workers)}; allowed: how many processes, 1 or more, or None", "workers")
    limit = _seconds(max_cost)
    tracking = trackings(track, home=str(folder.resolve()), study=name)
    if tracking and not isinstance(workload, Workload):
        raise DeclarationError(f"got {show(track)}, but only runs of ours leave records", "track")
    options = {"validate": validate, "workload_spec": workload_spec, "track": tracking}
    subject = subject_of(workload, options)
    with subject.kept():
        arms = subject.arms(arms) if isinstance(arms, Mapping) else arms
        design = design_of(
            subject,
            arms,
            baseline,
            metric,
            better,
            margin,
            seeds,
            tune or {},
            trials,
            equal,
            level,
            until,
            assume,
            search,
        )
        if max_cost is not None and design.looks is None:
            raise DeclarationError(
                f"got {show(max_cost)}, but only a study with until='decided' can stop early", "max_cost"
            )
        lender = None
        if len(design.seeds) == 1:
            lender = lender_of(noise, folder, subject, design)
        elif noise is not None:
            raise DeclarationError("is lent to one run each alone; allowed beside seeds=1", "noise")
        live = Live(design, name, progress)
        if workers is None:
            workers = processes(subject, arms, design.runs).number
        for group in side_by_side(subject, arms, timed=False) if isinstance(subject, Own) and design.runs > 1 else ():
            live.say(str(group))
        queue = queue_of(design, subject, arms, workers, limit, live.say)
        # A command is sent as it is; what builds a workload of ours needs the engine, and torch with it.
        made = (made_subject, (make, options)) if make is not None and isinstance(workload, Workload) else None
        pool = Pool(subject, folder / "runs", workers, made, list(arms.values()))
        outcomes = _outcomes(pool, queue, live)
        collected = queue.arms(outcomes)
        design = replace(design, seeds=queue.used(collected))
        record = design.record(subject, arms)
        said = [*design.notes, *queue.said(), pool.note, earlier.make_room(folder, record)]
        said += _failures(collected, command)
        study = Study.of(design, name, subject, collected, command, folder, [note for note in said if note], lender)
    study.save()
    earlier.remember(folder, record)
    for sentence in tracked_whole(tracking, study, [folder / "runs" / o.key for o in outcomes if o.key]):
        notice(sentence)
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


def made_subject(make: tuple[Any, ...], options: dict[str, Any]) -> Subject:
    """Build the subject in a worker process."""
    function, arguments = make
    return subject_of(function(*arguments), options)


def _seconds(max_cost: Any) -> float | None:
    try:
        return seconds(max_cost)
    except DeclarationError as why:
        raise DeclarationError(why.message, "max_cost") from None


def _folder(out: str | Path | None, name: str) -> Path:
    folder = Path("runs") / name if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise DeclarationError(f"got '{folder}', which is a file; allowed: a folder, new or of a study", "out")
    return folder


def _outcomes(pool: Pool, queue: Queue, live: Live) -> list[Outcome]:
    """Run everything, showing what has come."""
    began, outcomes = time.perf_counter(), []
    try:
        with live:
            for found in pool.outcomes(queue.next):
                if isinstance(found, Outcome):
                    outcomes.append(found)
                    live.show(outcomes, queue.total, time.perf_counter() - began)
                else:
                    live.wait(outcomes, queue.total, time.perf_counter() - began, found.runs)
    finally:
        pool.close()
    return outcomes


def _failures(arms: Sequence[Arm], command: str | None) -> list[str]:
    """One sentence per arm with runs that failed, and what to do."""
    said = []
    for arm in arms:
        failed = arm.failed
        if failed:
            named = ", ".join(o.task.what for o in failed)
            said.append(f"arm '{arm.name}': what failed is no value ({named}): {failed[0].failure}")
    return (
        [*said, f"what failed is tried again, and only that computed, by {command or 'the same call'}"] if said else []
    )
