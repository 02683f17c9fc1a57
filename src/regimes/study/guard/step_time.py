"""How much slower a step became: the median of ratios, pair by pair, with an interval that assumes no distribution."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regimes.core.files import read_json
from regimes.study.guard.watch.regimes_watch import TIMES

#: Two runs of a pair began within so many durations of the longer, or the machine may have been another.
_NEAR = 3.0


class Timed(NamedTuple):
    """When a run began, how long it took, and the median seconds of its steps (None where they cannot be seen)."""

    started: float
    seconds: float
    step: float | None


class Ratio(NamedTuple):
    """How the time of head compares with that of base.

    Parameters
    ----------
    of : str
        What took it: "step", or "run" where steps cannot be seen.
    median : float
        1.04: 4% slower.
    low, high : float or None
        The interval; None where there are too few pairs for the level.
    pairs : int
    """

    of: str
    median: float
    low: float | None
    high: float | None
    pairs: int

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{_percent(self.low)}, {_percent(self.high)}]"
        return f"{self.of} time {_percent(self.median, '+')}%{ends}"


def _percent(ratio: float, sign: str = "") -> str:
    return f"{round(100 * (ratio - 1)):{sign}d}"


def median_interval(values: Sequence[float], level: float) -> tuple[float, float] | None:
    """Return the interval of a median between two order statistics; None where there are too few values.

    ``[x_(j), x_(n + 1 - j)]`` holds the median with probability ``1 - 2 P(B < j)``, B binomial (n, 1/2), whatever the
    distribution; j is the greatest for which that is `level` at least.

    Parameters
    ----------
    values : sequence of float
    level : float
        In (0, 1).

    References
    ----------
    David, Nagaraja, "Order Statistics", 2003, section 7.1.

    Examples
    --------
    >>> median_interval([1.02, 1.05, 1.03, 1.04, 1.01, 1.07], 0.95)  # 1 - 2 / 64 = 0.969
    (1.01, 1.07)
    >>> median_interval([1.02, 1.05, 1.03, 1.04, 1.01], 0.95) is None
    True
    >>> median_interval(range(9), 0.95)  # 1 - 20 / 512 = 0.961
    (1, 7)
    """
    n, ordered = len(values), sorted(values)
    below = np.cumsum([math.comb(n, k) for k in range(n + 1)]) / 2.0**n
    j = int(np.searchsorted(below[: (n + 1) // 2], (1 - level) / 2, side="right"))
    return (ordered[j - 1], ordered[n - j]) if j else None


def timed(run: Path) -> Timed | None:
    """Return what the folder of a command's run says of its time; None where it has not ended."""
    if not (run / "result.json").is_file():
        return None
    found = read_json(run / "result.json")
    began: Any = read_json(run / f"{found['attempt']}.json")
    file = run / found["attempt"] / TIMES
    step = json.loads(file.read_text())["median"] if file.is_file() else None
    return Timed(began["started"], found["seconds"], step)


def ratio_of(pairs: Sequence[tuple[Timed | None, Timed | None]], level: float) -> Ratio | None:
    """Return how the second of each pair compares with the first; None where no pair ran side by side.

    Base and head take turns, so that what slows the machine down meets both; pairs of which one was found from an
    earlier day are left out.

    Examples
    --------
    >>> pairs = [(Timed(10.0 * n, 2.0, 0.010), Timed(10.0 * n + 3, 2.0, 0.0104 + 0.0001 * n)) for n in range(6)]
    >>> print(ratio_of(pairs, 0.95))
    step time +6% [4, 9]
    >>> print(ratio_of(pairs[:2], 0.95))
    step time +4%
    >>> ratio_of([(Timed(0.0, 2.0, 0.01), Timed(86400.0, 2.0, 0.02))], 0.95) is None
    True
    """
    near = [
        (base, head)
        for base, head in pairs
        if base and head and abs(base.started - head.started) <= _NEAR * max(base.seconds, head.seconds)
    ]
    if not near:
        return None
    steps = [(base.step, head.step) for base, head in near]
    seen = all(one and other for one, other in steps)
    ratios = [
        head.step / base.step if seen else head.seconds / base.seconds  # type: ignore[operator]
        for base, head in near
    ]
    low, high = median_interval(ratios, level) or (None, None)
    return Ratio("step" if seen else "run", float(np.median(ratios)), low, high, len(near))
