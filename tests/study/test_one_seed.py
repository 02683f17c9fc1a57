"""One run each: never a verdict; sentences that are true as often as they say, and ladders that cover."""

import math

import numpy as np
import pytest
from scipy import stats

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.study.one_run import Noise, noise_of
from regimes.study.trends import Rung, agreement, extrapolated

BASE = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="12 steps")
ARMS = {"base": BASE, "slow": BASE.but({"optimizer.lr": 0.1})}


def compared(folder, name="study", **asked):
    work = rg.workloads.load("quadratic")
    return rg.compare(work, ARMS, out=folder / name, name=name, progress=False, **{"margin": 0.01} | asked)


def test_one_seed_is_never_a_verdict_whatever_shows_it(tmp_path):
    study = compared(tmp_path, seeds=1)
    facts = study.to_dict()
    assert study.verdicts == {"slow": "none"}
    assert facts["sentence"].startswith("one run each: in val/loss slow ")
    assert facts["sentence"].endswith("how much of it the seed makes is not known; not a verdict.")
    assert facts["one_seed_sentence"] is None
    page = study.report(tmp_path / "page.html").read_text()
    for word in ("better", "worse", "undecided"):
        assert f'<span class="verdict {word}">' not in page
        assert word not in facts["sentence"]
    assert '<span class="verdict none">' in page
    assert "· none" in str(study)


def test_noise_is_borrowed_from_the_study_that_lies_beside_or_is_given(tmp_path):
    several = compared(tmp_path, "several", seeds=6)
    found = noise_of(several.to_dict())
    sides = [np.array(arm["values"]) for arm in several.to_dict()["arms"]]
    assert found.sd == pytest.approx(np.std(sides[0] - sides[1], ddof=1), rel=1e-12)
    for asked in ({}, {"noise": several}, {"noise": tmp_path / "several"}):
        one = compared(tmp_path, "one", seeds=[77], **asked).to_dict()
        comparison = one["arms"][1]["comparison"]
        assert comparison["noise"]["sd"] == found.sd
        times = abs(comparison["difference"]) / found.sd
        chance = 2 * stats.t.sf(times, 5)
        assert f"{times:.1f} times the noise seen at 5 parameters, 12 steps (6 seeds of several)" in one["sentence"]
        share = f"{chance:.1%}" if chance >= 0.001 else "under 0.1%"
        assert f"exceeds in {share} of pairs; not a verdict" in one["sentence"]


def test_what_cannot_lend_is_refused(tmp_path):
    one = compared(tmp_path, "one", seeds=1)
    for asked, said in (
        ({"seeds": 1, "noise": one}, "noise: has no 3 paired seeds"),
        ({"seeds": 1, "noise": tmp_path / "nowhere"}, "noise: got "),
        ({"seeds": 6, "noise": one}, "noise: is lent to one run each alone"),
        ({"seeds": 3}, "seeds: got 3; allowed: at least 6 seeds"),
        ({"seeds": 3, "assume": "luck"}, "assume: got 'luck'; allowed: 'normal', or nothing"),
    ):
        with pytest.raises(DeclarationError) as caught:
            compared(tmp_path, "other", **asked)
        assert str(caught.value).startswith(said)
    few = compared(tmp_path, "few", seeds=3, assume="normal").to_dict()
    lamp = next(lamp for lamp in few["lamps"] if lamp["name"] == "enough seeds")
    assert not lamp["ok"]


@pytest.mark.parametrize("seeds", [4, 8, 30])
def test_times_the_noise_is_wrong_as_often_as_it_says(seeds):
    """Pairs that noise alone tells apart: how often a difference is 2 times the lent noise or more."""
    stream, pairs = np.random.default_rng(seeds), 20_000
    lent = stream.standard_normal((pairs, seeds)).std(1, ddof=1)
    above = np.abs(stream.standard_normal(pairs)) >= 2 * lent
    told = Noise(1.0, seeds - 1, "").chance(2.0)
    interval = stats.binomtest(int(above.sum()), pairs).proportion_ci(0.999)
    assert interval.low <= told <= interval.high


def rung(stream, size, n, law, sd):
    gains = law(math.log2(size)) + sd * stream.standard_normal(n)
    return Rung(size, float(gains.mean()), float(gains.std(ddof=1)) if n > 1 else math.nan, n)


@pytest.mark.parametrize("sds", [(0.02, 0.02, 0.02), (0.04, 0.02, 0.01)])
@pytest.mark.parametrize("seeds", [(8, 5, 3), (6, 6, 6)])
def test_the_extrapolated_gap_covers_a_planted_law(seeds, sds):
    stream, repetitions = np.random.default_rng(3), 2000
    sizes = (1e5, 4e5, 1.6e6)

    def law(x):
        return 0.2 - 0.008 * x

    hits = 0
    for _ in range(repetitions):
        found = extrapolated([rung(stream, s, n, law, sd) for s, n, sd in zip(sizes, seeds, sds)], 6.4e6, 0.9)
        hits += found.low <= law(math.log2(6.4e6)) <= found.high
    interval = stats.binomtest(hits, repetitions).proportion_ci(0.999)
    assert interval.high >= 0.9  # never less than it says
    assert interval.low <= 0.935  # nor much more


@pytest.mark.parametrize("last", [1, 3])
def test_the_largest_agrees_as_often_as_it_says(last):
    stream, repetitions, agrees = np.random.default_rng(4), 2000, 0
    for _ in range(repetitions):
        rungs = [rung(stream, s, n, lambda x: 0.1 - 0.004 * x, 0.02) for s, n in ((1e5, 8), (4e5, 5), (1.6e6, last))]
        agrees += agreement(rungs, 0.9).agrees
    interval = stats.binomtest(agrees, repetitions).proportion_ci(0.999)
    # The sd that a single seed is lent is the larger of two: it agrees a little too often, never too rarely.
    assert interval.high >= 0.9
    assert interval.low <= 0.95


def test_a_line_through_equal_rungs_is_statsmodels_weighted_fit():
    sm = pytest.importorskip("statsmodels.api")
    rungs = [Rung(1e5, 0.08, 0.01, 8), Rung(1e6, 0.05, 0.01, 5), Rung(4e6, 0.055, 0.01, 3)]
    x = np.log2([r.size for r in rungs])
    fit = sm.WLS([r.gap for r in rungs], sm.add_constant(x), weights=[r.n for r in rungs]).fit()
    found = extrapolated(rungs, 1e7)
    assert found.expected == pytest.approx(float(fit.predict([1.0, math.log2(1e7)])[0]), abs=1e-10)
    assert found.slope == pytest.approx(fit.params[1], abs=1e-10)


def test_a_ladder_of_real_runs_says_gaps_and_agreement(tmp_path):
    found = rg.ladder(
        lambda size: rg.workloads.load("quadratic", examples=size), ARMS, sizes=[64, 128, 256], seeds=[6, 3, 1],
        margin=0.01, out=tmp_path, progress=False,
    )  # fmt: skip
    assert [rung.n for rung in found.rungs("slow")] == [6, 3, 1]
    assert "slow against base in val/loss: " in str(found)
    assert "(1 seed); the sizes below expect" in str(found)
    assert found.studies[-1].to_dict()["arms"][1]["comparison"]["noise"]["df"] == 2
    for asked, said in (({"sizes": [2, 1]}, "sizes: got [2, 1]"), ({"sizes": [1, 2]}, "seeds: got 3 for 2 sizes")):
        with pytest.raises(DeclarationError) as caught:
            rg.ladder(None, ARMS, **{"sizes": [1, 2, 3], "seeds": [6, 3, 1], "margin": 0.1} | asked)
        assert str(caught.value).startswith(said)
