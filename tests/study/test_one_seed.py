"""One run each: never a verdict; sentences that are true as often as they say, and ladders that cover."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.study.arms import Arm
from regimes.study.ladder import Ladder
from regimes.study.one_run import Noise, lender_of, noise_of
from regimes.study.own import Own
from regimes.study.tasks import Outcome, Task
from regimes.study.trends import Rung, agreement, extrapolated
from regimes.study.verdicts import improvement, rank_diverged

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


def lending(name, values, base=(2.0, 2.2, 2.1, 2.3), seeds=None, **others):
    """Facts of a study that could lend: arms by name against a baseline."""
    arms = [{"name": "base", "values": list(base)}, *({"name": n, "values": list(v)} for n, v in values.items())]
    facts = {"name": name, "baseline": "base", "better": "lower", "metric": "val/loss", "paired": True, "arms": arms}
    setting = {"name": "work", "fingerprint": "d1", "scale": "5 parameters, 12 steps"}
    return facts | {"seeds": list(range(len(base))), "workload": setting} | others


SUBJECT = SimpleNamespace(
    name="work", fingerprint=lambda: {"train": "d1"}, facts=lambda budget: {"scale": f"5 parameters, {budget}"}
)
DESIGN = SimpleNamespace(metric="val/loss", better="lower", budget="12 steps")


def placed(folder, *studies):
    for facts in studies:
        (folder / facts["name"]).mkdir()
        (folder / facts["name"] / "study.json").write_text(json.dumps(facts))
    return folder / "mine"


def test_noise_has_the_degrees_of_freedom_of_the_arm_that_has_fewest():
    long = lending("s", {"a": [2.1, 2.0, 2.3, 2.2], "b": [1.9, None, 2.2, 2.0]})
    assert (noise_of(long).df, noise_of(long, "a").df, noise_of(long, "b").df) == (2, 3, 2)
    assert "(3 seeds of s)" in noise_of(long).where
    assert noise_of(long, "c").where.endswith("(3 seeds of s, its other arms)")
    sds = [np.std(np.subtract(base, arm), ddof=1) for base, arm in (
        ([2.0, 2.2, 2.1, 2.3], [2.1, 2.0, 2.3, 2.2]), ([2.0, 2.1, 2.3], [1.9, 2.2, 2.0]),
    )]  # fmt: skip
    assert noise_of(long).sd == pytest.approx(np.sqrt(np.mean(np.square(sds))), rel=1e-12)
    assert noise_of(lending("s", {"a": [2.1, None, None, 2.2]})) is None


@pytest.mark.parametrize(
    "values",
    [[2.0, 2.2, 2.1, 2.3], [2.5, 2.7, 2.6, 2.8]],
    ids=["equal to the baseline", "the same difference on every seed"],
)
def test_seeds_that_changed_nothing_lend_nothing(tmp_path, values):
    """An sd of 0 made every difference "far above the noise"."""
    still = lending("still", {"a": values})
    assert noise_of(still) is None
    with pytest.raises(DeclarationError, match="noise: has no 3 paired seeds .* and changed something"):
        lender_of(Lending(still), None, SUBJECT, DESIGN)
    assert lender_of(None, placed(tmp_path, still), SUBJECT, DESIGN) is None
    repeated = lending("repeated", {"a": [2.0, 2.1, 2.4, 2.0]})
    assert noise_of(repeated) is not None
    repeated["arms"][1]["repeats"] = True
    assert noise_of(repeated) is None
    mixed = lending("mixed", {"a": values, "b": [2.1, 2.0, 2.3, 2.2]})
    assert noise_of(mixed, "a").where.endswith("(4 seeds of mixed, its other arms)")


class Lending:
    def __init__(self, facts):
        self.to_dict = lambda: facts


def test_of_studies_beside_the_one_with_most_seeds_of_the_same_setting_lends(tmp_path):
    more = (2.0, 2.2, 2.1, 2.3, 2.2, 2.0)
    few = lending("a-few", {"a": [2.1, 2.0, 2.3, 2.2]})
    many = lending("b-many", {"a": [2.1, 2.0, 2.3, 2.2, 2.4, 2.1]}, more)
    seeming = lending("c-seeming", {"a": [2.1, 2.0, 2.3, None, None, None]}, more)  # six seeds, three pairs
    mine = placed(tmp_path, few, many, seeming)
    assert lender_of(None, mine, SUBJECT, DESIGN).lend("a")["where"] == "5 parameters, 12 steps (6 seeds of b-many)"
    assert lender_of(None, None, SUBJECT, DESIGN) is None
    (tmp_path / "b-many" / "study.json").unlink()
    assert lender_of(None, mine, SUBJECT, DESIGN).lend("a")["df"] == 3


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"name": "else"}, " of else, not of work"),
        ({"fingerprint": "d2"}, ", on other data than these"),
        ({"scale": "5 parameters, 24 steps"}, ", another scale than this"),
    ],
)
def test_noise_of_another_setting_is_lent_only_where_it_is_named_and_says_so(tmp_path, other, said):
    facts = lending("s", {"a": [2.1, 2.0, 2.3, 2.2]})
    facts["workload"] |= other
    assert lender_of(None, placed(tmp_path, facts), SUBJECT, DESIGN) is None
    lent = lender_of(tmp_path / "s", None, SUBJECT, DESIGN).lend("a")
    assert lent["where"] == f"{facts['workload']['scale']} (4 seeds of s){said}"
    for wrong, text in (
        ({"metric": "val/acc"}, "noise: is of val/acc"),
        ({"better": "higher"}, "noise: takes higher val/loss"),
    ):
        with pytest.raises(DeclarationError, match=text):
            lender_of(Lending(facts | wrong), None, SUBJECT, DESIGN)
        (tmp_path / "s" / "study.json").write_text(json.dumps(lending("s", {"a": [2.1, 2.0, 2.3, 2.2]}) | wrong))
        assert lender_of(None, tmp_path / "mine", SUBJECT, DESIGN) is None


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


# -- ladders with runs that diverged --------------------------------------------------------------------------------------


def study_of(base, arm, better="lower", margin=0.1, failed=False):
    """A study of two arms, judged by the judge; None diverged."""
    given = {"base": base, "a": arm}
    design = SimpleNamespace(
        metric="val/loss", tuning_metric="val/loss", better=better, level=0.95, baseline="base", margin=margin, trials=0,
        seeds=range(len(base)), ranges={}, equal="steps", budget="12 steps", paired=True, looks=None,
    )  # fmt: skip
    arms = [
        Arm(name, BASE, BASE, [
            Outcome(Task(name, BASE, seed), {"val/loss": math.nan if v is None else v}, [], [], {}, 12, 96, 1.0, "", False,
                    failure="disk full" if failed and name == "a" and seed == 0 else None)
            for seed, v in enumerate(values)
        ], [])
        for name, values in given.items()
    ]  # fmt: skip
    return rg.Study.of(design, "s", Own(rg.workloads.load("quadratic"), {}), arms, None, None, [])


GOOD = study_of([2.0, 2.2, 2.1, 2.3], [1.5, 1.8, 1.6, 1.7])


@pytest.mark.parametrize(("better", "sign"), [("lower", 1), ("higher", -1)])
def test_a_run_that_diverged_counts_as_worst_on_its_rung_and_is_said(better, sign):
    """It was dropped with its pair: an arm that failed on three of four seeds had the gap of the fourth."""
    base, arm = [2.0, 2.2, 2.1, 2.3], [1.5, None, None, None]
    signed = [None if v is None else sign * v for v in arm]
    lost = study_of([sign * v for v in base], signed, better)
    rungs = Ladder([1e5], [lost], 0.95).rungs("a")
    ranked = rank_diverged([math.nan if v is None else v for v in signed], [sign * v for v in base], better, 0.1)
    gains = improvement(ranked.arm, ranked.baseline, better)
    assert (rungs[0].gap, rungs[0].n, rungs[0].diverged) == (pytest.approx(gains.mean(), abs=1e-12), 4, 3)
    assert rungs[0].gap == pytest.approx(lost.to_dict()["arms"][1]["comparison"]["difference"])
    assert rungs[0].gap < 0


@pytest.mark.parametrize("place", range(3))
def test_no_trend_is_drawn_through_runs_that_diverged(place):
    lost = study_of([2.0, 2.2, 2.1, 2.3], [1.5, None, 1.6, 1.7])
    studies = [GOOD, GOOD, GOOD]
    assert Ladder([1, 2, 4], studies, 0.95).agreement("a") is not None
    studies[place] = lost
    found = Ladder([1, 2, 4], studies, 0.95)
    assert found.agreement("a") is None
    assert f"at {2**place} in rank (4 seeds, 1 of 8 runs diverged)" in str(found)
    assert str(found).endswith("; runs that diverged count as worst, which has a rank and no size: no trend")
    assert found.to_dict()["arms"]["a"]["rungs"][place]["diverged"] == 1
    for judged in (agreement, lambda rungs: extrapolated(rungs, 8)):
        with pytest.raises(ValueError, match="got one whose runs diverged"):
            judged(found.rungs("a"))


def test_a_size_at_which_nothing_ended_or_a_run_failed_has_no_gap():
    nothing = study_of([None] * 4, [None] * 4)
    assert "no number at 2 in rank (4 seeds, 8 of 8 runs diverged)" in str(
        Ladder([1, 2, 4], [GOOD, nothing, GOOD], 0.95)
    )
    failed = study_of([2.0, 2.2, 2.1, 2.3], [None, 1.8, 1.6, 1.7], failed=True)
    found = Ladder([1, 2, 4, 8], [GOOD, GOOD, GOOD, failed], 0.95)
    assert [rung.size for rung in found.rungs("a")] == [1, 2, 4]
    assert found.agreement("a") is None  # not that of the sizes that are left
    assert str(found).endswith("; not judged at 8, where runs failed: no trend")
