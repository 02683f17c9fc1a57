"""What a study keeps of its runs' courses: everything while it is small, and no less than the extremes of many."""

import math

import numpy as np
import pytest

from regimes.report import curves, lines
from regimes.report.normal import normal
from regimes.study import courses
from regimes.study.arms import Arm
from regimes.study.tasks import Outcome, Task


def outcome(seed=0, points=1000, spike=None, **measured):
    y = 1 + np.exp(-np.arange(points) / 100) + 0.01 * np.random.default_rng(seed).standard_normal(points)
    if spike is not None:
        y[spike] = 7.0
    rows = [
        {"step": i, "samples": 8 * i, "tokens": 8 * i, "loss": float(v), "val/loss": float(v)} for i, v in enumerate(y)
    ]
    for name, at in measured.items():
        for place, value in at.items():
            rows[place][name] = value
    work = {"flops": 1e6 * points, "samples": 8 * points}
    return Outcome(
        Task("a", None, seed), {}, rows, courses.inside_rows(rows), work, points, 8 * points, 2.0, "k", False
    )


def test_a_small_study_keeps_every_point():
    one = outcome()
    found = courses.curve(one, "val/loss", courses.most_points([Arm("a", None, None, [one], [])]))
    assert found["value"] == [row["val/loss"] for row in one.curve]
    assert found["x"]["step"] == list(range(1, 1001))
    assert "low" not in found


def test_a_large_study_keeps_so_many_points_in_all():
    one = outcome()
    for runs, most in ((200, 1000), (1000, 200), (7500, courses.LEAST), (100_000, courses.LEAST)):
        assert courses.most_points([Arm("a", None, None, [one] * runs, [])]) == most


@pytest.mark.parametrize("spike", [0, 1, 640, 998, 999])
def test_of_a_thinned_curve_both_ends_are_exact_and_a_spike_stays(spike):
    one = outcome(spike=spike)
    found, y = courses.curve(one, "val/loss", 40), np.array([row["val/loss"] for row in one.curve])
    assert len(found["value"]) == len(found["low"]) == len(found["high"]) == len(found["x"]["seconds"]) == 40
    assert found["of"] == 1000
    assert (found["value"][0], found["value"][-1]) == (y[0], y[-1])
    assert (found["x"]["step"][0], found["x"]["step"][-1]) == (1, 1000)
    assert max(found["high"]) == 7.0
    ends = np.array(found["x"]["step"]) - 1
    assert found["value"] == y[ends].tolist()  # what is kept was measured, there
    owner = np.searchsorted(ends, np.arange(1000))
    assert (np.array(found["low"])[owner] <= y).all()
    assert (np.array(found["high"])[owner] >= y).all()


def test_curves_of_one_length_are_kept_at_the_same_steps():
    places = [courses.curve(outcome(seed), "val/loss", 40)["x"]["step"] for seed in range(3)]
    assert places[0] == places[1] == places[2]


def test_what_is_no_number_is_none_and_hides_nothing():
    one = outcome(points=100)
    for place in (*range(40, 45), *range(90, 100)):
        one.curve[place]["val/loss"] = "inf" if place % 2 else math.nan
    found = courses.curve(one, "val/loss", 20)
    numbers = [row["val/loss"] for row in one.curve if isinstance(row["val/loss"], float) and row["val/loss"] < 9]
    assert found["value"][-1] is None
    assert (min(v for v in found["low"] if v is not None), max(v for v in found["high"] if v is not None)) == (
        min(numbers), max(numbers),
    )  # fmt: skip
    assert None in courses.curve(one, "val/loss", 1000)["value"]


def test_a_spike_of_one_step_inside_a_run_is_kept():
    one = outcome(points=5000, spike=3333, gradient_norm={100: 1.0, 200: 55.0, 300: 2.0, 4000: math.inf})
    assert len(one.inside) < 250
    found = courses.inside(Arm("a", None, None, [one], []))
    loss = dict(zip(found["training loss"]["x"], found["training loss"]["value"]))
    assert loss[8 * 3333] == 7.0
    assert {0, 8 * 4999} <= loss.keys()
    assert found["gradient_norm"]["value"] == [1.0, 55.0, 2.0]
    assert found["training loss"]["of"] == 5000
    assert "of" not in courses.inside(Arm("a", None, None, [outcome(points=80)], []))["training loss"]


def test_the_report_draws_what_the_study_keeps():
    arms = []
    for name, spike in (("a", None), ("b", 640)):
        kept = [courses.curve(outcome(seed, spike=spike if seed == 2 else None), "val/loss", 40) for seed in range(4)]
        arms.append({"name": name, "curves": kept, "values": [1.0] * 4})
    study = normal({"schema": 1, "name": "s", "metric": "val/loss", "better": "lower", "margin": 0.1, "baseline": "a",
                    "seeds": list(range(4)), "sentence": "", "arms": arms, "equal": "steps"})  # fmt: skip
    rows = [row for row in lines.Lines(study).seeds if (row["arm"], row["seed"]) == ("b", 2)]
    assert max(row["value"] for row in rows) == 7.0
    assert "the study keeps 40" in curves.note(study)
