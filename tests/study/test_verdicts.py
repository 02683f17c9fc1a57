"""The four words over their whole truth table, diverged runs, improvements."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from regimes.study.intervals import open_to_diverged, simultaneous_paired_intervals
from regimes.study.sign_flip import least_seeds, sign_flip_p
from regimes.study.verdicts import claim_outcome, improvement, one_seed_wins, rank_diverged, verdict

EDGE = math.nextafter(1.0, 0.0)  # the last number below the margin 1

# Rows: where low lies; columns: where high lies. Every cell of the two cuts at -m, 0, m, the borders apart.
TABLE = """
low\\high  -3         -1         -EDGE      0          EDGE       1          3
-4         worse      worse      worse      undecided  undecided  undecided  undecided
-1         -          worse      worse      undecided  undecided  undecided  undecided
-EDGE      -          -          same       same       same       undecided  undecided
0          -          -          -          same       same       undecided  undecided
TINY       -          -          -          -          same       better     better
1          -          -          -          -          -          better     better
2          -          -          -          -          -          -          better
"""
NUMBERS = {"EDGE": EDGE, "-EDGE": -EDGE, "TINY": 5e-324}


def cells():
    head, *rows = [line.split() for line in TABLE.strip().splitlines()]
    for row in rows:
        for high, word in zip(head[1:], row[1:]):
            if word != "-":
                yield NUMBERS.get(row[0]) or float(row[0]), NUMBERS.get(high) or float(high), word


@pytest.mark.parametrize(("low", "high", "word"), list(cells()))
def test_truth_table(low, high, word):
    assert verdict(low, high, 1.0) == word
    mirrored = {"better": "worse", "worse": "better"}.get(word, word)
    assert verdict(-high, -low, 1.0) == mirrored


def test_the_table_is_the_rule_of_the_design():
    """The rule as it is written, evaluated on its own: exactly one word holds on every cell."""
    for low, high, word in cells():
        rule = {
            "same": low > -1 and high < 1,
            "better": low > 0 and high >= 1,
            "worse": high < 0 and low <= -1,
        }
        assert [name for name, holds in rule.items() if holds] == ([] if word == "undecided" else [word])


def test_whole_line_is_undecided():
    assert verdict(-math.inf, math.inf, 0.1) == "undecided"
    assert verdict(0.2, math.inf, 0.1) == "better"


@pytest.mark.parametrize(("low", "high", "outcome"), [
    (1e-9, 1.0, "shown"), (2.0, 3.0, "shown"), (0.0, 1.0, "inconclusive"), (-1.0, 1.0, "inconclusive"),
    (1e-9, EDGE, "contradicted"), (-0.5, 0.5, "contradicted"), (-9.0, EDGE, "contradicted"), (-3.0, -2.0, "contradicted"),
    (-math.inf, math.inf, "inconclusive"),
])  # fmt: skip
def test_claim(low, high, outcome):
    assert claim_outcome(low, high, 1.0) == outcome


@pytest.mark.parametrize(("low", "high", "outcome"), [
    (-EDGE, 3.0, "shown"), (-0.5, 0.5, "shown"), (-EDGE, -0.1, "shown"), (1.0, 2.0, "shown"),
    (-1.0, 1.0, "inconclusive"), (-3.0, -EDGE, "inconclusive"), (-math.inf, math.inf, "inconclusive"),
    (-3.0, -1.0, "contradicted"), (-math.inf, -2.0, "contradicted"),
])  # fmt: skip
def test_a_claim_that_says_not_worse(low, high, outcome):
    """The mirror of contradicting that an arm is better: swap the arms, and each is the other."""
    assert claim_outcome(low, high, 1.0, "not worse") == outcome
    swapped = claim_outcome(-high, -low, 1.0)
    assert (outcome == "shown") == (swapped == "contradicted")


@pytest.mark.parametrize("margin", [0, -0.1, math.nan, math.inf])
def test_a_margin_is_above_zero(margin):
    for judge in (verdict, claim_outcome, lambda *ends: claim_outcome(*ends, "not worse")):
        with pytest.raises(ValueError, match=r"margin: got .*above 0"):
            judge(0.0, 1.0, margin)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (math.nan, 1.0), (0.0, math.nan)])
def test_an_interval_has_two_ends_in_order(low, high):
    with pytest.raises(ValueError, match="allowed: low at most high"):
        verdict(low, high, 0.1)


def test_improvement_is_positive_where_the_arm_is_better():
    arm, base = np.array([1.0, 3.0]), np.array([2.0, 2.5])
    assert improvement(arm, base).tolist() == [1.0, -0.5]
    assert improvement(arm, base, "higher").tolist() == [-1.0, 0.5]
    with pytest.raises(ValueError, match=r"got shape \(1,\), the baseline has \(2,\)"):
        improvement([1.0], base)
    with pytest.raises(ValueError, match="better: got 'max'; allowed: 'lower' or 'higher'"):
        improvement(arm, base, "max")


def test_one_seed_wins_counts_no_ties():
    assert [one_seed_wins(d) for d in ([], [0.0, -1.0], [1e-300, 2.0, 0.0])] == [0, 0, 2]


@pytest.mark.parametrize(("margin", "penalty"), [(0.1, 3.0), (0.75, 3.0), (0.8, 3.2), (5.0, 20.0)])
def test_diverged_runs_are_worse_than_the_worst_by_the_range_or_a_margin_per_seed(margin, penalty):
    base, arm = [2.0, 5.0, 2.5, math.inf], [3.0, math.nan, 4.0, -math.inf]
    ranked = rank_diverged(arm, base, "lower", margin)
    assert ranked.arm.tolist() == [3.0, 5.0 + penalty, 4.0, 5.0 + penalty]
    assert ranked.baseline.tolist() == [2.0, 5.0, 2.5, 5.0 + penalty]
    assert (ranked.penalty, ranked.diverged, ranked.both) == (penalty, 3, 1)
    assert math.isnan(arm[1])
    mirrored = rank_diverged(-np.array(arm), -np.array(base), "higher", margin)
    assert (mirrored.arm == -ranked.arm).all()
    assert (mirrored.baseline == -ranked.baseline).all()


def test_where_everything_or_nothing_diverged_nothing_is_replaced():
    ranked = rank_diverged([math.inf, math.nan], [math.nan, math.nan], "lower", 0.1)
    assert not np.isfinite([ranked.arm, ranked.baseline]).any()
    assert (ranked.diverged, ranked.both) == (4, 2)
    whole = rank_diverged([1.0, 2.0], [2.0, 2.0], "higher", 0.1)
    assert (whole.arm.tolist(), whole.baseline.tolist(), whole.diverged, whole.both) == ([1.0, 2.0], [2.0, 2.0], 0, 0)


def test_ranking_refuses_unequal_seeds_and_no_margin():
    with pytest.raises(ValueError, match=r"got shape \(1,\), the baseline has \(2,\)"):
        rank_diverged([1.0], [1.0, 2.0], "lower", 0.1)
    with pytest.raises(ValueError, match="margin: got 0"):
        rank_diverged([1.0], [1.0], "lower", 0)


def judged(arm, base, margin, level=0.95, comparisons=1):
    """The verdict on an arm and its interval, as a study of `comparisons` arms finds it."""
    ranked = rank_diverged(arm, base, "lower", margin)
    gain = improvement(ranked.arm, ranked.baseline)
    family = {"arm": gain} | {f"other {i}": np.zeros(len(gain)) for i in range(comparisons - 1)}
    plain = simultaneous_paired_intervals(family, level)["arm"]
    found = open_to_diverged(plain, ranked, sign_flip_p(gain))
    return verdict(found.low, found.high, margin)


def test_a_pair_that_diverged_is_never_the_same():
    """Patterns of divergence over 6 seeds, between equal, close and distant arms; narrow and wide margins."""
    stream = np.random.default_rng(0)
    words, patterns = set(), list(itertools.product(range(64), range(64)))[1:]
    for lost, lost_base in patterns[::8] + patterns[-64:]:
        masks = [np.array([number >> place & 1 for place in range(6)], bool) for number in (lost, lost_base)]
        for shift, noise, margin in ((0.0, 0.0, 0.5), (0.0, 0.3, 9.0), (0.2, 0.01, 0.5), (-3.0, 0.5, 0.4)):
            base = 2.0 + stream.normal(size=6)
            arm = base + shift + noise * stream.normal(size=6)
            words.add(judged(np.where(masks[0], math.nan, arm), np.where(masks[1], math.nan, base), margin))
    assert words == {"better", "worse", "undecided"}


@pytest.mark.parametrize("comparisons", [1, 3, 6])
def test_an_arm_that_always_diverged_is_worse_from_the_least_seeds_on(comparisons):
    for n in range(2, 20):
        base = 2.0 + np.random.default_rng(n).normal(size=n)
        lost = np.full(n, math.nan)
        enough = n >= least_seeds(0.95, comparisons)
        for margin in (1e-6, 0.3, 1e3):
            assert judged(lost, base, margin, comparisons=comparisons) == ("worse" if enough else "undecided")
            assert judged(base, lost, margin, comparisons=comparisons) == ("better" if enough else "undecided")
            assert judged(lost, lost, margin, comparisons=comparisons) == "undecided"


def test_one_diverged_seed_alone_decides_nothing_and_eight_do():
    def word(bad):
        arm = np.linspace(1.99, 2.01, 8) ** 2 / 2
        arm[:bad] = math.nan
        return judged(arm, np.linspace(2.01, 2.03, 8), 0.005)

    assert [word(bad) for bad in (0, 1, 8)] == ["better", "undecided", "worse"]


def test_equal_arms_that_diverge_by_chance_are_rarely_told_apart():
    """Both lose any run with the same probability, and are equal otherwise: every better or worse is false."""
    stream, repetitions = np.random.default_rng(1), 1000
    for chance in (0.1, 0.3, 0.6):
        false = 0
        for _ in range(repetitions):
            runs = np.where(stream.uniform(size=(2, 8)) < chance, math.nan, stream.normal(size=(2, 8)))
            false += judged(*runs, margin=1e-9) in ("better", "worse")
        assert stats.binomtest(false, repetitions, 0.05, "greater").pvalue > 1e-3, chance
