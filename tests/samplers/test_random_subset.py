"""Rounds over parts of the data: what comes how often, and the sampler that a part of 1 is."""

import numpy as np
import pytest
from scipy import stats

import regimes as rg
from regimes.samplers.preview import draws, view_of

SIZE = 60
VIEW = view_of(SIZE)


def walked(sampler, total, n=1, seed=3):
    """The examples in order, one array."""
    return np.concatenate([d.indices for d in draws(sampler, VIEW, n, seed=seed, batches=total // n)])


def rounds(sampler, count, size, **kwargs):
    return walked(sampler, count * size, **kwargs).reshape(count, size)


@pytest.mark.exact("RandomSubset")
def test_without_replacement_every_example_comes_once_in_one_over_r_rounds():
    found = rounds(rg.RandomSubset(0.2), 15, 12)
    for begin in range(0, 15, 5):
        assert sorted(found[begin : begin + 5].reshape(-1)) == list(range(SIZE))
    assert sorted(found[0]) != sorted(found[5])


def test_a_rest_that_is_too_short_is_left_out():
    found = rounds(rg.RandomSubset(0.4), 4, 24)  # 24 + 24 of 60
    assert len(set(found[0]) | set(found[1])) == 48
    assert len(set(found[2]) | set(found[3])) == 48
    order = walked(rg.Reshuffle(), 2 * SIZE).reshape(2, SIZE)
    assert found[:2].reshape(-1).tolist() == order[0, :48].tolist()
    assert found[2:].reshape(-1).tolist() == order[1, :48].tolist()


@pytest.mark.exact("RandomSubset")
@pytest.mark.parametrize("n", [1, 7, 60, 77])
def test_all_of_the_data_is_reshuffling_bitwise(n):
    total = 300 // n * n
    assert walked(rg.RandomSubset(1.0), total, n).tolist() == walked(rg.Reshuffle(), total, n).tolist()


@pytest.mark.exact("RandomSubset")
def test_with_replacement_each_example_is_in_a_round_with_chance_r():
    found = rounds(rg.RandomSubset(0.2, "with_replacement"), 2000, 12)
    assert all(len(set(members)) == 12 for members in found)
    counts = np.bincount(found.reshape(-1), minlength=SIZE)
    # A round holds 12 of 60 without repetition: each count is binomial, and they sum to a constant.
    spread = ((counts - 400) ** 2 / (2000 * 0.2 * 0.8)).sum() * (SIZE - 1) / SIZE
    assert 0.001 < stats.chi2.sf(spread, SIZE - 1) < 0.999
    both = np.mean([0 in members and 1 in members for members in map(set, found)])
    assert both == pytest.approx(12 * 11 / (60 * 59), abs=4 * np.sqrt(0.037 / 2000))
    neighbours = np.mean([len(set(a) & set(b)) for a, b in zip(found, found[1:])])
    assert neighbours == pytest.approx(12 * 0.2, abs=0.15)


@pytest.mark.exact("RandomSubset")
def test_a_fixed_subset_is_walked_through_in_new_orders():
    found = rounds(rg.RandomSubset(0.2, "fixed"), 6, 12)
    assert len({tuple(sorted(members)) for members in found}) == 1
    assert len({tuple(members) for members in found}) == 6
    assert sorted(found[0]) != sorted(rounds(rg.RandomSubset(0.2, "fixed"), 1, 12, seed=4)[0])


def test_the_size_of_a_round_follows_its_schedule():
    sampler = rg.RandomSubset(rg.Piecewise(0.1, "50%", 5.0), "with_replacement")
    drawn = [d.indices for d in draws(sampler, VIEW, 6, seed=0, batches=20)]
    first, second = np.concatenate(drawn[:10]), np.concatenate(drawn[10:])
    assert all(len(set(members)) == 6 for members in first.reshape(10, 6))
    assert all(len(set(members)) == 30 for members in second.reshape(2, 30))


@pytest.mark.exact("RandomSubset")
@pytest.mark.parametrize("kind", ["without_replacement", "with_replacement", "fixed"])
def test_a_part_of_an_example_is_one(kind):
    found = walked(rg.RandomSubset(0.21, kind), 26)  # 12.6 of 60
    assert len(set(found[:13])) == len(set(found[13:])) == 13
    if kind == "fixed":
        assert set(found[:13]) == set(found[13:])


def test_refused_with_a_sentence():
    with pytest.raises(rg.DeclarationError, match="fraction: got 0.0; allowed: a finite number > 0 and <= 1"):
        rg.RandomSubset(0.0)
    with pytest.raises(rg.DeclarationError, match="subsets: got 'static'"):
        rg.RandomSubset(0.1, "static")
