"""Performance profiles: closed forms, invariances, and an integral for an oracle."""

import math

import numpy as np
import pytest

import regimes as rg
from regimes.core.errors import DeclarationError

STREAM = np.random.default_rng(0)


def drawn(submissions, workloads, missed=0.2):
    times = np.exp(STREAM.standard_normal((submissions, workloads)))
    gone = STREAM.random(times.shape) < missed
    return {
        f"s{s}": {f"w{w}": None if gone[s, w] else float(times[s, w]) for w in range(workloads)}
        for s in range(submissions)
    }


@pytest.mark.exact("performance_profile")
def test_a_single_submission_that_hits_every_target_scores_one():
    assert rg.profile_score({"alone": {"a": 3.0, "b": 1e9, "c": 1e-9}}) == {"alone": 1.0}
    assert rg.profile_score({"alone": {"a": 3.0, "b": None, "c": math.inf, "d": 1.0}}) == {"alone": 0.5}


@pytest.mark.exact("performance_profile")
def test_another_unit_of_time_changes_nothing():
    times = drawn(4, 7)
    scale = {f"w{w}": 2.0 ** (w - 3) for w in range(7)}  # of every workload its own; powers of two are exact
    doubled = {s: {w: None if t is None else 2 * t for w, t in one.items()} for s, one in times.items()}
    scaled = {s: {w: None if t is None else scale[w] * t for w, t in one.items()} for s, one in times.items()}
    assert rg.profile_score(doubled) == rg.profile_score(scaled) == rg.profile_score(times)


@pytest.mark.exact("performance_profile")
@pytest.mark.parametrize("most", [1.5, 4.0, 10.0])
def test_the_score_is_the_integral_of_the_profile(most):
    times = drawn(5, 6)
    taus = np.linspace(1.0, most, 200_001)
    for submission, profile in rg.performance_profile(times).items():
        best = {w: min(one[w] or math.inf for one in times.values()) for w in profile.ratios}
        rho = np.mean([(times[submission][w] or math.inf) <= taus * best[w] for w in best], axis=0)
        assert [profile.at(tau) for tau in taus[::50_000]] == pytest.approx(list(rho[::50_000]))
        integral = float(((rho[1:] + rho[:-1]) / 2).mean())
        assert rg.profile_score(times, most)[submission] == profile.score(most) == pytest.approx(integral, abs=1e-4)


@pytest.mark.exact("performance_profile")
def test_by_hand():
    """Ratios 1 and 3 against 2 and 1: (3 + 1) / 3 / 2 and (2 + 3) / 3 / 2; what nobody hits counts for nobody."""
    times = {"x": {"a": 10.0, "b": 30.0}, "y": {"a": 20.0, "b": 10.0}}
    assert rg.profile_score(times) == {"x": pytest.approx(4 / 6), "y": pytest.approx(5 / 6)}
    assert rg.profile_score({s: one | {"c": None} for s, one in times.items()}) == {
        "x": pytest.approx(4 / 9), "y": pytest.approx(5 / 9),
    }  # fmt: skip


@pytest.mark.exact("performance_profile")
def test_a_slower_other_never_lowers_a_score_and_a_faster_one_may():
    times = {"x": {"a": 10.0, "b": 30.0}}
    assert rg.profile_score(times | {"slow": {"a": 11.0, "b": 31.0}})["x"] == 1.0
    assert rg.profile_score(times | {"fast": {"a": 5.0, "b": 31.0}})["x"] == pytest.approx((2 + 3) / 6)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({}, "times: got {}; allowed: submissions"),
        ({"x": {}}, "times: got"),
        ({"x": {"a": 1.0}, "y": {"b": 1.0}}, "times.y: 'a' is a workload of one of x and y alone"),
        ({"x": {"a": 0.0}}, "times.x.a: got 0.0; allowed: a number above 0"),
        ({"x": {"a": math.nan}}, "times.x.a: got nan"),
    ],
)
def test_what_are_no_times_is_refused(times, said):
    with pytest.raises(DeclarationError) as caught:
        rg.profile_score(times)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("most", [1.0, math.inf, "4"])
def test_what_is_no_factor_is_refused(most):
    with pytest.raises(DeclarationError, match="most: got"):
        rg.profile_score({"x": {"a": 1.0}}, most)
