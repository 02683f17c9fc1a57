"""How the runs of a study would be trained: what is stacked, what is not and why, and in how many processes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from regimes.core.randomness import kept
from regimes.engine.replicas import Stack
from regimes.engine.run import Run
from regimes.engine.stackable import Unstackable, bound, form, why_not
from regimes.engine.step import step
from regimes.study.own import Own
from regimes.study.tasks import TUNING_SEED

#: Replicas by which the gain is measured.
TRIED = 8


class SideBySide(NamedTuple):
    """Arms whose runs are trained alike.

    Parameters
    ----------
    arms : tuple of str
    why : str
        Why they are not stacked; empty where they are.
    gain : float or None
        Of a stack: by how much a step of all is faster than one after another; None where it was not timed.
    """

    arms: tuple[str, ...]
    why: str
    gain: float | None = None

    def __str__(self) -> str:
        named = ", ".join(self.arms)
        if self.why:
            return f"one run at a time: {named} ({self.why})"
        faster = "" if self.gain is None else f" ({TRIED} together are {self.gain:.1f} times as fast as one by one)"
        return f"stacked: {named}{faster}"


def side_by_side(subject: Own, arms: Mapping[str, Any], *, timed: bool = True) -> list[SideBySide]:
    """Return which arms would be stacked, found out on throwaway runs of their first phase.

    Parameters
    ----------
    subject : Own
    arms : mapping of str to Regime
    timed : bool
        Whether the gain is measured.
    """
    groups: dict[Any, list[str]] = {}
    for name, regime in arms.items():
        run = Run(subject.workload, regime, TUNING_SEED, count_flops=False, look_ahead=False)
        why = why_not(run)
        groups.setdefault(why if why is not None else form(run), []).append(name)
    found = []
    for key, names in groups.items():
        if isinstance(key, str):
            found.append(SideBySide(tuple(names), key))
        else:
            found.append(_tried(subject, {name: arms[name] for name in names}, timed))
    return found


def _tried(subject: Own, arms: Mapping[str, Any], timed: bool) -> SideBySide:
    regimes = list(arms.values())
    count = TRIED if timed else 2
    runs = [Run(subject.workload, regimes[i % len(regimes)], TUNING_SEED + i, count_flops=False) for i in range(count)]
    why = bound(runs[0])
    if why is not None:
        return SideBySide(tuple(arms), why)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of functions without a batching rule; a run shows them
        try:
            stack = Stack(runs)
        except Unstackable as why:
            return SideBySide(tuple(arms), str(why))
        return SideBySide(tuple(arms), "", _gain(stack) if timed else None)


def _gain(stack: Stack, repeats: int = 3) -> float:
    """Time of one step of every run, one after another, over that of one step of the stack; medians of a few."""
    ratios = []
    with kept():
        for _ in range(repeats):
            began = time.perf_counter()
            stack.step()
            middle = time.perf_counter()
            for run in stack.runs:
                step(run)
            ratios.append((time.perf_counter() - middle) / (middle - began))
    return sorted(ratios)[repeats // 2]
