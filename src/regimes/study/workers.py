"""How many processes the runs of a study are dealt to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from regimes.engine.run import Run
from regimes.study import spawning
from regimes.study.own import Own
from regimes.study.tasks import TUNING_SEED

#: Seconds that a process takes to start: it loads torch, and builds the workload; or finds torch loaded.
_FROM_NOTHING, _PREPARED = 4.0, 1.0
_WARM, _TIMED = 2, 3
#: Arms that are timed, at most: to build a run takes longer than its steps.
_ARMS = 4


class Processes(NamedTuple):
    """How many, and why.

    Parameters
    ----------
    number : int
    why : str
    """

    number: int
    why: str


def processes(subject: Any, arms: Mapping[str, Any], runs: int, seconds: float | None = None) -> Processes:
    """Return how many processes to train the runs of a study with: the cores, where that saves more than it costs.

    Parameters
    ----------
    subject : Subject
    arms : mapping of str to Regime
    runs : int
    seconds : float, optional
        What all runs take, one after another; default: from a few steps of some arms.
    """
    if not isinstance(subject, Own):
        return Processes(1, "what a command uses of the machine is its own affair")
    if subject.workload.device.type != "cpu":
        return Processes(1, f"all runs share the {subject.workload.device.type} device")
    cores = min(spawning.cores_here(), runs)
    if cores == 1:
        return Processes(1, "there is one core" if runs > 1 else "there is one run")
    if seconds is None:
        some = list(arms.values())[:: -(-len(arms) // _ARMS)]
        seconds = runs * sum(seconds_of(subject, regime) for regime in some) / len(some)
    saved = seconds * (1.0 - 1.0 / cores)
    start = _PREPARED if spawning.prepared() else _FROM_NOTHING
    if saved <= start:
        return Processes(
            1, f"all runs take about {seconds:.0f} s, one after another, and a process {start:.0f} s to start"
        )
    return Processes(cores, f"all runs take about {seconds:.0f} s, one after another, and there are {cores} cores")


def seconds_of(subject: Own, regime: Any) -> float:
    """Seconds of a run, from a few of its first steps; of phases whose steps are not known beforehand, as of one step.

    With one thread, as a worker has: several on a busy machine wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _timed(subject, regime)
    finally:
        torch.set_num_threads(threads)


def _timed(subject: Own, regime: Any) -> float:
    run = Run(subject.workload, regime, TUNING_SEED, count_flops=False, look_ahead=False)
    steps = sum(phase.length.steps or 1 for phase in run.phases)
    began, timed = time.perf_counter(), 0
    while not run.finished and timed < _WARM + _TIMED:
        if timed == _WARM:
            began = time.perf_counter()
        run.step()
        timed += 1
    return (time.perf_counter() - began) / max(timed - _WARM, 1) * steps
