"""Looking early: boundaries against integrals, error and coverage by simulation, and studies that really stop."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.study.intervals import paired_interval
from regimes.study.looks import Looks, bill, bounds, spent
from regimes.study.verdicts import verdict


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.05 / 6])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_two_looks_are_those_of_the_bivariate_normal(alpha, share):
    """The first bound is a quantile; what is left at the second is an integral over the first."""
    first, second = bounds((share, 1.0), alpha)
    assert first == pytest.approx(stats.norm.isf(alpha * share**2 / 2), abs=1e-10)

    def stays(z):
        mean, sd = math.sqrt(share) * z, math.sqrt(1 - share)
        return stats.norm.pdf(z) * (stats.norm.cdf((second - mean) / sd) - stats.norm.cdf((-second - mean) / sd))

    kept, _ = integrate.quad(stays, -first, first, epsabs=1e-13, epsrel=1e-13)
    assert 1 - kept == pytest.approx(alpha, abs=1e-10)


def test_one_look_is_the_fixed_design():
    looks = Looks((8,), 0.95)
    assert bounds((1.0,), 0.05)[0] == pytest.approx(stats.norm.isf(0.025), abs=1e-12)
    assert looks.level_at(8) == pytest.approx(0.95, abs=1.5e-3)  # the scale of t is found by simulation


def test_five_looks_are_the_published_ones():
    """Jennison and Turnbull 2000, table 7.3 (power family, rho = 2, five equal looks), as z values of 0.05 spent."""
    shares = tuple((j + 1) / 5 for j in range(5))
    spends = np.diff([0.0, *(spent(t, 0.05) for t in shares)])
    stream = np.random.default_rng(5)
    moves = stream.standard_normal((400_000, 5)).cumsum(1) / np.sqrt(np.arange(1, 6))
    inside, first = np.ones(len(moves), bool), []
    for z, c in zip(moves.T, bounds(shares, 0.05)):
        first.append(np.mean(inside & (np.abs(z) >= c)))
        inside &= np.abs(z) < c
    assert np.abs(np.array(first) - spends).max() < 5 * math.sqrt(0.02 / 400_000)


def studies(looks, effect, margin, draw, repetitions=4000, seed=1):
    """(false, covered, verdicts, seeds) of simulated studies that stop when decided, by the interval of each look."""
    stream = np.random.default_rng(seed)
    words, used, covered = [], [], []
    for _ in range(repetitions):
        d, word, n = effect + draw(stream, looks.sizes[-1]), "undecided", looks.sizes[-1]
        within = True
        for size in looks.sizes:
            found = paired_interval(d[:size], looks.level_at(size), looks.comparisons)
            within &= found.low <= effect <= found.high
            if word == "undecided":
                word, n = verdict(found.low, found.high, margin), size
        words.append(word)
        used.append(n)
        covered.append(within)
    return np.array(words), np.array(used), np.array(covered)


def normal(stream, n):
    return stream.standard_normal(n)


def heavy(stream, n):
    return stream.standard_t(3, n) / math.sqrt(3)


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "most"), [(normal, 0.05), (heavy, 0.05)])
def test_null_stays_at_its_level_with_stopping(draw, most):
    looks = Looks.up_to(24, 0.95, 1)
    words, _, covered = studies(looks, 0.0, 1e-9, draw)
    false = np.mean((words == "better") | (words == "worse"))
    interval = stats.binomtest(int((~covered).sum()), len(covered)).proportion_ci(0.99)
    print(f"false {false:.4f}, not covered {1 - covered.mean():.4f} [{interval.low:.4f}, {interval.high:.4f}]")
    assert interval.low <= most


@pytest.mark.slow
def test_power_is_near_the_fixed_designs_and_seeds_are_saved():
    """At a true improvement of two margins, where the fixed design has power 0.9 and 0.97."""
    for most in (16, 24, 32):
        for reach in (3.45, 4.05):
            margin = reach / math.sqrt(most) / 2
            looks = Looks.up_to(most, 0.95, 1)
            words, used, _ = studies(looks, 2 * margin, margin, normal, 3000)
            fixed, _, _ = studies(Looks((most,), 0.95), 2 * margin, margin, normal, 3000)
            power, full, saved = np.mean(words == "better"), np.mean(fixed == "better"), 1 - used.mean() / most
            print(f"at most {most}: power {power:.3f}, fixed {full:.3f}, seeds saved {saved:.1%}")
            assert power > full - 0.05


def test_the_bill_is_what_simulated_studies_need():
    looks = Looks.up_to(16, 0.95, 2)
    words, used, _ = studies(looks, 0.8, 0.4, normal, 2000)
    told = bill(looks, 0.8, 1.0, 0.4)
    assert told.mean == pytest.approx(used.mean(), abs=4 * used.std() / math.sqrt(2000))
    assert told.decided == pytest.approx(np.mean(words != "undecided"), abs=0.04)
    assert (told.low, told.high) == tuple(np.quantile(used, [0.1, 0.9], method="nearest"))


def test_levels_scale_to_the_error_of_t_statistics():
    looks = Looks.up_to(12, 0.95, 3)
    draws = np.random.default_rng(7).standard_normal((60_000, 12))
    out = np.zeros(len(draws), bool)
    for n in looks.sizes:
        t = draws[:, :n].mean(1) * math.sqrt(n) / draws[:, :n].std(1, ddof=1)
        out |= 2 * special.stdtr(n - 1, -np.abs(t)) <= (1 - looks.level_at(n)) / 3
    assert out.mean() == pytest.approx(0.05 / 3, abs=0.0025)


# -- studies that stop -------------------------------------------------------------------------------------------------


BASE = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="12 steps")
#: Other data of the same distribution: a difference that only noise makes.
NEAR = BASE.but(sampler=rg.WithReplacement())
LOST = BASE.but({"optimizer.lr": 0.002})


def compared(tmp_path, given, **asked):
    work = rg.workloads.load("quadratic")
    asked = {"margin": 0.02, "until": "decided", "seeds": 14, "progress": False} | asked
    return rg.compare(work, given, out=tmp_path / "s", **asked)


def test_a_lost_arm_stops_and_the_others_go_on(tmp_path):
    study = compared(tmp_path, {"base": BASE, "lost": LOST, "near": NEAR}, margin=0.0005)
    facts = study.to_dict()
    runs = {arm["name"]: len(arm["values"]) - len(arm["absent"]) for arm in facts["arms"]}
    assert study.verdicts["lost"] == "worse"
    assert runs["lost"] == 7 < runs["near"] == runs["base"]
    assert facts["looks"][0] == 7
    assert any("at levels under which looking is legal" in note for note in facts["notes"])
    lost = next(arm for arm in facts["arms"] if arm["name"] == "lost")["comparison"]
    assert (lost["pairs"], lost["level"]) == (7, Looks.up_to(14, 0.95, 2).level_at(7))
    assert (
        "seeds diverged" not in study.report(tmp_path / "page.html").read_text()
    )  # those that were not needed did not
    again = compared(tmp_path, {"base": BASE, "lost": LOST, "near": NEAR}, margin=0.0005)
    assert again.verdicts == study.verdicts
    assert sum(p.is_dir() for p in (tmp_path / "s" / "runs").iterdir()) == sum(runs.values())


def test_time_stops_a_study_and_the_same_call_goes_on(tmp_path):
    given = {"base": BASE, "near": NEAR}
    cut = compared(tmp_path, given, margin=1e-7, max_cost="0 s").to_dict()
    assert (len(cut["seeds"]), cut["arms"][1]["comparison"]["verdict"]) == (6, "undecided")
    assert any("the same call with more time goes on" in note for note in cut["notes"])
    assert len(compared(tmp_path, given, margin=1e-7).to_dict()["seeds"]) == 14


def test_what_cannot_stop_early_is_refused(tmp_path):
    for asked, said in (
        ({"until": "soon"}, "until: got 'soon'; allowed: 'decided', 'halved', or nothing"),
        ({"until": None, "max_cost": "5 min"}, "max_cost: got '5 min', but only a study with until='decided' can stop"),
        ({"max_cost": "soon"}, "max_cost: "),
        ({"seeds": 5}, "seeds: got 5; allowed: at least 6 seeds"),
    ):
        with pytest.raises(DeclarationError) as caught:
            compared(tmp_path, {"base": BASE, "near": NEAR}, **asked)
        assert str(caught.value).startswith(said)
