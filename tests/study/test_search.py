"""Searches: where trials are placed, that they find what there is, and that verdicts hold through them."""

import importlib.util
import math

import numpy as np
import pytest
from scipy import stats

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.study import statistics
from regimes.study.ranges import times
from regimes.study.search import Search, Tried

ONE = {"lr": times(1 / 16, 16)}
TWO = {"lr": times(1 / 16, 16), "wd": times(1 / 16, 16)}
OPTUNA = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is an extra")


def searched(name, ranges, trials, response, better="lower"):
    """Every trial of one arm, each placed by those before it."""
    search, tried = Search(name, ranges, trials, better), []
    for number in range(trials):
        shares = search.at(number, tried)
        tried.append(Tried(shares, response(*shares.values())))
    return tried


def valley(*at):
    return lambda *shares: 2.0 + sum((share - place) ** 2 for share, place in zip(shares, at))


@pytest.mark.parametrize("name", ["quasi", "random", "refine", "bayes", pytest.param("optuna", marks=OPTUNA)])
def test_trials_are_placed_in_the_range_alike_each_time(name):
    first, again = (searched(name, ONE, 8, valley(0.3)) for _ in range(2))
    assert first == again
    assert all(0 <= tried.shares["lr"] <= 1 for tried in first)
    assert len({tried.shares["lr"] for tried in first}) == 8


@pytest.mark.parametrize(("name", "off"), [("refine", 0.03), ("bayes", 0.06)])
@pytest.mark.parametrize("best", [0.1, 0.45, 0.8])
def test_looking_finds_the_best_nearer_than_a_layout(name, off, best):
    found = min(searched(name, ONE, 8, valley(best)), key=lambda tried: tried.value)
    assert abs(found.shares["lr"] - best) < off
    mirrored = searched(name, ONE, 8, lambda share: -valley(best)(share), "higher")
    assert [tried.shares for tried in mirrored] == [tried.shares for tried in searched(name, ONE, 8, valley(best))]


def test_bayes_finds_the_best_of_two_knobs():
    found = min(searched("bayes", TWO, 16, valley(0.25, 0.7)), key=lambda tried: tried.value)
    laid = min(searched("quasi", TWO, 16, valley(0.25, 0.7)), key=lambda tried: tried.value)
    assert found.value - 2.0 < min(0.005, laid.value - 2.0)


@pytest.mark.parametrize("name", ["refine", "bayes", pytest.param("optuna", marks=OPTUNA)])
def test_diverged_trials_are_bad_and_no_number_is_needed(name):
    cliff = searched(name, ONE, 8, lambda share: math.nan if share > 0.6 else valley(0.4)(share))
    assert min(tried.value for tried in cliff if math.isfinite(tried.value)) < 2.01
    assert len(searched(name, ONE, 6, lambda share: math.nan)) == 6


def test_what_looks_waits_for_the_trials_before():
    search = Search("bayes", ONE, 6, "lower")
    tried = searched("bayes", ONE, 3, valley(0.4))
    assert search.at(3, tried[:2]) is None
    assert search.at(3, tried) is not None


@pytest.mark.parametrize(
    ("name", "ranges", "said"),
    [
        ("baies", ONE, "search: got 'baies'; did you mean 'bayes'?"),
        ("refine", TWO, "search: got 'refine' with 2 knobs"),
        ("halving", TWO, "search: got 'halving', but trials are whole runs"),
    ],
)
def test_searches_that_there_are_not_are_refused(name, ranges, said):
    with pytest.raises(DeclarationError) as caught:
        Search(name, ranges, 6, "lower")
    assert str(caught.value).startswith(said)


def test_a_study_tunes_by_looking_in_its_workers_too(tmp_path):
    base = rg.Regime(optimizer=rg.SGD(lr=0.6), batch_size=8, budget="12 steps")
    arms = {"base": base, "off": base.but({"optimizer.lr": 0.1})}
    studies = [
        rg.compare(
            rg.workloads.load("quadratic"), arms, margin=0.01, seeds=6, tune={"optimizer.lr": times(1 / 8, 8)}, trials=6,
            search="refine", out=tmp_path / str(workers), workers=workers, progress=False,
        ).to_dict()
        for workers in (1, 2)
    ]  # fmt: skip
    assert [arm["values"] for arm in studies[0]["arms"]] == [arm["values"] for arm in studies[1]["arms"]]
    tried = [[trial["values"]["optimizer.lr"] for trial in arm["tuning"]["trials"]] for arm in studies[0]["arms"]]
    assert tried[0][:3] == [6 * lr for lr in tried[1][:3]] or np.allclose(tried[0][:3], 6 * np.array(tried[1][:3]))
    assert not np.allclose(tried[0][3:], 6 * np.array(tried[1][3:]))  # from there on each looks at its own


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quasi", "random", "refine", "bayes"])
@pytest.mark.parametrize("edge", [3.0, 30.0])
def test_null_through_every_search(name, edge):
    """Two arms that only luck tells apart, tuned over a parabola whose edges are `edge` sds of a run worse."""
    stream, repetitions, wrong = np.random.default_rng(11), 300 if name != "bayes" else 120, 0
    for _ in range(repetitions):
        best = 0.5 + 0.15 * stream.standard_normal()
        finals, sds = [], []
        for _ in range(2):
            tried = searched(
                name, ONE, 6, lambda share, best=best: 4 * edge * (share - best) ** 2 + stream.standard_normal()
            )
            rates, values = [t.shares["lr"] for t in tried], [t.value for t in tried]
            chosen = statistics.fit_and_refine(rates, values)
            ends = 4 * edge * (chosen.log_rate - best) ** 2 + stream.standard_normal(8)
            finals.append(ends)
            sd = statistics.fit_and_refine(rates, values, "lower", ends).tuning_sd
            clusters = Search(name, ONE, 6, "lower").clusters
            sds.append(max(sd, statistics.selection_sd(values)) if clusters else sd)
        interval = statistics.widen(statistics.paired_interval(finals[0] - finals[1]), *sds)
        wrong += not interval.low <= 0 <= interval.high
    told = stats.binomtest(wrong, repetitions).proportion_ci(0.99)
    print(f"{name}, edges {edge}: {wrong} of {repetitions} [{told.low:.3f}, {told.high:.3f}]")
    assert told.low <= 0.05
