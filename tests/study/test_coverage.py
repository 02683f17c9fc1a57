"""Coverage of every interval by simulation: normal, heavy-tailed and skewed runs, and runs that diverge.

`pytest -m slow tests/study/test_coverage.py -s` prints the table; looks, ladders, lent and tuning noise are simulated in
test_looks.py, test_one_seed.py, test_own_noise.py and test_tuning_noise.py.
"""

import math

import numpy as np
import pytest
from scipy import stats

from regimes.study.evaluation_noise import _draws
from regimes.study.intervals import (
    open_to_diverged,
    paired_interval,
    simultaneous_paired_intervals,
    unpaired_interval,
)
from regimes.study.sign_flip import sign_flip_p
from regimes.study.verdicts import improvement, rank_diverged

REPETITIONS = 4000
#: Runs of an arm around its mean: light tails, heavy ones (variance just finite), and a long tail to one side.
RUNS = {
    "normal": lambda stream, shape: stream.normal(size=shape),
    "t with 3 degrees of freedom": lambda stream, shape: stream.standard_t(3, size=shape),
    "lognormal": lambda stream, shape: stream.lognormal(sigma=0.7, size=shape) - math.exp(0.7**2 / 2),
}


def told(name, hits, repetitions=REPETITIONS):
    """Print and return the 99.9% interval of a coverage."""
    found = stats.binomtest(int(hits), repetitions).proportion_ci(0.999)
    print(f"{name}: {hits / repetitions:.4f} [{found.low:.4f}, {found.high:.4f}]")
    return found


def holds(interval, truth):
    return interval.low <= truth <= interval.high


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 8, 16])
@pytest.mark.parametrize("kind", RUNS)
def test_paired(kind, n):
    """Arms share what a seed brings to both; the truth is an improvement of 0.3."""
    stream, hits = np.random.default_rng(n), 0
    for _ in range(REPETITIONS):
        shared, own, base = RUNS[kind](stream, (3, n))
        hits += holds(paired_interval((shared + base) - (shared + own - 0.3)), 0.3)
    found = told(f"paired, {n} seeds, {kind}", hits)
    assert found.high >= 0.95  # differences of alike runs are symmetric: heavier tails make it wider, not narrower
    assert kind != "normal" or found.low <= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_simultaneous(kind):
    """Three arms against one baseline: all of their intervals hold together."""
    stream, hits = np.random.default_rng(1), 0
    for _ in range(REPETITIONS):
        runs = RUNS[kind](stream, (4, 6))
        found = simultaneous_paired_intervals({str(arm): runs[0] - runs[arm] for arm in (1, 2, 3)})
        hits += all(holds(interval, 0.0) for interval in found.values())
    assert told(f"three arms, 6 seeds, {kind}", hits).high >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 4.0])
@pytest.mark.parametrize(("n", "m"), [(8, 8), (4, 10)])
@pytest.mark.parametrize("kind", RUNS)
def test_unpaired(kind, n, m, ratio):
    """Arms of different numbers of runs and different spreads; Welch's interval is an approximation."""
    stream, hits = np.random.default_rng(2), 0
    for _ in range(REPETITIONS):
        arm, base = RUNS[kind](stream, n) - 0.3, ratio * RUNS[kind](stream, m)
        hits += holds(unpaired_interval(arm, base, "lower", 0.95), 0.3)
    found = told(f"unpaired, {n} and {m} runs, spreads 1 to {ratio:g}, {kind}", hits)
    # Skewness of few runs is what no t interval knows: it is said in docs/deciding.md, with these numbers.
    assert found.high >= (0.95 if kind != "lognormal" else 0.88)


@pytest.mark.slow
@pytest.mark.parametrize("chance", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("kind", RUNS)
def test_paired_with_divergences(kind, chance):
    """Equal arms that lose runs alike: zero is inside as often as said."""
    stream, hits = np.random.default_rng(3), 0
    for _ in range(REPETITIONS):
        runs = np.where(stream.uniform(size=(2, 8)) < chance, math.nan, RUNS[kind](stream, (2, 8)))
        ranked = rank_diverged(*runs, "lower", 0.01)
        gain = improvement(ranked.arm, ranked.baseline)
        found = open_to_diverged(simultaneous_paired_intervals({"arm": gain})["arm"], ranked, sign_flip_p(gain))
        hits += holds(found, 0.0)
    assert told(f"paired, 8 seeds, each lost with chance {chance}, {kind}", hits).high >= 0.95


@pytest.mark.slow
def test_adding_seeds_until_a_verdict_comes():
    """Without any effect: what a study says of itself that was extended after a verdict (`regimes.study.earlier`)."""
    stream, wrong, fixed, repetitions = np.random.default_rng(5), 0, 0, 10_000
    for _ in range(repetitions):
        gains = stream.normal(size=24)
        words = [holds(paired_interval(gains[:n]), 0.0) for n in range(8, 25, 2)]
        fixed += not words[0]
        wrong += not all(words)
    told("8 seeds, without", fixed, repetitions)
    found = told("8 seeds and two more at a time up to 24, falsely decided", wrong, repetitions)
    assert found.low <= 0.15 <= found.high + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["normal", "t with 3 degrees of freedom"])
def test_evaluation_noise(spread):
    """Data sets of 120 groups from one population: the bootstrap covers the difference of the population."""
    stream, hits, repetitions = np.random.default_rng(4), 0, 2000
    for _ in range(repetitions):
        mass = stream.integers(1, 9, 120).astype(float)
        one, other = (mass * (1.0 + level + 0.3 * RUNS[spread](stream, 120)) for level in (0.0, 0.05))
        ends = np.quantile(_draws(np.stack([one, other, mass])), [0.025, 0.975])
        hits += ends[0] <= -0.05 <= ends[1]
    assert told(f"evaluation noise, 120 groups, {spread}", hits, repetitions).high >= 0.94  # a percentile bootstrap
