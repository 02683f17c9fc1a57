"""Long courses with few points, none of which is hidden: a spike of a single step stays, and both ends are exact.

A course is measured at places 0, 1, 2 ...; some places are kept, and each stands for those behind the one before it, whose
lowest and highest it may carry along. Which are kept is the only question: even ones, so that courses of one length stay
comparable place by place, or the extremes, so that a line drawn through them looks as the line through all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
Places = NDArray[np.int64]


def even(count: int, points: int) -> Places:
    """At most `points` of `count` places, two or more: the first, and the last of equal stretches of the others.

    Examples
    --------
    >>> even(7, 3).tolist(), even(3, 5).tolist()
    ([0, 3, 6], [0, 1, 2])
    """
    if count <= points:
        return np.arange(count)
    return np.linspace(0, count - 1, points).round().astype(np.int64)


def extremes(values: ArrayLike, stretches: int) -> Places:
    """The places of the lowest and the highest value of each of some equal stretches, and both ends.

    Parameters
    ----------
    values : array
        Finite numbers.
    stretches : int
        Two places each, at most.

    Examples
    --------
    >>> extremes([0, 9, 1, 1, 1, -5, 1, 2], 1).tolist()
    [0, 1, 5, 7]
    """
    height = np.asarray(values, dtype=float)
    if len(height) <= 2 * stretches + 2:
        return np.arange(len(height))
    kept = {0, len(height) - 1}
    bounds = np.linspace(0, len(height), stretches + 1).astype(int)
    for begin, end in zip(bounds[:-1], bounds[1:]):
        part = height[begin:end]
        kept.update((int(begin + part.argmin()), int(begin + part.argmax())))
    return np.array(sorted(kept), dtype=np.int64)


def span(kept: Places, low: Values, high: Values) -> tuple[Values, Values]:
    """The lowest low and the highest high of what every kept place stands for; the last place is among the kept.

    NaN counts as not measured.

    Examples
    --------
    >>> y = np.array([1.0, 2.0, 9.0, 2.0, 0.5, 3.0, 4.0])
    >>> [part.tolist() for part in span(even(7, 3), y, y)]
    [[1.0, 2.0, 0.5], [1.0, 9.0, 4.0]]
    """
    if not len(kept):
        return low[:0], high[:0]
    begins = np.concatenate([[0], kept[:-1] + 1])
    return np.fmin.reduceat(low, begins), np.fmax.reduceat(high, begins)


def measured(kept: Places, values: Values) -> Places:
    """The kept places, each moved back to the last number in what it stands for, where it is NaN itself.

    Examples
    --------
    >>> measured(even(5, 3), np.array([1.0, 2.0, np.nan, np.nan, np.nan])).tolist()
    [0, 1, 4]
    """
    if not len(kept):
        return kept
    begins = np.concatenate([[0], kept[:-1] + 1])
    last = np.maximum.reduceat(np.where(np.isnan(values), -1, np.arange(len(values))), begins)
    return np.where(last >= begins, last, kept)


def envelope(x: Iterable[float], y: Iterable[float | None], stretches: int = 200) -> list[tuple[float, float]]:
    """The points at the extremes of a long line; those without a value are left out.

    Examples
    --------
    >>> envelope(range(8), [0, 9, 1, 1, None, -5, 1, 2], stretches=1)
    [(0, 0), (1, 9), (5, -5), (7, 2)]
    """
    points: Sequence[tuple[float, float]] = [(a, b) for a, b in zip(x, y) if b is not None]
    return [points[place] for place in extremes([b for _, b in points], stretches)]
