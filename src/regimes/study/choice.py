"""What tuning chooses for an arm: a fit through one knob's trials, else the best trial; and the luck in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regimes.core.errors import RegimesError
from regimes.study import statistics
from regimes.study.tasks import Outcome


@dataclass(frozen=True)
class Choice:
    """What tuning chose for one arm.

    Parameters
    ----------
    shares : dict of str to float
        Place in its range of every tuned pattern.
    trial : int
        The best trial (the chosen point lies near it, or is it).
    fitted : bool
        Whether a parabola through the trials chose, rather than the best of them.
    bracketed : bool
        Whether the best trial has others on both sides.
    sd : float
        What tuning luck adds to the arm's metric.
    advice : str or None
        What would bracket the best trial; None where it is bracketed.
    """

    shares: dict[str, float]
    trial: int
    fitted: bool
    bracketed: bool
    sd: float
    advice: str | None


def choose(trials: Sequence[Outcome], design: Any, finals: Sequence[float] | None = None) -> Choice:
    """Choose from an arm's trials.

    Raises
    ------
    RegimesError
        If not one trial ended in a number, or one failed: the arm is then tuned less than the others.
    """
    if any(trial.failed for trial in trials):
        raise RegimesError(f"a tuning trial of arm '{trials[0].task.arm}' failed")
    ordered = sorted(trials, key=lambda o: o.task.trial or 0)
    values = [o.metrics.get(design.tuning_metric, math.nan) for o in ordered]
    points = [o.task.shares for o in ordered]
    direction = 1.0 if design.better == "lower" else -1.0
    finite = [number for number, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        raise RegimesError(f"every tuning trial of arm '{ordered[0].task.arm}' diverged")
    best = min(finite, key=lambda number: (direction * values[number], number))
    if len(design.ranges) == 1:
        (pattern,) = design.ranges
        found = statistics.fit_and_refine([p[pattern] for p in points], values, design.better, finals)
        shares, fitted, bracketed = {pattern: found.log_rate}, found.curve is not None, found.bracketed
        sd = found.tuning_sd
        if design.search.clusters:
            sd = max(sd, statistics.selection_sd(values, design.better))
    else:
        shares, fitted, sd = dict(points[best]), False, statistics.selection_sd(values, design.better)
        bracketed = all(
            min(p[name] for p in points) < shares[name] < max(p[name] for p in points) for name in design.ranges
        )
    advice = None if bracketed else _advice(len(values), len(design.ranges))
    return Choice(shares, best, fitted, bracketed, sd, advice)


def _advice(trials: int, knobs: int) -> str:
    """Return what to do about a best trial at an edge of what was tried.

    Were all trials equally good, the best of k would lie inside in each of d knobs with probability
    ``((k - 2) / k)^d``. Where that is below 1/2, an edge says nothing about the range: two trials have no inside.
    """
    chance = (max(trials - 2, 0) / trials) ** knobs
    return "more tuning trials" if chance < 0.5 else "tune over a wider range"
