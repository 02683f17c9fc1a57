"""Tuning by halving shortened trials, against whole ones at the same cost: false verdicts, and what the choice loses.

Two equal arms, a parabola whose edges are 3 or 30 sds of a run worse. Of n trials at a quarter of the budget the better half
is trained on at half of it, and of those the better half as a whole; the whole ones choose, and widen the interval. With a
shift, short runs of one arm prefer other rates. Takes about two minutes: why `search="halving"` is refused (docs/log.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from regimes.study import statistics
from regimes.study.ranges import times
from regimes.study.search import Search

REPETITIONS = 300


def tuned(
    stream: np.random.Generator, edge: float, shift: float, n: int, knobs: int, halving: bool
) -> tuple[NDArray[np.float64], float, float]:
    """Return an arm's final values, its tuning sd, and what its choice loses to the best."""
    best = 0.4 + 0.1 * stream.standard_normal()

    def run(places: NDArray[np.float64], off: float) -> NDArray[np.float64]:
        response = 4 * edge * ((places - best - off) ** 2).mean(1)
        return np.asarray(response + stream.standard_normal(len(places)))

    ranges = {f"knob{place}": times(0.1, 10) for place in range(knobs)}
    laid = Search("quasi", dict(ranges), n if halving else 3 * n // 4, "lower").laid_out
    places = np.array([list(point.values()) for point in laid])
    if knobs > 1:
        places = (places + stream.random(knobs)) % 1
    if halving:
        places = places[np.argsort(run(places, shift))[: n // 2]]
        places = places[np.argsort(run(places, shift / 2))[: n // 4]]
    values = run(places, 0.0)
    chosen = places[[values.argmin()]]
    if knobs == 1:
        chosen = np.array([[statistics.fit_and_refine(places[:, 0], values).log_rate]])
    loss = float(4 * edge * ((chosen - best) ** 2).mean())
    finals = loss + stream.standard_normal(8)
    sd = statistics.selection_sd(values) if knobs > 1 or halving else 0.0
    if knobs == 1:
        sd = max(sd, statistics.fit_and_refine(places[:, 0], values, "lower", finals).tuning_sd)
    return finals, sd, loss


def cell(stream: np.random.Generator, edge: float, shift: float, n: int, knobs: int, halving: bool) -> str:
    """Return what came of the studies of one kind, in words."""
    wrong, losses, widths = 0, [], []
    for _ in range(REPETITIONS):
        one, other = (tuned(stream, edge, off, n, knobs, halving) for off in (0.0, shift))
        plain = statistics.paired_interval(one[0] - other[0])
        wide = statistics.widen(plain, one[1], other[1])
        wrong += not wide.low <= 0 <= wide.high
        losses += [one[2], other[2]]
        widths.append((wide.high - wide.low) / (plain.high - plain.low))
    ends = stats.binomtest(wrong, REPETITIONS).proportion_ci(0.95)
    how = f"halving, shift {shift:g}" if halving else "quasi"
    return (
        f"{knobs} knobs, cost of {3 * n // 4} runs, edges {edge:g}, {how}: false {wrong / REPETITIONS:.3f} [{ends.low:.3f}, "
        f"{ends.high:.3f}], lost {np.mean(losses):.3f}, {np.median(widths):.2f} times as wide"
    )


if __name__ == "__main__":
    stream = np.random.default_rng(2)
    for knobs in (1, 2, 3):
        for n in (8, 16, 32):
            for edge in (3.0, 30.0):
                for halving, shift in ((False, 0.0), (True, 0.0), (True, 0.2)):
                    print(cell(stream, edge, shift, n, knobs, halving), flush=True)
