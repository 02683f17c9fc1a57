"""Tables become schedules that go through every point to the bit; families are found again in tables of their values."""

import math
import random

import pytest

import regimes as rg
from regimes.core.kinds import percent_span
from regimes.core.progress import Progress

POINTS = [(0, 0.0), (10, 3e-4), (35, 2.9999999999999e-4), (36, 1e-5), (99, 3e-5)]


def values(schedule, places, steps=None):
    function = schedule.bind(percent_span(steps))
    return [function(Progress(fraction=x, run_fraction=x)) for x in places]


@pytest.mark.parametrize("interpolate", ["linear", "constant"])
@pytest.mark.parametrize("steps", [100, 101, 977])
def test_steps_are_met_to_the_bit(interpolate, steps):
    draw = random.Random(steps)
    points = [(t, draw.uniform(1e-6, 1e-2)) for t in sorted(draw.sample(range(steps), 60))]
    schedule = rg.from_table(points, interpolate)
    assert values(schedule, [t / steps for t, _ in points], steps) == [v for _, v in points]
    between = [(a, b) for a, b in zip(points, points[1:]) if b[0] > a[0] + 1]
    assert between
    for (t, v), (later, after) in between:
        share = 0.0 if interpolate == "constant" else 1 / (later - t)
        assert values(schedule, [(t + 1) / steps], steps) == pytest.approx([v + (after - v) * share], rel=1e-12)


@pytest.mark.parametrize("interpolate", ["linear", "constant"])
def test_fractions_are_met_to_the_bit(interpolate):
    draw = random.Random(5)
    for steps in (7, 90, 999):
        points = [(t / steps, draw.uniform(1e-6, 1e-2)) for t in range(0, steps, 3)]
        schedule = rg.from_table(points, interpolate)
        assert values(schedule, [x for x, _ in points]) == [v for _, v in points]


def test_before_the_first_point_and_after_the_last_it_holds():
    for interpolate in ("linear", "constant"):
        schedule = rg.from_table([(0.25, 0.3), (0.5, 0.1)], interpolate)
        assert values(schedule, [0.0, 0.1, 0.25, 0.5, 0.9, 1.0]) == [0.3, 0.3, 0.3, 0.1, 0.1, 0.1]
    assert rg.from_table([(0.25, 0.3), (0.5, 0.1)])(0.375) == pytest.approx(0.2, rel=1e-15)


def test_its_peak_scales_the_table():
    schedule = rg.from_table(POINTS).replace("peak", 2.0)
    assert values(schedule, [t / 100 for t, _ in POINTS], 100) == [2.0 * v for _, v in POINTS]


def test_points_that_change_nothing_are_left_out():
    flat = [(t, 0.1 if t < 50 else 0.01) for t in range(100)]
    assert rg.from_table(flat, "constant") == rg.Piecewise(1.0, ["50 steps"], [0.01], first=0.1)
    assert rg.from_table(flat) == rg.Piecewise(1.0, ["49 steps", "50 steps"], [0.1, 0.01], "linear", first=0.1)
    assert values(rg.from_table(flat), [t / 100 for t in range(100)], 100) == [v for _, v in flat]
    assert rg.from_table(flat[:50]) == rg.from_table([(0.5, 0.1)]) == rg.Constant(0.1)


def test_whole_numbers_are_steps_and_others_fractions():
    steps = rg.from_table([(0, 0.1), (1, 0.2)], "constant")
    assert (steps(0.5, steps=10), steps(0.05, steps=10)) == (0.2, 0.1)
    assert rg.from_table([(0.0, 0.1), (1.0, 0.2)])(0.5) == pytest.approx(0.15, rel=1e-15)
    assert rg.from_table([(0.0, 0.1), (20.0, 0.2)]) == rg.from_table([(0, 0.1), (20, 0.2)])


FILES = {
    "two columns": ("rates.csv", "position,rate\n0,0.1\n40,0.01\n", {}),
    "named": ("log.csv", "loss,lr,step\n3.0,0.1,0\n,,20\n2.0,0.01,40\n", {"value": "lr"}),
    "another position": ("log.csv", "step,lr,seen\n0,0.1,0\n3,0.01,40\n", {"value": "lr", "position": "seen"}),
    "lines": ("log.jsonl", '{"step": 0, "lr": 0.1}\n{"step": 40, "lr": 0.01}\n', {}),
    "text": ("log.tsv", "fraction\tlr\n0.0\t0.1\n0.5\t0.01\n", {}),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_logged_rates(name, tmp_path):
    file, text, columns = FILES[name]
    (tmp_path / file).write_text(text)
    pairs = [(0.0, 0.1), (0.5, 0.01)] if name == "text" else [(0, 0.1), (40, 0.01)]
    assert rg.from_table(tmp_path / file, **columns) == rg.from_table(pairs)
    assert rg.from_table(str(tmp_path / file), **columns) == rg.from_table(pairs)


def test_columns_of_a_frame():
    assert rg.from_table({"step": [0, 40], "lr": [0.1, 0.01]}) == rg.from_table([(0, 0.1), (40, 0.01)])


def test_logged_rates_make_the_run_again_to_the_bit(tmp_path):
    work = rg.workloads.load("quadratic")
    lr = rg.Cosine(0.1, 0.003, warmup="7 steps")
    regime = rg.Regime(optimizer=rg.SGD(lr=lr, momentum=0.9), batch_size=8, budget="50 steps")
    first = rg.run(work, regime)
    rows = [f"{row['step']},{row['knobs']['optimizer.lr']!r}" for row in first.records]
    (tmp_path / "rates.csv").write_text("\n".join(["step,lr", *rows]))
    again = rg.run(work, regime.but({"optimizer.lr": rg.from_table(tmp_path / "rates.csv")}))
    assert again.records == first.records
    assert again.metrics == first.metrics


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "points: got none; allowed: one at least"),
        ([(0, 0.1), (0, 0.2)], "points: got 0 after 0; allowed: positions that increase"),
        ([(5, 0.1), (2, 0.2)], "points: got 2 after 5; allowed: positions that increase"),
        ([(0.5, 0.1), (1.5, 0.2)], "points: got 1.5; allowed: whole steps, or fractions from 0 to 1"),
        ([(-1, 0.1)], "points: got -1; allowed: whole steps, or fractions"),
        ([(0, math.nan)], "points: got .*; allowed: a position and a value, both finite numbers"),
        ([(0, "x")], "points: got .*; allowed: a position and a value, both finite numbers"),
        ([(0, True)], "points: got .*; allowed: a position and a value"),
        ({"step": [0], "lr": [0.1], "loss": [1.0]}, "value: say which column; allowed: lr, loss"),
        ("nowhere.csv", "there is no 'nowhere.csv'"),
    ],
)
def test_refused_with_a_sentence(points, said):
    with pytest.raises(rg.DeclarationError, match=said):
        rg.from_table(points)


def test_columns_and_interpolations_that_are_not_there_are_refused():
    rows = {"step": [0], "lr": [0.1]}
    with pytest.raises(rg.DeclarationError, match="value: there is no column 'rate'; .*lr"):
        rg.from_table(rows, value="rate")
    with pytest.raises(rg.DeclarationError, match="position: there is no column 'at'"):
        rg.from_table(rows, position="at", value="lr")
    with pytest.raises(rg.DeclarationError, match="interpolate: got 'cubic'; allowed: linear, constant"):
        rg.from_table(rows, "cubic")


# -- families ----------------------------------------------------------------------------------------------------------

MADE = [
    rg.Constant(0.3),
    rg.Constant(0.3, warmup="10 steps"),
    rg.Linear(0.3),
    rg.Linear(0.3, 0.011, warmup="7 steps"),
    rg.Cosine(0.3, 0.02),
    rg.Cosine(0.3, warmup="10 steps"),
    rg.Exponential(0.3, 0.07, warmup="3 steps"),
    rg.InverseSqrt(0.3, "10%", warmup="10 steps"),
    rg.InverseSqrt(0.3, "23%"),
    rg.REX(0.3, final=0.01, warmup="5 steps"),
    *(rg.WSD(0.3, "30 steps", 0.02, shape, warmup="10 steps") for shape in ("linear", "sqrt", "cosine")),
    rg.WSD(0.3, "30 steps", 0.02, "exponential", warmup="10 steps"),
    rg.WSD(0.3, "41 steps", 0.05, "inverse"),
]


@pytest.mark.parametrize("schedule", MADE, ids=repr)
def test_the_family_that_made_a_table_is_found_with_its_parameters(schedule):
    logged = list(enumerate(values(schedule, [t / 200 for t in range(200)], 200)))
    found = rg.fit_schedule(logged, steps=200)
    assert found.schedule == schedule
    assert found.error <= 1e-12 * 0.3


def test_fractions_need_no_number_of_steps():
    schedule = rg.Cosine(0.3, 0.02, warmup="10%")
    logged = [(x / 50, schedule(x / 50)) for x in range(50)]
    assert rg.fit_schedule(logged).schedule == schedule


def test_the_error_is_the_largest_over_the_points():
    logged = [(t, rg.Polynomial(0.3, 2.0)(t / 100)) for t in range(100)]
    found = rg.fit_schedule(logged, steps=100)
    off = [abs(found.schedule(t / 100, steps=100) - v) for t, v in logged]
    assert found.error == max(off) == off[int(found.at)] > 0.01
    for name in ("Linear", "Cosine", "Exponential", "WSD"):
        assert rg.fit_schedule(logged, steps=100, families=[name]).error >= found.error


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "steps: got None; allowed: how many there are in all, more than 99"),
        ({"steps": 99}, "steps: got 99; allowed: how many there are in all, more than 99"),
        ({"steps": 100, "families": ["Cosin"]}, "families: there is no 'Cosin'; .*Cosine"),
    ],
)
def test_fits_are_refused_with_a_sentence(given, said):
    with pytest.raises(rg.DeclarationError, match=said):
        rg.fit_schedule(POINTS, **given)


@pytest.mark.parametrize(
    ("column", "rows", "at"),
    [
        ("fraction", "0,1.0\n1,0.1\n", "100%"),
        ("step", "0.0,1.0\n1.0,0.1\n", "1 steps"),
        ("x", "0,1.0\n1,0.1\n", "1 steps"),
    ],
)
def test_the_name_of_a_column_says_whether_it_counts_steps(tmp_path, column, rows, at):
    (tmp_path / "t.csv").write_text(f"{column},lr\n{rows}")
    assert [str(place) for place in rg.from_table(tmp_path / "t.csv").at] == [at]


def test_a_fraction_above_one_is_refused_whatever_else_it_may_be(tmp_path):
    (tmp_path / "t.csv").write_text("fraction,lr\n0,1.0\n2,0.1\n")
    with pytest.raises(rg.DeclarationError, match="got 2; allowed: whole steps, or fractions from 0 to 1"):
        rg.from_table(tmp_path / "t.csv")
