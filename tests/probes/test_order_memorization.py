"""The test of a model against an order: exact chances by enumeration, independent oracles, what it does not depend on."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import regimes as rg

RNG = np.random.default_rng(3)


@pytest.mark.exact("order_memorization_test")
def test_under_the_null_every_p_is_as_likely_as_it_says():
    """All orders of five examples: exactly a share p of them has this p or a lower one, with and without ties."""
    for values in ([0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.1, 0.3, 0.4, 0.4]):
        found = [rg.order_memorization_test(values, None, order).p for order in itertools.permutations(range(5))]
        levels, counts = np.unique(found, return_counts=True)
        assert np.cumsum(counts) / 120 == pytest.approx(levels, abs=1e-15)
        assert levels[-1] == 1.0


@pytest.mark.exact("order_memorization_test")
def test_the_least_p_of_n_examples_is_one_of_all_orders():
    for n in range(2, 9):
        remembered = -np.arange(n) / 7
        assert rg.order_memorization_test(remembered, None, np.arange(n)) == (1.0, 1 / math.factorial(n))
        assert rg.order_memorization_test(-remembered, None, np.arange(n)) == (-1.0, 1.0)
    by_t = rg.order_memorization_test(-np.arange(9.0), None, np.arange(9))
    assert by_t == (1.0, pytest.approx(1 / math.factorial(9), rel=1e-12))


@pytest.mark.exact("order_memorization_test")
@pytest.mark.parametrize("n", [4, 6, 8])
def test_enumeration_is_scipys_permutation_test(n):
    losses, steps = RNG.integers(0, n, n) / 2, RNG.permutation(n)
    ranks = stats.zscore(stats.rankdata(steps)) / n

    def spearman(x, axis):
        return (stats.zscore(stats.rankdata(x, axis=axis), axis=axis) * ranks).sum(axis)

    wanted = stats.permutation_test(
        (-losses,), spearman, vectorized=True, permutation_type="pairings", alternative="greater", n_resamples=np.inf
    )
    found = rg.order_memorization_test(losses, None, steps)
    assert found.rho == pytest.approx(wanted.statistic, abs=1e-12)
    assert found.p == pytest.approx(wanted.pvalue, abs=1e-12)


@pytest.mark.exact("order_memorization_test")
@pytest.mark.parametrize("n", [3, 9, 40, 700])
def test_t_is_scipys_spearman(n):
    losses, reference = RNG.normal(size=(2, n)).round(1)
    steps = RNG.permutation(n) // 2
    wanted = stats.spearmanr(reference - losses, steps, alternative="greater")
    found = rg.order_memorization_test(losses, reference, steps, method="t")
    assert found.rho == pytest.approx(wanted.statistic, abs=1e-12)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-9)


def test_random_orders_estimate_what_enumeration_finds():
    losses, steps = [3.0, 1.0, 2.5, 2.0, 0.5, 1.5], range(6)
    exact = rg.order_memorization_test(losses, None, steps).p
    sampled = rg.order_memorization_test(losses, None, steps, method="permutation", permutations=19_999).p
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert sampled == rg.order_memorization_test(losses, None, steps, method="permutation", permutations=19_999).p
    other = rg.order_memorization_test(losses, None, steps, method="permutation", permutations=19_999, seed=1).p
    assert other != sampled
    # The order that there was counts as one: p is never 0, and over several blocks each order is counted once.
    late = rg.order_memorization_test(-np.arange(3000.0), None, range(3000), method="permutation", permutations=2999)
    assert late == (1.0, 1 / 3000)


@pytest.mark.exact("order_memorization_test")
def test_only_the_order_of_steps_counts():
    losses, reference, steps = RNG.normal(size=60), RNG.normal(size=60), RNG.permutation(60).astype(float)
    found = rg.order_memorization_test(losses, reference, steps)
    for same in (steps * 1000 + 7, np.exp(steps / 10), -1 / (steps + 1), np.sqrt(steps), torch.tensor(steps).float()):
        assert rg.order_memorization_test(losses, reference, same) == found
    assert rg.order_memorization_test(losses, reference, -steps).rho == -found.rho
    together = np.random.default_rng(0).permutation(60)
    again = rg.order_memorization_test(losses[together], reference[together], steps[together])
    assert again == pytest.approx(found, abs=1e-12)


def test_the_reference_takes_out_how_easy_examples_are():
    steps = np.arange(200)
    easy = 3.0 * RNG.normal(size=200)
    losses = easy - 0.002 * steps
    assert rg.order_memorization_test(losses, easy, steps) == (1.0, pytest.approx(0.0, abs=1e-200))
    assert rg.order_memorization_test(losses, None, steps).p > 1e-3


def test_an_undefined_correlation_is_no_evidence():
    for losses, reference, steps in (
        ([0.5] * 20, None, range(20)),
        ([1.0, 2.0], [1.0, 2.0], [0, 1]),
        ([2.0], None, [3]),
    ):
        found = rg.order_memorization_test(losses, reference, steps)
        assert math.isnan(found.rho)
        assert found.p == 1.0
    assert rg.order_memorization_test([1.0, 2.0, 3.0], None, [4, 4, 4]).p == 1.0


REFUSALS = [
    (([1.0, math.nan], None, [0, 1]), {}, "losses: got nan at place 1; allowed: finite numbers"),
    (([1.0, 2.0], [1.0, math.inf], [0, 1]), {}, "reference_losses: got inf at place 1"),
    (([1.0, 2.0], None, [0, math.nan]), {}, r"steps: got nan .*leave out examples that were never trained on"),
    (([1.0, 2.0], None, [0, 1, 2]), {}, "losses: got 2 losses, 2 of the reference and 3 steps"),
    (([[1.0]], None, [0]), {}, r"losses: got an array of shape \(1, 1\)"),
    ((range(9), None, range(9)), {"method": "exact"}, "method: got 'exact' for 9 examples; allowed: at most 8"),
    ((range(2), None, range(2)), {"method": "t"}, "method: got 't' for 2 examples"),
    ((range(9), None, range(9)), {"method": "normal"}, "method: got 'normal'; allowed: 'auto', 'exact', 't' or"),
    ((range(9), None, range(9)), {"method": "permutation", "permutations": 0}, "permutations: got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "how", "said"), REFUSALS)
def test_refused_with_a_sentence(given, how, said):
    with pytest.raises(rg.DeclarationError, match=said):
        rg.order_memorization_test(*given, **how)
