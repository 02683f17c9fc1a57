"""What is kept of long courses hides nothing: extremes, ends, and what lies between."""

from __future__ import annotations

import numpy as np
import pytest

from regimes.core import thinning

SIZES = [1, 2, 7, 159, 160, 161, 1000, 12345]


def course(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n)


def stretch_of(kept: np.ndarray, n: int) -> np.ndarray:
    """For every place the number of the kept place that stands for it: the first one at or behind it."""
    return np.searchsorted(kept, np.arange(n))


@pytest.mark.parametrize("n", SIZES)
def test_even_places_hold_every_value_and_both_ends(n: int) -> None:
    y = course(n)
    kept = thinning.even(n, 160)
    assert len(kept) == min(n, 160)
    assert (kept[0], kept[-1]) == (0, n - 1)
    assert (np.diff(kept) > 0).all()
    low, high = thinning.span(kept, y, y)
    owner = stretch_of(kept, n)
    assert (low[owner] <= y).all()
    assert (y <= high[owner]).all()
    assert (low.min(), high.max()) == (y.min(), y.max())
    assert (low[0], high[0]) == (y[0], y[0])


@pytest.mark.parametrize("n", SIZES)
def test_extremes_are_those_of_every_stretch(n: int) -> None:
    y = course(n)
    kept = thinning.extremes(y, 80)
    assert len(kept) <= 162
    assert n > 162 or len(kept) == n
    assert (kept[0], kept[-1]) == (0, n - 1)
    bounds = np.linspace(0, n, 81).astype(int)
    for begin, end in zip(bounds[:-1], bounds[1:]):
        mine = y[kept[(kept >= begin) & (kept < end)]]
        if end > begin:
            assert (mine.min(), mine.max()) == (y[begin:end].min(), y[begin:end].max())


@pytest.mark.parametrize("at", [0, 1, 4999, 5000, 9998, 9999])
@pytest.mark.parametrize("height", [40.0, -40.0])
def test_a_spike_of_one_step_stays(at: int, height: float) -> None:
    y = course(10_000)
    y[at] = height
    assert at in thinning.extremes(y, 6)
    low, high = thinning.span(thinning.even(len(y), 24), y, y)
    assert height in (low.min(), high.max())
    assert (at, height) in thinning.envelope(range(10_000), y.tolist(), 6)


def test_what_was_not_measured_hides_nothing_of_what_was() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(2, 60))
        y = np.where(rng.random(n) < 0.5, np.nan, rng.standard_normal(n))
        ends = thinning.even(n, int(rng.integers(2, 20)))
        low, high = thinning.span(ends, y, y)
        kept = thinning.measured(ends, y)
        owner = stretch_of(ends, n)
        assert (owner[kept] == np.arange(len(ends))).all()  # each stays in its own stretch
        for number in range(len(ends)):
            mine = y[owner == number]
            there = mine[np.isfinite(mine)]
            if len(there):
                assert (low[number], high[number], y[kept[number]]) == (there.min(), there.max(), there[-1])
            else:
                assert np.isnan([low[number], high[number], y[kept[number]]]).all()


def test_courses_of_one_length_keep_the_same_places() -> None:
    one, other = course(1000), -course(1000)
    assert (thinning.even(len(one), 60) == thinning.even(len(other), 60)).all()


def test_nothing_is_kept_of_nothing() -> None:
    none = np.empty(0)
    assert len(thinning.extremes(none, 5)) == len(thinning.even(0, 5)) == 0
    assert [len(part) for part in thinning.span(thinning.even(0, 5), none, none)] == [0, 0]
    assert len(thinning.measured(thinning.even(0, 5), none)) == 0
    assert thinning.envelope([1.0], [None]) == []
