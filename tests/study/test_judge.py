"""From outcomes to verdicts, sentences, lamps and the table: divergence, repeated runs, edges of tuning."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import regimes as rg
from regimes.core.errors import RegimesError
from regimes.study import statistics
from regimes.study.arms import Arm
from regimes.study.choice import choose
from regimes.study.facts import facts_of
from regimes.study.judge import judge, repeats
from regimes.study.looks import Looks
from regimes.study.own import Own
from regimes.study.ranges import points, times
from regimes.study.table import text
from regimes.study.tasks import Outcome, Task

REGIME = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="12 steps")
NAN = math.nan
BASE = np.array([2.00, 2.03, 1.98, 2.05, 2.01, 1.99, 2.04, 2.02])


def design(seeds=8, ranges=None, trials=0, margin=0.1):
    ranges = ranges or {}
    return SimpleNamespace(
        metric="val/loss", tuning_metric="val/loss", better="lower", level=0.95, baseline="base", margin=margin,
        seeds=range(seeds), ranges=ranges, trials=trials, points=points(ranges, trials, 0), equal="steps", budget="12 steps",
        paired=True, looks=None, search=SimpleNamespace(clusters=False),
    )  # fmt: skip


def outcome(name, value, seed, trial=None, **others):
    metrics = {"val/loss": float(value)} | others
    return Outcome(Task(name, REGIME, seed, trial), metrics, [], [], {}, 12, 96, 1.0, "", False)


def arm(name, values, trials=(), **others):
    runs = [outcome(name, v, s, **{k: w[s] for k, w in others.items()}) for s, v in enumerate(values)]
    return Arm(name, REGIME, REGIME, runs, [outcome(name, v, 10**6, number) for number, v in enumerate(trials)])


def placed(trials, asked):
    """Trials where the design lays them out."""
    for number, trial in enumerate(trials):
        trial.task = replace(trial.task, shares=asked.points[number])
    return trials


def judged(asked=None, **values):
    """Facts of a study of these arms; the first is the baseline."""
    arms = [found if isinstance(found, Arm) else arm(name, found) for name, found in values.items()]
    asked = asked or design(len(arms[0].outcomes))
    for one in arms:
        placed(one.trials, asked)
    judge(asked, arms)
    work = Own(rg.workloads.load("quadratic"), {})
    return facts_of(asked, "study", work, arms, None, [])


def comparison(facts, name="a"):
    return next(arm for arm in facts["arms"] if arm["name"] == name)["comparison"]


def lamp(facts, name):
    return next(lamp for lamp in facts["lamps"] if lamp["name"] == name)


def without(values, *places):
    found = np.array(values, dtype=float)
    found[list(places)] = NAN
    return found


# -- the family --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [None, Looks.up_to(8, 0.95, 4)])
def test_intervals_hold_together_over_the_arms_that_are_judged_or_were_planned(looks):
    """Two arms are there; a study that looks early had planned for four, and each look spends a share of the error."""
    asked = design()
    asked.looks = looks
    a, b = BASE - np.linspace(0.2, 0.3, 8), BASE + np.linspace(0.0, 0.2, 8) ** 2
    found = comparison(judged(asked, base=BASE, a=a, b=b))
    alpha = 0.05 / 2 if looks is None else (1 - looks.level_at(8)) / 4
    told = stats.ttest_rel(BASE, a).confidence_interval(1 - alpha)
    assert (found["low"], found["high"]) == pytest.approx((told.low, told.high), abs=1e-12)
    if looks is not None:
        assert comparison(judged(asked, base=BASE[:5], a=a[:5])) is None  # no look was planned there


# -- divergence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "lost_base"), [((0,), ()), ((), (0,)), ((0,), (0,)), ((0,), (5,)), ((0, 1), (1, 2))])
def test_otherwise_equal_arms_that_diverged_are_undecided(lost, lost_base):
    """Also with a margin far above the range of the study, which alone once was the penalty."""
    near = BASE + np.tile([0.001, -0.001], 4)
    for margin in (0.1, 5.0):
        facts = judged(design(margin=margin), base=without(BASE, *lost_base), a=without(near, *lost))
        found = comparison(facts)
        assert found["verdict"] == "undecided"
        assert found["low"] <= -margin or found["high"] >= margin
        assert found["low"] <= 0 <= found["high"]
        assert found["more_seeds"] is None
        assert "runs that do not" in text(facts)


def test_a_third_arm_does_not_change_a_verdict():
    """Neither by what it reached, nor by diverging: of the comparison of 'a' everything stays."""
    for mine in (BASE - 0.3, without(BASE, 2), without(BASE, *range(8))):
        found = [
            comparison(judged(base=BASE, a=mine, other=other))
            for other in (BASE + 1, BASE * 1e30, without(BASE, *range(8)), without(BASE * 1e9, 3))
        ]
        assert all(one == found[0] for one in found)


def test_always_diverged_is_worse_and_the_sentence_says_what_it_is():
    facts = judged(base=BASE, a=without(BASE, *range(8)))
    assert comparison(facts)["verdict"] == "worse"
    assert "of 8 runs each, 8 of a diverged, and count as worst." in facts["sentence"]
    assert comparison(judged(base=without(BASE, *range(8)), a=BASE))["verdict"] == "better"


def test_nothing_but_divergence_is_undecided_and_plain_data():
    found = comparison(judged(base=without(BASE, *range(8)), a=without(BASE, *range(8))))
    assert (found["verdict"], found["difference"], found["low"], found["high"]) == ("undecided", None, None, None)


def test_the_interval_shown_is_the_one_that_decided():
    for lost, lost_base in itertools.product(range(9), range(9)):
        found = comparison(judged(base=without(BASE, *range(lost_base)), a=without(BASE - 0.5, *range(8 - lost, 8))))
        ends = [
            end if end is not None else side for end, side in zip((found["low"], found["high"]), (-math.inf, math.inf))
        ]
        assert statistics.verdict(*ends, 0.1) == found["verdict"]


def test_leaving_out_the_seed_that_diverged_leaves_the_others():
    near = BASE + np.tile([0.001, -0.001], 4)
    assert (
        comparison(judged(base=BASE, a=without(near, 3)))["leave_one_out"]
        == ["undecided"] * 3 + ["same"] + ["undecided"] * 4
    )


def test_the_mean_says_of_how_many_runs_it_is():
    shown = text(judged(base=without(BASE, 7), a=without(BASE - 1, 0, 1)))
    assert " of 8)" not in text(judged(base=BASE, a=BASE - 1))
    assert f"{np.mean(BASE[2:] - 1):.4g} (6 of 8)" in shown
    assert f"{np.mean(BASE[:7]):.4g} (7 of 8)" in shown
    assert "of 8 runs each, 1 of base and 2 of a diverged" in " ".join(shown.split())


# -- repeated runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "mine"), [(BASE, [1.0] * 8), ([2.0] * 8, BASE - 1), ([2.0] * 8, [1.0] * 8)])
def test_runs_that_repeat_themselves_are_one_observation(base, mine):
    facts = judged(base=base, a=mine)
    found = comparison(facts)
    assert (found["verdict"], found["low"], found["high"]) == ("undecided", None, None)
    names = [name for name, values in (("base", base), ("a", mine)) if len(set(values)) == 1]
    told = f"the seed changed nothing in {' and '.join(names)}: 8 seeds are one observation"
    assert (lamp(facts, "seeds differ")["ok"], lamp(facts, "seeds differ")["text"]) == (False, told)
    shown = " ".join(text(facts).split())
    assert told in shown
    assert "seeds that change" in shown
    assert "more tuning trials" not in shown


def test_a_repeated_arm_that_is_its_baseline_is_no_evidence_and_a_varying_one_is():
    assert comparison(judged(base=[2.0] * 8, a=[2.0] * 8))["verdict"] == "undecided"
    facts = judged(base=BASE, a=BASE)
    assert (comparison(facts)["verdict"], comparison(facts)["low"]) == ("same", 0.0)
    assert lamp(facts, "seeds differ")["ok"]


def test_the_same_difference_on_every_seed_is_told():
    facts = judged(base=BASE, a=BASE - 0.25)
    assert comparison(facts)["verdict"] == "undecided"
    assert "every seed gave the same difference between base and a: 8 seeds" in lamp(facts, "seeds differ")["text"]


def test_a_saturated_metric_is_no_repeated_run():
    """Every metric counts: the runs differ in another one."""
    saturated = arm("base", [0.0] * 8, **{"val/margin": list(range(8))})
    assert not repeats(saturated, "val/loss")
    assert repeats(arm("base", [0.0] * 8, **{"val/margin": [1.0] * 8}), "val/loss")
    assert comparison(judged(base=saturated, a=BASE))["verdict"] == "worse"


def test_one_run_left_says_nothing_about_repeating():
    assert not repeats(arm("a", [1.0, NAN, NAN]), "val/loss")
    assert repeats(arm("a", [1.0, NAN, 1.0]), "val/loss")


# -- edges of tuning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "trials", "advice"),
    [
        (1, [1.0], "more tuning trials"),
        (1, [1.0, 2.0], "more tuning trials"),
        (1, [1.0, 2.0, 3.0], "more tuning trials"),
        (1, [1.0, 2.0, 3.0, 4.0], "tune over a wider range"),
        (1, [2.0, 1.0, 2.0, 4.0], None),
        (2, [1.0, 2.0, 3.0, 4.0], "more tuning trials"),
        (2, [9.0] * 6 + [1.0], "tune over a wider range"),
    ],
)
def test_advice_at_an_edge(knobs, trials, advice):
    asked = design(ranges={f"k{number}": times(1 / 8, 8) for number in range(knobs)}, trials=len(trials))
    if knobs == 2:  # the best at an edge of one knob, whatever the others are
        asked.points = sorted(asked.points, key=lambda p: p["k0"], reverse=trials[0] > trials[-1])[: len(trials)]
    found = choose(placed([outcome("a", v, 10**6, number) for number, v in enumerate(trials)], asked), asked)
    assert found.advice == advice
    assert found.bracketed == (advice is None)


def test_table_and_lamp_give_each_arm_its_advice():
    ranges = {"optimizer.lr": times(1 / 8, 8)}
    calm = BASE - 0.01 + np.tile([0.1, -0.1], 4)

    def study(*trials):
        asked = design(ranges=ranges, trials=len(trials[0]))
        arms = [arm("base", BASE, trials[0]), arm("a", calm, trials[1])]
        return judged(asked, **{found.name: found for found in arms})

    two = study([2.0, 3.0], [2.0, 3.0])
    assert "more tuning" in text(two)
    assert "wider" not in text(two)
    assert lamp(two, "tuning bracketed")["text"].endswith("tried: base and a: more tuning trials")
    wide = study([2.0, 3.0, 4.0, 5.0], [3.0, 2.0, 2.5, 4.0])
    assert lamp(wide, "tuning bracketed")["text"].endswith("tried: base: tune over a wider range")
    assert "tune over a" in text(wide)
    lost = study([3.0, 2.0, 2.5, 4.0], [NAN] * 4)
    assert lamp(lost, "tuning bracketed")["text"].endswith("a: tune over another range: no trial ended in a number")
    with pytest.raises(RegimesError, match="every tuning trial"):
        choose([outcome("a", NAN, 10**6, n) for n in range(4)], design(ranges=ranges, trials=4))


def test_the_tuning_sd_told_is_the_one_that_widened():
    asked = design(ranges={"optimizer.lr": times(1 / 8, 8)}, trials=5)
    arms = [arm(name, BASE - shift, [2.9, 2.5, 2.42, 2.55, 3.4]) for name, shift in (("base", 0.0), ("a", 0.2))]
    noisy = arms[1].outcomes[0].metrics
    noisy["val/loss"] += 0.05
    facts = judged(asked, base=arms[0], a=arms[1])
    told = [found["tuning"]["tuning_sd"] for found in facts["arms"]]
    gains = statistics.improvement(arms[1].values("val/loss"), BASE)
    wide = statistics.widen(statistics.simultaneous_paired_intervals({"a": gains})["a"], told[1], told[0])
    assert (comparison(facts)["low"], comparison(facts)["high"]) == pytest.approx((wide.low, wide.high), rel=1e-12)


def broken(found, *places, trials=False):
    """An arm, some runs of which failed for a reason that is not the regime's."""
    for place in places:
        runs = found.trials if trials else found.outcomes
        runs[place] = Outcome.without_value(runs[place].task, "OSError: no space left on device")
    return found


def test_an_arm_of_which_a_run_failed_is_not_judged_and_not_called_worst():
    facts = judged(base=BASE, a=broken(arm("a", BASE + 0.5), 3), b=np.roll(BASE, 1) - 0.5)
    assert comparison(facts) is None
    assert comparison(facts, "b")["verdict"] == "better"
    assert facts["sentence"].endswith("; a cannot be judged; runs failed (1 of a), which says nothing about a regime.")
    assert "worst" not in lamp(facts, "no divergence")["text"]
    assert not lamp(facts, "no divergence")["ok"]
    assert "runs that do not" in text(facts)
    assert "failed" in text(facts)
    assert next(a for a in facts["arms"] if a["name"] == "a")["diverged"] == 0


def test_nothing_is_judged_against_a_baseline_of_which_a_run_failed():
    facts = judged(base=broken(arm("base", BASE), 0), a=BASE + 0.5)
    assert comparison(facts) is None
    assert "a cannot be judged" in facts["sentence"]


def test_an_arm_of_which_a_trial_failed_is_not_judged():
    asked = design(ranges={"*.lr": times(1 / 8, 8)}, trials=4)
    trials = [2.2, 2.0, 2.1, 2.3]
    whole, part = arm("base", BASE, trials), broken(arm("a", BASE + 0.5, trials), 2, trials=True)
    facts = judged(asked, base=whole, a=part)
    assert comparison(facts) is None
    tuning = next(a for a in facts["arms"] if a["name"] == "a")["tuning"]
    assert tuning["advice"] == "trials that do not fail"
    assert [row["failed"] for row in tuning["trials"]] == [False, False, True, False]
    assert not any(row["diverged"] for row in tuning["trials"])
    with pytest.raises(RegimesError, match="a tuning trial of arm 'a' failed"):
        choose(part.trials, asked)


def test_a_metric_that_is_no_number_beside_a_finite_loss_is_not_called_divergence():
    asked = design()
    asked.metric = "val/odd"
    odd = arm("a", np.full(8, 0.3), **{"val/odd": without(BASE, 3)})
    lost = arm("b", without(BASE, 1), **{"val/odd": without(BASE, 1)})
    facts = judged(asked, base=arm("base", np.full(8, 0.3), **{"val/odd": BASE}), a=odd, b=lost)
    assert [(one["diverged"], one["not_a_number"]) for one in facts["arms"]] == [(0, 0), (0, 1), (1, 0)]
    assert "val/odd is not a number in 1 of a, though the loss is finite; they count as worst" in facts["sentence"]
    assert "of 8 runs each, 1 of b diverged" in facts["sentence"]
    assert [f["what"] for one in facts["arms"] for f in one["failures"]] == [
        "val/odd is not a number, though the loss is finite", "the metric is not finite",
    ]  # fmt: skip
    assert lamp(facts, "no divergence")["text"] == (
        "1 runs diverged, and count as the worst; in 1 val/odd is not a number though the loss is finite; they count as "
        "the worst"
    )


def test_equal_budgets_at_unequal_work_are_no_green_lamp():
    """Trials and scoring count: an arm that was given the same steps may have taken many times the operations."""

    def worked(name, side):
        made = arm(name, BASE)
        for one in made.outcomes:
            one.work = {"flops": 100.0, "side_flops": side, "samples": 96}
        return made

    base, alike, greedy = worked("base", 0.0), worked("alike", 5.0), worked("greedy", 3800.0)
    assert lamp(judged(base=base, alike=alike), "budgets equal")["ok"]
    found = lamp(judged(base=base, greedy=greedy), "budgets equal")
    assert not found["ok"]
    assert "but not in work: greedy took 39 times the baseline's operations" in found["text"]


def test_brackets_in_names_are_no_markup():
    facts = judged(**{"base": BASE, "muon[red]": BASE - 0.1, "sgd[/bold]": BASE})
    assert "muon[red]" in text(facts)
    assert "sgd[/bold]" in text(facts)


def test_a_level_that_is_an_error_rate_is_refused():
    with pytest.raises(rg.DeclarationError, match=r"^level: got 0\.05; allowed: .*; did you mean 0\.95\?"):
        rg.verdict(
            {"a": [1, 2], "s": [0, 0], "loss": [1.0, 2.0]}, arm="a", seed="s", metric="loss", margin=0.1, level=0.05
        )
    with pytest.raises(rg.DeclarationError, match="^better: say whether lower or higher"):
        rg.verdict(
            {"a": [1, 2], "s": [0, 0], "neg_log_loss": [1.0, 2.0]}, arm="a", seed="s", metric="neg_log_loss", margin=0.1
        )
