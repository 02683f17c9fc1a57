"""What is drawn of long and of many curves: no point outside its band, no spike lost, both ends exact, each row made once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from html_reader import Page
from study_fixture import make_study

from regimes.core import thinning
from regimes.report import curves, lines, render
from regimes.report.facts import PANELS, panelled
from regimes.report.lines import Lines, short
from regimes.report.normal import normal

STEPS = 1000


def course(seed: int, arm: int = 0, points: int = STEPS) -> np.ndarray:
    rng = np.random.default_rng([arm, seed])
    return 1.0 + 2.0 * np.exp(-np.arange(points) / 200) + 0.05 * rng.standard_normal(points)


def study(arms: int = 2, seeds: int = 4, points: int = STEPS, keep: int = 0, spike: tuple[int, int, int] | None = None):
    """A study of long curves: as a study keeps them where `keep` is given; a spike is (arm, seed, step)."""
    listed = []
    for arm in range(arms):
        drawn = []
        for seed in range(seeds):
            y = course(seed, arm, points)
            if spike is not None and spike[:2] == (arm, seed):
                y[spike[2]] = 9.0
            drawn.append(made_curve(seed, y, keep, pace=1.0 + 0.01 * seed))
        listed.append({"name": f"arm-{arm}", "curves": drawn, "values": [1.0 + 0.1 * arm] * seeds, "mean": 1.0 + arm})
    return {
        "schema": 1, "name": "s", "metric": "loss", "better": "lower", "margin": 0.1, "baseline": "arm-0",
        "seeds": list(range(seeds)), "sentence": "", "arms": listed, "equal": "steps",
    }  # fmt: skip


def made_curve(seed: int, y: np.ndarray, keep: int = 0, pace: float = 1.0) -> dict:
    steps = np.arange(1, len(y) + 1)
    x = {"step": steps.tolist(), "seconds": (steps * pace / 100).tolist()}
    if not keep:
        return {"seed": seed, "x": x, "value": y.tolist()}
    kept = thinning.even(len(y), keep)
    low, high = thinning.span(kept, y, y)
    x = {unit: np.array(at)[kept].tolist() for unit, at in x.items()}
    return {"seed": seed, "x": x, "value": y[kept].tolist(), "low": low.tolist(), "high": high.tolist(), "of": len(y)}


def of(rows: list[dict], **which) -> list[dict]:
    return [row for row in rows if all(row[name] == value for name, value in which.items())]


def inside_steps(rows: list[dict], x: np.ndarray, y: np.ndarray) -> bool:
    """Whether points lie in an area that goes in steps: up to each row's x, all is between its low and its high."""
    at = np.searchsorted(np.array([row["x"] for row in rows]) * (1 + 1e-4), x)
    low, high = (np.array([row[end] for row in rows])[np.minimum(at, len(rows) - 1)] for end in ("low", "high"))
    return bool(((low <= y) & (y <= high)).all())


# -- every seed's own line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 60])
@pytest.mark.parametrize("at", [0, 1, 500, 998, 999])
def test_a_spike_of_one_step_is_on_its_seeds_line(at: int, keep: int) -> None:
    rows = of(Lines(normal(study(spike=(1, 2, at), keep=keep))).seeds, arm="arm-1", seed=2)
    assert len(rows) <= 2 * curves.FAINT_STRETCHES + 2
    spikes = [row for row in rows if row["value"] == 9.0]
    assert spikes
    # A curve that the study keeps in 60 points has its spike at the next of them: 17 steps on, at most.
    assert min(abs(row["step"] - at - 1) for row in spikes) <= (17 if keep else 0)


@pytest.mark.parametrize("keep", [0, 60])
def test_both_ends_of_every_line_are_as_measured(keep: int) -> None:
    found = Lines(normal(study(keep=keep)))
    for arm in range(2):
        for seed in range(4):
            rows, y = of(found.seeds, arm=f"arm-{arm}", seed=seed), course(seed, arm)
            assert [rows[0]["value"], rows[-1]["value"]] == short([y[0], y[-1]])
            assert (rows[0]["step"], rows[-1]["step"]) == (1, STEPS)


def test_short_curves_are_drawn_whole() -> None:
    given = study(points=100)
    found = Lines(normal(given))
    assert [row["value"] for row in of(found.seeds, arm="arm-0", seed=1)] == short(course(1, 0, 100))
    assert curves.note(normal(given)) == ""
    assert not curves.thinned(normal(given))


# -- the band over seeds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["step", "seconds"])
def test_the_band_holds_the_middle_half_at_every_step(unit: str) -> None:
    given = study(seeds=5)
    if unit == "seconds":  # of one pace, or they would be compared at other places than their own
        for arm in given["arms"]:
            for curve in arm["curves"]:
                curve["x"]["seconds"] = (np.arange(1, STEPS + 1) / 100).tolist()
    rows = of(Lines(normal(given)).bands(unit), arm="arm-1")
    assert len(rows) <= 2 * curves.STRETCHES + 2
    runs = np.stack([course(seed, 1) for seed in range(5)])
    x = np.arange(1, STEPS + 1) / (100 if unit == "seconds" else 1)
    for part in np.quantile(runs, [0.25, 0.5, 0.75], axis=0):
        assert inside_steps(rows, x, part)
    middle = np.median(runs, axis=0)
    assert [rows[0]["median"], rows[-1]["median"]] == short([middle[0], middle[-1]])
    assert {row["median"] for row in rows} >= set(short([middle.min(), middle.max()]))


def test_the_band_of_a_study_that_keeps_less_holds_the_middle_half_too() -> None:
    rows = of(Lines(normal(study(seeds=5, keep=60))).bands("step"), arm="arm-0")
    runs = np.stack([course(seed, 0) for seed in range(5)])
    for part in np.quantile(runs, [0.25, 0.5, 0.75], axis=0):
        assert inside_steps(rows, np.arange(1, STEPS + 1), part)


def test_a_spike_of_all_seeds_is_in_the_median() -> None:
    given = study(seeds=3)
    for curve in given["arms"][1]["curves"]:
        curve["value"][617] = 9.0
    rows = of(Lines(normal(given)).bands("step"), arm="arm-1")
    assert [row["x"] for row in rows if row["median"] == 9.0] == [618]


# -- paired differences --------------------------------------------------------------------------------------------


def test_paired_differences_are_those_of_all_points_and_keep_a_spike() -> None:
    given = normal(study(seeds=4, spike=(1, 2, 333)))
    rows = Lines(given).gains("step")
    base, mine = (np.stack([course(seed, arm) for seed in range(4)]) for arm in (0, 1))
    mine[2, 333] = 9.0
    gains = (base - mine).mean(axis=0)
    for row in rows:
        assert row["gain"] == short([gains[int(row["x"]) - 1]])[0]
    assert [row["x"] for row in rows if row["gain"] == short([gains.min()])[0]] == [334]
    assert inside_steps(rows, np.arange(1, STEPS + 1), gains)
    assert (rows[0]["x"], rows[-1]["x"]) == (1, STEPS)


# -- too many runs, or arms ----------------------------------------------------------------------------------------


def many() -> dict:
    return study(arms=2, seeds=700, points=200, spike=(1, 333, 71))


def test_of_too_many_runs_the_range_is_drawn_and_it_holds_every_point() -> None:
    given = normal(many())
    found = Lines(given)
    assert curves.faint_stretches(given) == 0
    assert found.seeds == []
    rows = of(found.spreads("step"), arm="arm-1")
    assert len(rows) <= 2 * curves.STRETCHES + 2
    for seed in range(700):
        y = course(seed, 1, 200)
        if seed == 333:
            y[71] = 9.0
        assert inside_steps(rows, np.arange(1, 201), y)
    assert max(row["high"] for row in rows) == 9.0
    assert found.limits == (pytest.approx(min(course(s, a, 200).min() for a in (0, 1) for s in range(700))), 9.0)


def test_the_page_says_what_it_draws_of_many_and_of_long_curves() -> None:
    page = Page(render(many()))
    text = page.id("curves").text
    assert "Faint: from the lowest to the highest of all seeds." in text
    assert "the range alone of the seeds" in text
    spec = page.charts["specs"]["curves/step/linear"]
    columns = [page.charts["tables"][name] for name in spec["tables"]]
    assert 9.0 in [value for table in columns for value in table["high"]]
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert high > 9.0 > low  # it is not clipped

    text = Page(render(study(keep=60))).id("curves").text
    assert "Faint: each seed." in text
    assert "Of the 1000 points of a run, the study keeps 60, with the lowest and the highest between" in text
    assert (
        "the lowest and the highest value of each of 80 equal stretches, of 60 of each seed, and through both ends"
        in text
    )
    text = Page(render(study())).id("curves").text
    assert "the study keeps" not in text
    assert "equal stretches" in text
    assert "stretches" not in Page(render(study(points=50))).id("curves").text


def test_more_arms_make_no_more_rows() -> None:
    few, several = (normal(study(arms=arms, seeds=2, points=400)) for arms in (40, 400))
    assert len(Lines(few).bands("step")) > 3_000
    assert len(Lines(several).bands("step")) <= curves.ROWS + 2 * 400  # and both ends of each
    assert curves.stretches(several) < curves.stretches(few)


def test_of_many_arms_those_that_differ_most_have_panels_and_the_page_says_so() -> None:
    given = study(arms=PANELS + 9, seeds=2, points=5)
    for arm in given["arms"]:
        arm["schedules"] = [{"path": "optimizer.lr", "fraction": [0, 1], "values": [1.0, arm["mean"]]}]
    shown = panelled(normal(given))
    assert shown == [0, *range(9, PANELS + 9)]  # means grow with the number of the arm
    page = Page(render(given))
    assert {key for key in page.charts["specs"] if key.startswith("seeds/")} == {f"seeds/{i}" for i in shown[1:]}
    assert f"Drawn for {PANELS} of the {PANELS + 9} arms" in page.id("seeds").text
    assert f"Drawn for {PANELS} of the {PANELS + 9} arms" in page.id("differs").text
    assert len(page.id("differs").all("figure")) == PANELS
    assert "arm-1" in page.id("seeds").text  # in the tables
    assert "Drawn for" not in Page(render(make_study())).id("seeds").text


# -- once ----------------------------------------------------------------------------------------------------------


def test_every_row_is_made_once_however_many_charts_read_it(monkeypatch) -> None:
    given = study(arms=3, seeds=4, points=300)
    for arm in given["arms"]:  # own points in every unit
        for curve in arm["curves"]:
            curve["x"] = dict.fromkeys(("step", "samples", "flops", "seconds"), curve["x"]["step"])
    calls = {"visited": 0, "extremes": 0}
    visited, extremes = lines._visited, thinning.extremes

    def counted(name, function):
        def call(*given):
            calls[name] += 1
            return function(*given)

        return call

    monkeypatch.setattr(lines, "_visited", counted("visited", visited))
    monkeypatch.setattr(thinning, "extremes", counted("extremes", extremes))
    render(given)
    assert calls["visited"] == 12  # every seed, whatever the unit and the scale
    assert calls["extremes"] == 12 + 3 + 2  # and every band and difference, whose points are the same in all units


def test_a_study_is_checked_once() -> None:
    given = normal(study())
    assert normal(given) is given


# -- numbers for the page ------------------------------------------------------------------------------------------


def test_short_numbers_are_those_that_formatting_gives() -> None:
    rng = np.random.default_rng(0)
    given = rng.standard_normal(20_000) * 10.0 ** rng.uniform(-15, 15, 20_000)
    given = np.concatenate([given, [0.0, -0.0, 1e-300, 1e300, 99999.5, 0.99999999, 1e5, math.nan, math.inf]])
    near, low, high = short(given), short(given, np.floor), short(given, np.ceil)
    assert near[:-2] == [float(f"{value:.5g}") for value in given[:-2].tolist()]
    assert near[-2:] == low[-2:] == high[-2:] == [None, None]
    for value, a, b in zip(given[:-2].tolist(), low, high):
        assert a <= value <= b
        assert b - a <= 1.01e-4 * abs(value)
