"""Paired intervals: scipy as oracle, coverage by simulation, widening by tuning noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from regimes.study.intervals import (
    TUNING_DF,
    Interval,
    half_widths,
    open_to_diverged,
    simultaneous_paired_intervals,
    widen,
)
from regimes.study.verdicts import rank_diverged


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_one_arm_is_the_paired_t_interval_of_scipy():
    arm, base = draws(2, 9)
    found = simultaneous_paired_intervals({"a": arm - base}, 0.9)["a"]
    low, high = stats.ttest_rel(arm, base).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10, abs=1e-12)
    assert (found.mean, found.sd) == pytest.approx((np.mean(arm - base), stats.tstd(arm - base)), rel=1e-12)
    assert (found.n, found.level, found.comparisons, found.tuning_sd) == (9, 0.9, 1, (0.0, 0.0))


def test_k_arms_share_the_error_equally_and_may_differ_in_seeds():
    d = {"a": draws(6), "b": draws(9, seed=1), "c": draws(2, seed=2)}
    for arm, found in simultaneous_paired_intervals(d).items():
        low, high = stats.ttest_1samp(d[arm], 0).confidence_interval(1 - 0.05 / 3)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10), arm
        assert found.comparisons == 3


def test_coverage_is_the_level_for_one_arm_and_at_least_that_for_arms_that_share_a_baseline():
    repetitions, arms, seeds = 50_000, 3, 5
    runs = draws(arms + 1, seeds, repetitions)
    gains = runs[0] - runs[1:]
    mean, sd = np.abs(gains.mean(1)), gains.std(1, ddof=1)
    one, family = (half_widths(1.0, np.array([seeds]), 0.95, k)[0] * sd for k in (1, arms))
    covered = int((mean[0] <= one[0]).sum())
    exact = stats.binomtest(covered, repetitions).proportion_ci(0.999)
    assert exact.low <= 0.95 <= exact.high
    together = float((mean <= family).all(0).mean())
    assert 0.95 < together < 0.96  # little is lost to the shared baseline
    assert float((mean <= one).all(0).mean()) < 0.9  # what plain intervals would promise wrongly


def test_one_seed_bounds_nothing():
    found = simultaneous_paired_intervals({"a": [0.3]})["a"]
    assert (found.mean, found.low, found.high) == (0.3, -math.inf, math.inf)
    assert math.isnan(found.sd)
    assert widen(found, 0.1, 0.1).high == math.inf


def test_seeds_that_change_nothing_are_one_observation():
    agreeing = {"shifted": np.full(6, 0.25), "rounded": 0.1 + np.arange(6) * 1e-15, "told": draws(6)}
    found = simultaneous_paired_intervals(agreeing, repeated=["told"])
    for arm, interval in found.items():
        assert (interval.low, interval.high, interval.n) == (-math.inf, math.inf, 6), arm
        assert math.isnan(interval.sd)
        assert interval.mean == np.mean(agreeing[arm])
        assert widen(interval, 0.1, 0.0).high == math.inf
    assert simultaneous_paired_intervals({"a": 0.1 + np.arange(6) * 1e-11})["a"].high < 0.11


def test_a_computation_compared_with_itself_is_a_point_unless_it_repeats_itself():
    found = simultaneous_paired_intervals({"same": np.zeros(6), "repeated": np.zeros(6)}, repeated={"repeated"})
    assert [(i.low, i.high) for i in found.values()] == [(0.0, 0.0), (-math.inf, math.inf)]


def test_what_both_diverged_hides_and_what_no_rank_supports():
    base, arm = np.linspace(2.0, 2.1, 8), np.linspace(1.7, 1.75, 8)
    plain = simultaneous_paired_intervals({"a": base - arm})["a"]

    def opened(lost, lost_base, p_value):
        mine, theirs = arm.copy(), base.copy()
        mine[:lost], theirs[:lost_base] = math.nan, math.nan
        ranked = rank_diverged(mine, theirs, "lower", 0.1)
        return ranked, open_to_diverged(plain, ranked, p_value)

    assert opened(0, 0, 1.0)[1] == plain
    ranked, wide = opened(2, 2, 0.05)
    assert wide.low == pytest.approx(plain.low - 2 * ranked.penalty / 8, rel=1e-12)
    assert wide.high == pytest.approx(plain.high + 2 * ranked.penalty / 8, rel=1e-12)
    assert opened(1, 0, 0.05)[1] == plain
    assert opened(1, 0, 0.0501)[1] == replace(plain, low=0.0)
    two = replace(plain, comparisons=2)
    assert open_to_diverged(two, opened(1, 0, 0.0)[0], 0.03).low == 0.0
    assert open_to_diverged(two, opened(1, 0, 0.0)[0], 0.025) == two


def test_no_arms_give_no_intervals():
    assert simultaneous_paired_intervals({}) == {}


def test_what_is_no_number_is_refused_unless_nothing_is():
    with pytest.raises(ValueError, match=r"differences\.b: got nan in place 1; rank diverged runs first"):
        simultaneous_paired_intervals({"a": [1.0, 2.0], "b": [1.0, math.nan]})
    nothing = simultaneous_paired_intervals({"a": [math.nan, math.nan]})["a"]
    assert (nothing.low, nothing.high, nothing.n) == (-math.inf, math.inf, 2)
    assert widen(nothing, 0.1, 0.0).low == -math.inf


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, math.nan])
def test_a_level_is_a_confidence(level):
    with pytest.raises(ValueError, match=r"level: got .*between 0 and 1"):
        simultaneous_paired_intervals({"a": [1.0, 2.0]}, level)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], 3.0])
def test_differences_are_one_number_per_seed(values):
    with pytest.raises(ValueError, match=r"differences\.a: got shape"):
        simultaneous_paired_intervals({"a": values})


def test_widening_by_nothing_changes_nothing():
    found = simultaneous_paired_intervals({"a": draws(8), "b": draws(8, seed=1)})["b"]
    wide = widen(found, 0.0, 0.0)
    assert (wide.low, wide.high) == pytest.approx((found.low, found.high), rel=1e-13)


def test_widening_is_welch_and_satterthwaite():
    """With the arm's tuning noise as the other sample of a Welch test, of TUNING_DF + 1 values."""
    d = draws(8)
    found = simultaneous_paired_intervals({"a": d})["a"]
    tuning = 0.3
    wide = widen(found, tuning, 0.0)
    other = tuning * math.sqrt(TUNING_DF + 1)
    oracle = stats.ttest_ind_from_stats(found.mean, found.sd, 8, 0.0, other, TUNING_DF + 1, equal_var=False)
    standard_error = math.sqrt(found.sd**2 / 8 + tuning**2)
    df = oracle.statistic and _df_of(oracle)
    assert wide.high - wide.mean == pytest.approx(stats.t.isf(0.025, df) * standard_error, rel=1e-8)
    assert found.mean / standard_error == pytest.approx(oracle.statistic, rel=1e-12)


def _df_of(oracle):
    """The df behind a two-sided p value and its statistic."""
    from scipy.optimize import brentq

    return brentq(lambda df: 2 * stats.t.sf(abs(oracle.statistic), df) - oracle.pvalue, 1, 100, xtol=1e-12)


def test_arm_and_baseline_add_in_squares_and_widening_starts_from_the_seeds():
    found = simultaneous_paired_intervals({"a": draws(8), "b": draws(8, seed=1)})["a"]
    wide = widen(found, 0.3, 0.4)
    total = found.sd**2 / 8 + 0.25
    df = total**2 / ((found.sd**2 / 8) ** 2 / 7 + (0.3**4 + 0.4**4) / TUNING_DF)
    assert wide.high - wide.mean == pytest.approx(stats.t.isf(0.0125, df) * math.sqrt(total), rel=1e-12)
    assert wide.tuning_sd == (0.3, 0.4)
    assert widen(wide, 0.3, 0.4) == wide
    assert widen(found, 0.4, 0.3).low == pytest.approx(wide.low, rel=1e-14)
    assert (wide.mean, wide.sd, wide.n, wide.level) == (found.mean, found.sd, 8, 0.95)


def test_widening_does_not_depend_on_the_unit():
    found = Interval(0.02, 0.0, 0.04, sd=0.01, n=8, level=0.95)
    small = Interval(2e-102, 0.0, 0.0, sd=1e-102, n=8, level=0.95)
    assert widen(small, 2e-102, 1e-103).high * 1e100 == pytest.approx(widen(found, 0.02, 1e-3).high, rel=1e-12)


def test_tuning_noise_alone_still_makes_an_interval():
    found = Interval(0.25, 0.25, 0.25, sd=0.0, n=6, level=0.95)
    assert widen(found, 0.1, 0.0).high == pytest.approx(0.25 + stats.t.isf(0.025, TUNING_DF) * 0.1, rel=1e-12)
    unknown = widen(found, math.inf, 0.0)
    assert (unknown.low, unknown.high, unknown.mean) == (-math.inf, math.inf, 0.25)


@pytest.mark.parametrize("sd", [-1e-9, math.nan])
def test_a_tuning_sd_is_a_standard_deviation(sd):
    found = Interval(0.02, 0.0, 0.04, sd=0.01, n=8, level=0.95)
    with pytest.raises(ValueError, match=r"tuning_sd_arm: got .*0 or more"):
        widen(found, sd, 0.0)
    with pytest.raises(ValueError, match="tuning_sd_baseline: got"):
        widen(found, 0.0, sd)
