"""Sensitivity to the rate by its definition, and a power law whose crossing has Fieller's interval."""

import math

import numpy as np
import pytest
from scipy import stats

import regimes as rg

RATES = np.geomspace(1e-4, 0.1, 7).tolist()


@pytest.mark.exact("lr_sensitivity")
def test_by_its_definition():
    losses = [3.0, 2.5, 2.0, 2.25, 7.0, math.nan, math.inf]
    clamped = [3.0, 2.5, 2.0, 2.25, 5.0, 5.0, 5.0]
    assert rg.lr_sensitivity(RATES, losses, start=5.0) == pytest.approx(np.mean(clamped) - 2.0, rel=1e-15)


@pytest.mark.exact("lr_sensitivity")
def test_limits():
    """0 where the rate does not matter, and where nothing trains; at most start minus best."""
    assert rg.lr_sensitivity(RATES, [2.0] * 7, start=5.0) == 0.0
    assert rg.lr_sensitivity(RATES, [math.nan] * 7, start=5.0) == 0.0
    assert rg.lr_sensitivity(RATES, [9.0] * 7, start=5.0) == 0.0
    assert rg.lr_sensitivity(RATES, [2.0] + [math.nan] * 6, start=5.0) == pytest.approx(3.0 * 6 / 7, rel=1e-15)


def test_refused_are_rates_whose_mean_is_of_no_range():
    for rates in ([0.1, 0.2, 0.9], [0.1, 0.1, 0.1], [0.2, 0.1, 0.05], [0.0, 0.1, 0.2]):
        with pytest.raises(rg.DeclarationError, match="rates: got"):
            rg.lr_sensitivity(rates, [1.0] * 3, start=2.0)
    assert rg.lr_sensitivity([0.1, 0.3, 1.0], [1.0] * 3, start=2.0) == 0.0
    with pytest.raises(rg.DeclarationError, match="2 losses of 3 rates"):
        rg.lr_sensitivity([0.1, 0.3, 1.0], [1.0] * 2, start=2.0)
    with pytest.raises(rg.DeclarationError, match="start"):
        rg.lr_sensitivity([0.1, 0.3], [1.0] * 2, start=math.inf)


@pytest.mark.exact("PowerLaw")
def test_an_exact_law_is_found_and_crossed_without_doubt():
    sizes = [1e5, 3e6, 1e7]
    law = rg.PowerLaw.fit(sizes, [0.02 * n**0.4 for n in sizes])
    assert (law.coefficient, law.exponent) == (pytest.approx(0.02, rel=1e-10), pytest.approx(0.4, rel=1e-12))
    found = law.crossing(1e4)
    wanted = (1e4 / 0.02) ** 2.5
    assert [found.size, found.low, found.high] == pytest.approx([wanted] * 3, rel=1e-5)
    assert law.at(found.size) == pytest.approx(1e4, rel=1e-9)


def noisy(seed=0, n=7, exponent=0.5):
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(1e5, 1e8, n)
    return sizes, 3.0 * sizes**exponent * np.exp(0.2 * rng.standard_normal(n))


@pytest.mark.exact("PowerLaw")
def test_the_line_is_least_squares_of_logarithms():
    sizes, values = noisy()
    law = rg.PowerLaw.fit(sizes, values)
    line = stats.linregress(np.log(sizes), np.log(values))
    assert law.exponent == pytest.approx(line.slope, rel=1e-12)
    assert math.log(law.coefficient) == pytest.approx(line.intercept, rel=1e-10)


@pytest.mark.exact("PowerLaw")
@pytest.mark.parametrize("threshold", [10.0, 1e4, 1e7])
@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("exponent", [0.5, -0.5])
def test_at_the_ends_of_the_interval_the_lines_own_interval_ends_at_the_threshold(threshold, level, exponent):
    """The prediction interval of the mean by its formula, at both ends."""
    sizes, values = noisy(exponent=exponent)
    law = rg.PowerLaw.fit(sizes, values)
    found = law.crossing(threshold, level)
    x, y = np.log(sizes), np.log(values)
    residuals = y - np.log([law.at(size) for size in sizes])
    s, t = math.sqrt(residuals @ residuals / (len(x) - 2)), stats.t.ppf((1 + level) / 2, len(x) - 2)
    for end in (found.low, found.high):
        u = math.log(end) - x.mean()
        half = t * s * math.sqrt(1 / len(x) + u**2 / ((x - x.mean()) ** 2).sum())
        assert abs(math.log(law.at(end)) - math.log(threshold)) == pytest.approx(half, rel=1e-8)
    assert found.low < found.size < found.high


@pytest.mark.exact("PowerLaw")
def test_without_a_sure_slope_or_a_residual_nothing_is_bounded():
    flat = rg.PowerLaw.fit([1e5, 1e6, 1e7, 1e8], [10.0, 12.0, 9.0, 11.0]).crossing(1e4)
    assert (flat.low, flat.high) == (0.0, math.inf)
    two = rg.PowerLaw.fit([1e5, 1e7], [10.0, 100.0]).crossing(1e4)
    assert (two.size, two.low, two.high) == (pytest.approx(1e11, rel=1e-9), 0.0, math.inf)


def test_refusals():
    for sizes, values in (([1e5], [1.0]), ([1e5, 1e5], [1.0, 2.0]), ([1e5, 1e6], [1.0]), ([1e5, 1e6], [0.0, 1.0])):
        with pytest.raises(rg.DeclarationError, match="values: got"):
            rg.PowerLaw.fit(sizes, values)
    with pytest.raises(rg.DeclarationError, match="threshold"):
        rg.PowerLaw.fit([1e5, 1e6], [1.0, 2.0]).crossing(0.0)
