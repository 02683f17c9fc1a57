"""Permutations of many examples: bijections, against plain integers, and uniform by where elements and orders go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from regimes.core.permutation import BLOCK, ROUNDS, WHOLE, Feistel, permutation
from regimes.core.randomness import philox


def by_integers(size, words, place):
    """The formula, on Python's integers."""
    half = next(h for h in range(1, 64) if size <= 4**h)
    while True:
        number = (place + words[0]) % 4**half
        left, right = divmod(number, 2**half)
        for key in words[1:]:
            mixed = (right + key) % 2**64
            mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
            mixed ^= mixed >> 31
            left, right = right, left ^ mixed >> 64 - half
        place = left << half | right
        if place < size:
            return place


# -- what it is --------------------------------------------------------------------------------------------------------


@pytest.mark.exact("Reshuffle")
@pytest.mark.parametrize("size", [1, 2, 5, 16, 17, 1000, 10**8, 2**40 + 1])
def test_it_is_the_formula_that_is_stated(size):
    words = philox(4, "words").bit_generator.random_raw(13).tolist()
    places = np.unique(np.linspace(0, size - 1, 40).astype(np.int64))
    found = Feistel(size, philox(4, "words"))[places]
    assert found.dtype == np.int64
    assert found.tolist() == [by_integers(size, words, place) for place in places.tolist()]


@pytest.mark.parametrize("size", [*range(1, 70), 100, 255, 256, 257, 1000, 4096, 4097, WHOLE + 1])
def test_every_example_stands_at_one_place(size):
    for key in range(1 if size > WHOLE else 3):
        assert np.array_equal(np.sort(Feistel(size, philox(key, "once"))[:]), np.arange(size))


@pytest.mark.parametrize("size", [1, 60, WHOLE])
def test_few_examples_are_shuffled_as_numpy_does(size):
    assert np.array_equal(permutation(size, philox(3, "few")), philox(3, "few").permutation(size))


def test_one_more_is_computed_where_it_is_read():
    order = permutation(WHOLE + 1, philox(3, "many"))
    assert isinstance(order, Feistel)
    assert len(order) == WHOLE + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * BLOCK + 9), st.integers(0, 2 * BLOCK + 9)), min_size=1, max_size=5))
def test_slices_are_what_stands_at_their_places(slices):
    size = 3 * BLOCK + 5
    order, places = Feistel(size, philox(0, "slices")), np.arange(size)
    for start, count in slices:
        expected = order[places[start : start + count]]
        assert order[start : start + count].tolist() == expected.tolist()


def test_permutations_of_different_streams_are_different():
    size = 10**6
    orders = [Feistel(size, philox(seed, "epoch", epoch))[:4000] for seed in range(3) for epoch in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() <= 3  # 0.004 are expected


# -- that it is uniform ------------------------------------------------------------------------------------------------

#: How many permutations of so many examples.
COUNTS = {5: 60_000, 10: 60_000, 100: 4000, 1000: 1500}


def orders(size, rounds=ROUNDS, moved=1):
    """Permutations with keys of their own, one a row: the network on all of them at once."""
    count = COUNTS[size]
    words = philox(size, "orders").bit_generator.random_raw((1 + rounds) * count).reshape(1 + rounds, count, 1)
    network = Feistel(size, philox(0), rounds)
    network._moved, network._keys = words[0] * np.uint64(moved), list(words[1:])
    found = network._through(np.tile(np.arange(size, dtype=np.uint64), (count, 1)))
    while (found >= size).any():
        found = np.where(found < size, found, network._through(found))
    return found.astype(np.int64)


def places(found):
    """p of where each element goes; rows and columns of the table sum to a constant."""
    count, size = found.shape
    table = np.stack([np.bincount(column, minlength=size) for column in found.T])
    return stats.chi2.sf((size - 1) / count * ((table - count / size) ** 2).sum(), (size - 1) ** 2)


def neighbors(found):
    """p of where two neighbors go: both places where they are few, else how far the second is after the first."""
    size = found.shape[1]
    first, second = found[:, 0 : size - 1 : 2], found[:, 1::2]
    if size <= 10:
        first, second = first[:, :1], second[:, :1]
        seen = np.bincount((size * first + second).ravel(), minlength=size**2).reshape(size, size)
        return stats.chisquare(seen[~np.eye(size, dtype=bool)]).pvalue
    return stats.chisquare(np.bincount(((second - first) % size).ravel(), minlength=size)[1:]).pvalue


def cycles(found):
    """p of the number of cycles."""
    count, size = found.shape
    least, jump = np.tile(np.arange(size), (count, 1)), found
    for _ in range(size.bit_length()):
        least = np.minimum(least, np.take_along_axis(least, jump, 1))
        jump = np.take_along_axis(jump, jump, 1)
    chances = np.ones(1)
    for k in range(size):  # the next element closes a cycle of its own with chance 1 / (k + 1)
        chances = np.convolve(chances, [k / (k + 1), 1 / (k + 1)])
    return against((least == np.arange(size)).sum(1), chances)


def inversions(found):
    """p of the number of pairs that stand in the wrong order."""
    size, chances = found.shape[1], np.ones(1)
    for k in range(2, size + 1):
        chances = np.convolve(chances, np.full(k, 1 / k))
    return against(sum((found[:, i : i + 1] > found[:, i + 1 :]).sum(1) for i in range(size - 1)), chances)


def against(values, chances):
    """p of counts of 0, 1, ... whose chances are known; of rare ones together."""
    expected, seen = len(values) * chances, np.bincount(values, minlength=len(chances))
    cells = np.minimum(np.cumsum(expected) // 20, expected.sum() // 20 - 1).astype(int)
    expected, seen = (np.bincount(cells, weights=found) for found in (expected, seen))
    kept = expected > 0
    return stats.chisquare(seen[kept], expected[kept] * seen.sum() / expected.sum()).pvalue


STATISTICS = [(size, statistic) for size in COUNTS for statistic in (places, neighbors, cycles, inversions)]
STATISTICS.remove((1000, inversions))
#: Two rounds send every single element anywhere alike.
BLIND = [(1000, places)]


def named(value):
    return getattr(value, "__name__", str(value))


@pytest.fixture(scope="module")
def made():
    """Permutations by size, of the rounds that are used, and of two."""
    return {(size, rounds): orders(size, rounds) for size in COUNTS for rounds in (2, ROUNDS)}


@pytest.mark.exact("Reshuffle")
@pytest.mark.parametrize(("size", "statistic"), STATISTICS, ids=named)
def test_uniform_by_chi_square(made, size, statistic):
    assert statistic(made[size, ROUNDS]) > 1e-4


@pytest.mark.parametrize(("size", "statistic"), [case for case in STATISTICS if case not in BLIND], ids=named)
def test_two_rounds_would_be_found(made, size, statistic):
    assert statistic(made[size, 2]) < 1e-10


@pytest.mark.exact("Reshuffle")
def test_all_orders_of_five_come_alike(made):
    _, counts = np.unique(made[5, ROUNDS], axis=0, return_counts=True)
    assert len(counts) == 120
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("size", [5, 10, 1000])
def test_even_permutations_alone_would_be_found(size):
    assert cycles(orders(size, moved=0)) < 1e-10


@pytest.mark.exact("Reshuffle")
def test_streams_of_epochs_are_as_good_as_words():
    found = np.stack([Feistel(10, philox(1, "main", "epoch", epoch))[:] for epoch in range(3000)])
    # From one epoch to the next an order changes by a permutation that is as uniform.
    changes = np.take_along_axis(found[1:], np.argsort(found[:-1], 1), 1)
    for each in (found, changes):
        assert min(places(each), neighbors(each), cycles(each), inversions(each)) > 1e-4


@pytest.mark.parametrize("size", [WHOLE + 1, 10**8, 10**12])
def test_blocks_of_many_examples_spread_evenly(size):
    order = Feistel(size, philox(2, "spread"))
    found = order[10 * BLOCK : 20 * BLOCK]
    assert stats.chisquare(np.bincount(found * 64 // size, minlength=64)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(found % 61, minlength=61)).pvalue > 1e-3
    pairs = np.histogram2d(found[:-1] * 12 // size, found[1:] * 12 // size, bins=12)[0]
    assert stats.chi2_contingency(pairs).pvalue > 1e-3
    assert stats.kstest((np.diff(found) % size) / size, "uniform").pvalue > 1e-3
