"""Choosing a rate from a few trials, the luck in it, and what widening by it does to false verdicts."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from regimes.study import tuning_noise
from regimes.study.intervals import simultaneous_paired_intervals, widen
from regimes.study.tuning_noise import fit_and_refine, selection_sd
from regimes.study.verdicts import verdict

RATES = np.array([-9.0, -8.2, -7.1, -6.0, -5.0])
VALUES = np.array([2.9, 2.5, 2.42, 2.55, 3.4])


def plain_fit(x, y):
    """Weights and fit by numpy, for trials that are all finite."""
    excess = y - y.min()
    weights = 1 / (1 + (excess / np.median(excess)) ** 2)
    return weights, np.polyfit(x, y, 2, w=np.sqrt(weights))


def test_the_choice_is_the_vertex_of_the_weighted_parabola():
    found = fit_and_refine(RATES, VALUES)
    _, coefficients = plain_fit(RATES, VALUES)
    assert found.log_rate == pytest.approx(-coefficients[1] / 2 / coefficients[0], rel=1e-10)
    assert found.curve == pytest.approx(coefficients[::-1], rel=1e-9)
    assert found.bracketed


def test_a_parabola_is_found_exactly_and_without_noise():
    for rates in (RATES, RATES[:4], RATES[1:4]):
        exact = 2.0 + 0.3 * (rates + 7.3) ** 2
        found = fit_and_refine(rates, exact, finals=[2.0] * 8)
        assert found.log_rate == pytest.approx(-7.3, abs=1e-9)
        assert (found.tuning_sd < 1e-15) == (len(rates) > 3)  # a V goes through any three trials as well


def test_log_rates_and_values_may_be_shifted_scaled_mirrored_and_shuffled():
    finals = np.array([2.4, 2.45, 2.41, 2.47])
    found = fit_and_refine(RATES, VALUES, finals=finals)
    moved = fit_and_refine(RATES / math.log(10) + 3, VALUES * 7 - 20, finals=finals * 7 - 20)
    assert moved.log_rate == pytest.approx(found.log_rate / math.log(10) + 3, rel=1e-9)
    assert moved.tuning_sd == pytest.approx(found.tuning_sd * 7, rel=1e-6)
    mirrored = fit_and_refine(RATES, -VALUES, "higher", -finals)
    assert (mirrored.log_rate, mirrored.tuning_sd) == pytest.approx((found.log_rate, found.tuning_sd), rel=1e-12)
    assert mirrored.curve == pytest.approx([-c for c in found.curve], rel=1e-12)
    order = [3, 0, 4, 2, 1]
    shuffled = fit_and_refine(RATES[order], VALUES[order], finals=finals[::-1])
    assert (shuffled.log_rate, shuffled.tuning_sd) == pytest.approx((found.log_rate, found.tuning_sd), rel=1e-12)


def test_asking_twice_gives_the_same_and_touches_no_global_generator():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    assert fit_and_refine(RATES, VALUES) == fit_and_refine(RATES, VALUES)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("cliff", [30.0, 1e6, math.inf, math.nan])
def test_the_choice_does_not_walk_toward_a_cliff(cliff):
    """Trials that fall toward the cliff: the parabola's vertex lies beyond the best trial, and is not followed."""
    found = fit_and_refine([0.0, 1.0, 2.0, 3.0], [0.9, 0.35, 0.0, cliff])
    assert 2.0 <= found.log_rate < 2.0 + 5e-4
    assert found.bracketed
    assert found.curve is not None


def test_a_neighbor_that_did_equally_well_may_be_reached():
    assert fit_and_refine([0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 1.0]).log_rate == pytest.approx(1.5, abs=1e-9)


@pytest.mark.parametrize(
    ("rates", "values", "bracketed"),
    [
        ([0, 1, 2, 3], [0.1, 0.5, 0.9, 2.0], False),  # best at the edge
        ([0, 1, 2, 3], [math.nan, 0.5, 0.9, math.nan], True),  # two finite trials
        ([0, 1, 1, 2], [1.0, 0.2, 0.3, 1.0], True),  # one rate twice
        ([0, 1, 2, 3], [0.9, 0.5, 0.0, math.inf], True),  # no minimum in the parabola
        ([0, 1], [0.3, 0.1], False),
    ],
)
def test_otherwise_it_is_the_best_trial(rates, values, bracketed):
    found = fit_and_refine(rates, values)
    best = int(np.nanargmin(values))
    assert (found.log_rate, found.curve, found.bracketed) == (rates[best], None, bracketed)
    assert found.tuning_sd == selection_sd(values)


def test_one_finite_trial_leaves_the_luck_unknown():
    found = fit_and_refine([0.0, 1.0, 2.0], [math.nan, 1.0, math.inf])
    assert (found.log_rate, found.tuning_sd) == (1.0, math.inf)


def brute_force_selection(values):
    draws = [min(draw) for draw in itertools.product(values, repeat=len(values))]
    return np.std([d for d in draws if math.isfinite(d)])


@pytest.mark.parametrize(
    "values", [[1.0, 3.0], [2.0, 1.0, 5.0, 1.5], [2.0, math.inf, 1.0, 1.0], [4.0, 1.0, math.inf, math.inf, 2.0]]
)
def test_selection_sd_is_the_bootstrap_over_all_draws(values):
    assert selection_sd(values) == pytest.approx(brute_force_selection(values), rel=1e-12)
    assert selection_sd([-v for v in values], "higher") == pytest.approx(selection_sd(values), rel=1e-12)


def test_small_noise_follows_the_delta_method(monkeypatch):
    """Around an exact parabola the choice moves by J dy and the metric loses e = c2 (J dy)^2: var e + (mean e)^2 / 4."""
    monkeypatch.setattr(tuning_noise, "REDRAWS", 50_000)
    values = 2.0 + 0.3 * (RATES + 7.3) ** 2
    sd = 1e-4
    finals = sd * np.sqrt(9 / 7) * np.tile([1.0, -1.0], 4) * np.sqrt(7 / 8)  # pooled over 2 + 7 degrees of freedom
    weights, _ = plain_fit(RATES, values)
    powers = np.vander(RATES, 3)
    solve = np.linalg.solve(powers.T * weights @ powers, powers.T * weights)
    slope = -(solve[1] + 2 * -7.3 * solve[0]) / (2 * 0.3)
    expected = math.sqrt(2 + 1 / 4) * 0.3 * sd**2 * np.sum(slope**2)
    assert fit_and_refine(RATES, values, finals=finals).tuning_sd == pytest.approx(expected, rel=0.02)


def plain_luck(x, y, finals):
    """The tuning sd with numpy's parabola, scipy's V and redraws of its own."""
    weights, coefficients = plain_fit(x, y)
    c2, c1, _ = coefficients
    slope, tip = c2, -c1 / 2 / c2

    def vee(parameters):
        return parameters[0] + parameters[1] * np.abs(x - parameters[2])

    best = int(y.argmin())
    starts = [(y.min(), 0.3, t) for t in np.linspace(x[best - 1], x[best + 1], 9)]
    fits = [optimize.least_squares(lambda p: np.sqrt(weights) * (vee(p) - y), start) for start in starts]
    v = min(fits, key=lambda fit: fit.cost).x
    shapes = [
        (np.polyval(coefficients, x), lambda r: slope * (r - tip) ** 2),
        (vee(v), lambda r: v[1] * np.abs(r - v[2])),
    ]
    df = len(x) - 3 + (0 if finals is None else len(finals) - 1)
    squares = 0 if finals is None else np.sum((finals - np.mean(finals)) ** 2)
    stream, total, weight = np.random.default_rng(1), 0.0, 0.0
    for around, loss in shapes:
        left = squares + weights @ (y - around) ** 2
        noise = math.sqrt(left / df) * stream.normal(size=(200_000, len(x)))
        e = loss(tuning_noise._choose(x, around + noise)[0])
        total += left ** (-df / 2) * (np.var(e) + np.mean(e) ** 2 / 4)
        weight += left ** (-df / 2)
    return math.sqrt(total / weight)


@pytest.mark.parametrize("finals", [None, np.array([2.4, 2.45, 2.41, 2.47])])
def test_tuning_sd_is_the_rule_written_plainly(finals, monkeypatch):
    monkeypatch.setattr(tuning_noise, "REDRAWS", 200_000)
    found = fit_and_refine(RATES, VALUES, finals=finals).tuning_sd
    assert found == pytest.approx(plain_luck(RATES, VALUES, finals), rel=0.01)


def test_a_clean_vee_has_luck_where_a_clean_parabola_has_none():
    """Without any noise: the fit chooses beside the tip of a V, and half of what that loses is the tuning sd."""
    for rates in (RATES, RATES[:4]):
        exact = 2.0 + 0.3 * np.abs(rates + 7.5)
        found = fit_and_refine(rates, exact, finals=[2.0] * 8)
        loss = 0.3 * abs(found.log_rate + 7.5)
        assert loss > 0.01
        assert found.tuning_sd == pytest.approx(loss / 2, rel=0.02)


def test_finals_say_how_exactly_a_shape_is_followed():
    """Quiet ones leave less luck, loud ones more; trials that neither shape explains leave them out."""
    trials = RATES, 2.0 + 0.3 * (RATES + 7.3) ** 2 + 1e-3 * np.array([1, -1, 1, -1, 1])
    finals = (None, [1.999, 2.001] * 4, [1.8, 2.2] * 4, [2.0 - 1e-5, 2.0 + 1e-5] * 4)
    alone, quiet, loud, silent = (fit_and_refine(*trials, finals=f).tuning_sd for f in finals)
    assert quiet < alone < loud
    assert silent == alone


def test_three_finite_trials_take_the_noise_from_the_finals():
    trials = ([0.0, 1.0, 2.0, 3.0], [0.6, 0.0, 0.3, math.nan])
    unknown, known = fit_and_refine(*trials), fit_and_refine(*trials, finals=[0.0, 0.01, -0.01, 0.02])
    assert unknown.log_rate == known.log_rate
    assert unknown.tuning_sd == selection_sd(trials[1])
    assert 0 < known.tuning_sd < 0.05 < unknown.tuning_sd


def test_finals_do_not_change_the_choice():
    assert fit_and_refine(RATES, VALUES, finals=[9.0, 1.0]).log_rate == fit_and_refine(RATES, VALUES).log_rate


@pytest.mark.parametrize(
    ("rates", "values", "better", "sentence"),
    [
        ([0.0, 1.0], [1.0], "lower", r"values: got shape \(1,\) for rates of \(2,\)"),
        ([0.0, -math.inf], [1.0, 2.0], "lower", "log_rates: got one that is no number"),
        ([0.0, 1.0], [math.nan, math.inf], "lower", "values: got no number; allowed: at least one trial"),
        ([0.0, 1.0], [1.0, 2.0], "min", "better: got 'min'"),
    ],
)
def test_refusals(rates, values, better, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_and_refine(rates, values, better)


def test_how_far_a_trial_exploded_does_not_matter():
    values = np.array([0.9, 0.5, 0.0, 7.0])  # ten times the median, 0.7
    for worse in (7.001, 70.0, 899.0):
        assert selection_sd([*values[:3], worse]) == pytest.approx(selection_sd(values), rel=1e-2)
    assert selection_sd([*values[:3], 6.0]) < 0.95 * selection_sd(values)


@pytest.mark.parametrize("rates", [[0.0, 1.0, 2.0, 3.0], [2.0, 1.0, 0.0, 3.0]])
@pytest.mark.parametrize("exploded", [[901.0], [30.0, 3e4 + 1], [1e8, 1e13]])
def test_an_exploded_trial_counts_as_diverged(rates, exploded):
    """Whether it ended in 1e13 or in NaN: the third trial from 1000 times 0.03, the fourth from 1000 times the third."""
    sane = [0.9, 0.0, 0.5] if len(exploded) == 1 else [0.03, 0.0]
    gone = [math.nan if e > 1000 * max(sane) else e for e in exploded]
    gone[-1] = math.nan
    finals = [0.0, 0.01, -0.01, 0.02]
    assert selection_sd([*sane, *exploded]) == selection_sd([*sane, *gone])
    assert fit_and_refine(rates, [*sane, *exploded], finals=finals) == fit_and_refine(
        rates, [*sane, *gone], finals=finals
    )


def test_a_trial_just_short_of_exploding_is_fitted():
    """A thousand times the next better one's excess is still a trial."""
    rates, finals = [0.0, 1.0, 2.0, 3.0], [0.0, 0.01, -0.01, 0.02]
    values = [0.5, 0.0, 0.9, 900.0]
    assert fit_and_refine(rates, values, finals=finals) != fit_and_refine(rates, [*values[:3], math.nan], finals=finals)


def test_parabolas_are_stable_where_a_weight_is_tiny():
    """Three trials of which one weighs 1e-16 of the others: the parabola still goes through all three."""
    x, y = np.array([0.0, 1.0, 2.0]), np.array([[1e-8, 0.0, 1.0]])
    ((c0, c1, c2),) = tuning_noise._parabolas(x, y, np.array([[0.5, 1.0, 1e-16]]))
    assert [c0 + c1 * v + c2 * v * v for v in x] == pytest.approx(y[0], abs=1e-7)


def test_selection_sd_refuses_what_never_ended_in_a_number():
    with pytest.raises(ValueError, match="values: got no number"):
        selection_sd([math.nan])


class Simulation:
    """Two arms whose best metric is the same at different rates: every better or worse is false.

    The metric rises with the distance from the best log-rate to the `power`: 2 is a parabola, 1 a V. Log-rates run
    over a factor 64 (6 octaves); optima lie within an octave of the middle; the edge is `edge` times a run's sd worse
    than a centered optimum; seeds are paired, with `correlation` between the arms' noise.
    """

    def __init__(self, trials, edge, correlation, power=2, seeds=8):
        self.trials, self.edge, self.correlation, self.power, self.seeds = trials, edge, correlation, power, seeds

    def excess(self, x, optimum):
        return self.edge * np.abs((x - optimum) / 3) ** self.power

    def study(self, stream):
        """Intervals of one study: of its seeds alone, and with tuning noise."""
        noise = stream.normal(size=(2, self.seeds))
        noise[1] = self.correlation * noise[0] + math.sqrt(1 - self.correlation**2) * noise[1]
        x = (np.arange(self.trials) + stream.uniform()) / self.trials * 6 - 3  # as ranges.points lays them
        finals, sds = [], []
        for arm in range(2):
            optimum = stream.uniform(-1, 1)
            tuned = self.excess(x, optimum) + stream.normal(size=self.trials)
            finals.append(self.excess(fit_and_refine(x, tuned).log_rate, optimum) + noise[arm])
            sds.append(fit_and_refine(x, tuned, finals=finals[-1]).tuning_sd)
        plain = simultaneous_paired_intervals({"arm": finals[0] - finals[1]})["arm"]
        return plain, widen(plain, sds[1], sds[0])

    def false_verdicts(self, repetitions, monkeypatch):
        """Rates of false verdicts without and with widening, and how much wider the median interval is."""
        monkeypatch.setattr(tuning_noise, "REDRAWS", 400)  # over so many studies, fewer will do
        stream, false, wider = np.random.default_rng(0), np.zeros(2), []
        for _ in range(repetitions):
            intervals = self.study(stream)
            false += [verdict(i.low, i.high, 1e-9) in ("better", "worse") for i in intervals]
            wider.append((intervals[1].high - intervals[1].low) / (intervals[0].high - intervals[0].low))
        return *(false / repetitions), float(np.median(wider))


@pytest.mark.parametrize(("power", "edge"), [(2, 6), (1, 6), (1, 30)])
def test_widening_keeps_tuning_luck_from_deciding(power, edge, monkeypatch):
    without, widened, _ = Simulation(4, edge, 0.8, power).false_verdicts(120, monkeypatch)
    assert without > 0.15
    assert widened < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize("edge", [1, 3, 6, 12, 30, 100])
@pytest.mark.parametrize("trials", [4, 6, 8])
@pytest.mark.parametrize("power", [2, 1])
def test_false_verdicts_of_tuned_arms(power, trials, edge, correlation, monkeypatch):
    repetitions = 500
    found = Simulation(trials, edge, correlation, power).false_verdicts(repetitions, monkeypatch)
    without, widened, wider = found
    print(
        f"power {power}, {trials} trials, edge {edge} sd, correlation {correlation}: false verdicts {without:.3f} "
        f"without, {widened:.3f} with tuning noise; median interval {wider:.2f} times as wide"
    )
    assert widened <= 0.1
