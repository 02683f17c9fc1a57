"""The numbers behind the charts, against closed forms and independent ways to the same value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from study_fixture import make_study

from regimes.report import curves, forest, tuning
from regimes.report.appendix import notable
from regimes.report.facts import pareto
from regimes.report.lines import Lines
from regimes.report.normal import normal
from regimes.report.palette import ARMS, INK, MODES, VERDICTS


def small(**arms: list[dict]) -> dict:
    """A study of nothing but curves; an arm is a list of curves, a diverged one ends with None."""
    seeds = sorted({curve["seed"] for some in arms.values() for curve in some})
    listed = []
    for name, some in arms.items():
        final = {curve["seed"]: curve["value"][-1] for curve in some}
        listed.append({"name": name, "curves": some, "values": [final.get(seed) for seed in seeds]})
    return normal(
        {
            "schema": 1,
            "name": "s",
            "metric": "loss",
            "better": "lower",
            "margin": 0.1,
            "baseline": next(iter(arms)),
            "seeds": seeds,
            "sentence": "",
            "arms": listed,
            "equal": "step",
        }
    )


def curve(seed: int, x: list[float], value: list[float | None]) -> dict:
    return {"seed": seed, "x": {"step": list(x)}, "value": list(value)}


def column(rows: list[dict], name: str) -> list:
    return [row[name] for row in rows]


# --- bands --------------------------------------------------------------------------------------------------


def test_band_is_median_and_middle_half() -> None:
    values = np.random.default_rng(0).standard_normal((9, 5))
    study = small(a=[curve(s, range(5), values[s]) for s in range(9)])
    rows = Lines(study).bands("step")
    assert column(rows, "median") == pytest.approx(np.median(values, axis=0), rel=1e-4)
    assert column(rows, "low") == pytest.approx(np.quantile(values, 0.25, axis=0), rel=1e-4)
    assert column(rows, "high") == pytest.approx(np.quantile(values, 0.75, axis=0), rel=1e-4)


def test_diverged_run_counts_as_worst_from_where_it_ended() -> None:
    alive = [curve(s, range(4), [3.0 + s, 2.0 + s, 1.0 + s, 0.5 + s]) for s in range(2)]
    gone = [curve(2, range(4), [0.0, 0.0, None, None])]
    study = small(a=alive + gone)
    rows = Lines(study).bands("step")
    assert column(rows, "median") == [3.0, 2.0, 2.0, 1.5]
    assert column(rows, "high") == [4.0, 3.0, None, None]


def test_bands_over_unequal_times_interpolate_and_never_extrapolate() -> None:
    lines = [curve(0, [0, 10], [10, 0]), curve(1, [0, 4, 8], [8, 4, 0])]
    study = small(a=lines)
    rows = Lines(study).bands("step")
    x = np.array(column(rows, "x"))
    assert (x[0], x[-1]) == (0, 8)
    assert column(rows, "median") == pytest.approx(((10 - x) + (8 - x)) / 2, abs=1e-3)


# --- paired difference --------------------------------------------------------------------------------------


def test_paired_difference_has_scipys_interval() -> None:
    rng = np.random.default_rng(5)
    base, mine = rng.standard_normal((2, 6, 4))
    study = small(
        base=[curve(s, range(4), base[s]) for s in range(6)], arm=[curve(s, range(4), mine[s]) for s in range(6)]
    )
    rows = Lines(study).gains("step")
    for i, row in enumerate(rows):
        test = stats.ttest_rel(base[:, i], mine[:, i])
        span = test.confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((span.low, span.high), rel=1e-4)
        assert row["gain"] == pytest.approx((base[:, i] - mine[:, i]).mean(), rel=1e-4)


def test_pair_with_a_diverged_run_is_left_out_from_its_start() -> None:
    base = [curve(s, range(3), [5.0, 4.0, 3.0]) for s in range(3)]
    mine = [curve(s, range(3), [4.0, 3.0, 2.0]) for s in range(2)] + [curve(2, range(3), [9.0, 99.0, None])]
    study = small(base=base, arm=mine)
    rows = Lines(study).gains("step")
    assert column(rows, "gain") == [1.0, 1.0, 1.0]
    assert column(rows, "pairs") == [2, 2, 2]


def test_single_pair_has_no_band() -> None:
    study = small(base=[curve(0, range(2), [2.0, 1.0])], arm=[curve(0, range(2), [1.0, 1.0])])
    rows = Lines(study).gains("step")
    assert column(rows, "gain") == [1.0, 0.0]
    assert column(rows, "low") == column(rows, "high") == [None, None]


def test_difference_at_equal_seconds_compares_what_each_had_by_then() -> None:
    base = [curve(0, [0, 10], [10, 0])]
    fast = [curve(0, [0, 5], [10, 0])]
    study = small(base=base, arm=fast)
    rows = Lines(study).gains("step")
    x = np.array(column(rows, "x"))
    assert x[-1] == 5
    assert column(rows, "gain") == pytest.approx(x, abs=1e-3)  # (10 - x) - (10 - 2x)


# --- time to the baseline's quality -------------------------------------------------------------------------


def test_reach_of_straight_lines() -> None:
    base = [curve(s, [0, 100], [1.0, 0.0]) for s in range(3)]
    mine = [curve(s, [0, 100], [1.0, -1.0 - s]) for s in range(3)]  # crosses 0 after 1 / (2 + s) of the run
    study = small(base=base, arm=mine)
    found = curves.reach(study, study["arms"][1], "step")
    assert (found["median"], found["first"], found["last"]) == pytest.approx((1 / 3, 1 / 4, 1 / 2))
    assert (found["reached"], found["of"]) == (3, 3)


def test_reach_counts_those_that_never_got_there() -> None:
    base = [curve(s, [0, 100], [1.0, 0.0]) for s in range(3)]
    mine = [curve(0, [0, 100], [1.0, -1.0])] + [curve(s, [0, 100], [1.0, 0.5]) for s in (1, 2)]
    study = small(base=base, arm=mine)
    found = curves.reach(study, study["arms"][1], "step")
    assert found == {"median": None, "first": 0.5, "last": 0.5, "reached": 1, "of": 3}


# --- tuning -------------------------------------------------------------------------------------------------


def tuned(*trials: tuple[float, float | None], chosen: int = 0, best: list | None = None) -> dict:
    listed = [
        {"values": {"lr": lr}, "metric": metric, "diverged": metric is None, "chosen": i == chosen}
        for i, (lr, metric) in enumerate(trials)
    ]
    study = small(a=[curve(0, range(2), [1.0, 1.0])])
    study["arms"][0]["tuning"] = {"paths": ["lr"], "trials": listed, "on_edge": False, "best_of_k": best or []}
    return study


def test_fit_is_the_parabola_in_log_x() -> None:
    def parabola(lr: float) -> float:
        return 2 + 0.3 * (math.log10(lr) + 2.5) ** 2

    study = tuned(*[(lr, parabola(lr)) for lr in (1e-4, 1e-3, 1e-2, 1e-1)])
    panel = tuning.panel(study, study["arms"][0], "lr")
    assert panel["log"]
    assert [row["y"] for row in panel["fit"]] == pytest.approx([parabola(row["x"]) for row in panel["fit"]], rel=1e-4)


def test_no_fit_through_three_points_or_two_knobs() -> None:
    points = [(1e-4, 2.0), (1e-3, 1.0), (1e-2, 2.0), (1e-1, 4.0)]
    three = tuned(*points[:3])
    assert tuning.panel(three, three["arms"][0], "lr")["fit"] == []
    two = tuned(*points)
    two["arms"][0]["tuning"]["paths"] = ["lr", "wd"]
    assert tuning.panel(two, two["arms"][0], "lr")["fit"] == []


def test_divergence_edge_lies_between_and_only_upwards() -> None:
    study = tuned((0.01, 2.0), (0.1, 2.1), (1.0, None))
    panel = tuning.panel(study, study["arms"][0], "lr")
    assert panel["edge"] == pytest.approx(math.sqrt(0.1))
    stripes = tuning.hatching(panel)
    low, high = sorted(panel["y"])
    assert len(stripes) > 5
    for stripe in stripes:
        assert all(panel["edge"] * 0.999 <= stripe[x] <= panel["x"][1] * 1.001 for x in ("x", "x2"))
        assert all(low - 1e-9 <= stripe[y] <= high + 1e-9 for y in ("y", "y2"))
    island = tuned((0.01, 2.0), (0.1, None), (1.0, 2.2))
    panel = tuning.panel(island, island["arms"][0], "lr")
    assert panel["edge"] is None
    assert tuning.hatching(panel) == []


def test_hopeless_trial_does_not_flatten_the_rest() -> None:
    study = tuned((0.01, 2.0), (0.03, 2.1), (0.1, 2.2), (1.0, 900.0))
    panel = tuning.panel(study, study["arms"][0], "lr")
    assert [row["kind"] for row in panel["rows"]] == ["trial", "trial", "trial", "above"]
    assert max(panel["y"]) < 3
    assert panel["rows"][3]["metric"] == 900.0


def test_luck_of_the_draw_in_words() -> None:
    study = small(a=[curve(0, [0], [1.0])], b=[curve(0, [0], [1.0])])
    for arm, best in zip(study["arms"], ([2.0, 2.0, 2.0, 2.0], [None, 2.1, 1.9, 1.9])):
        arm["tuning"] = {"paths": [], "trials": [], "best_of_k": best}
    assert (
        tuning.luck(study) == "With 1 or 2 trials you would have chosen a; with 3 or 4 trials you would have chosen b."
    )
    study["arms"][1]["tuning"]["best_of_k"] = [3.0] * 3
    assert tuning.luck(study) == "After every number of trials from 1 to 3 you would have chosen a."
    study["better"] = "higher"
    assert tuning.luck(study) == "After every number of trials from 1 to 3 you would have chosen b."


# --- forest, cost, inside -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 0.2, 1.0, 1.7, 4.0, 3e4])
def test_axis_has_round_ticks_inside(scale: float) -> None:
    low, high = forest.window([(-0.3 * scale, 0.1 * scale)], 0.02 * scale)
    marks = forest.ticks(low, high)
    assert 3 <= len(marks) <= 9
    assert low <= marks[0]
    assert marks[-1] <= high
    assert 0.0 in marks
    steps = np.diff(marks)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert steps == pytest.approx(steps[0])
    assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 1e-6


def test_pareto_front_is_what_no_arm_beats_in_both() -> None:
    rng = np.random.default_rng(8)
    study = normal(make_study(points=20))
    for ratio, mean in rng.random((40, 2)).round(1):
        study["arms"].append(study["arms"][1] | {"name": f"{ratio}-{mean}", "mean": mean, "cost": {"ratio": ratio}})
    points = {arm["name"]: (arm["cost"]["ratio"], arm["mean"]) for arm in study["arms"]}
    front = {points[name] for name in pareto(study)}
    beaten = {p for p in points.values() if any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points.values())}
    assert front == set(points.values()) - beaten


def test_notable_is_more_than_five_percent_off() -> None:
    study = small(a=[], b=[])
    x = list(range(11))
    for factor, expected in ((1.04, False), (1.06, True)):
        for arm, size in zip(study["arms"], (1.0, factor)):
            arm["inside"] = {"norm": {"x": x, "value": [size] * 11}}
        assert notable(study, "norm") is expected
    del study["arms"][1]["inside"]["norm"]
    assert notable(study, "norm") is True  # one arm has it and the other has not


# --- colors -------------------------------------------------------------------------------------------------


def linear(color: str) -> np.ndarray:
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2: (lighter + 0.05) / (darker + 0.05)."""
    light = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("mode", MODES)
def test_text_and_verdicts_read_on_the_page_and_lines_stand_out(mode: str) -> None:
    for ground in ("page", "wash"):
        words = [INK[mode]["text"], INK[mode]["soft"], *VERDICTS[mode].values()]
        assert min(contrast(word, INK[mode][ground]) for word in words) >= 4.5
    assert min(contrast(arm, INK[mode]["page"]) for arm in ARMS[mode]) >= 3


# Machado, Oliveira and Fernandes 2009, severity 1: what a dichromat sees, in linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vision", VISION)
def test_any_two_of_eight_arms_differ_for_every_eye(mode: str, vision: str) -> None:
    seen = [lab(np.array(VISION[vision]) @ linear(color)) for color in ARMS[mode]]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert len(ARMS[mode]) == 8
    assert min(apart) > 15  # CIE76; 2.3 is just noticeable
