"""Formulas of scripts give the bits of the schedules, on every stretch, known beforehand or not."""

import math

import pytest

import regimes as rg
from regimes.core.kinds import percent_span
from regimes.core.progress import Progress
from regimes.core.registry import REGISTRY
from regimes.ejection.curves import CURVES
from regimes.ejection.formulas import Formulas
from regimes.testing.random_regimes import pool

SCHEDULES = [
    *pool("schedule", "core"),
    rg.WSD(0.3, decay="30%", decay_shape="sqrt", warmup="7%"),
    rg.WSD(0.3, decay="100%", decay_shape="cosine", final=0.01),
    rg.WSD(0.3, decay="40%", decay_shape="exponential", final=0.01),
    rg.WSD(0.3, decay="100%", decay_shape="inverse", final=0.02, inclusive=True),
    rg.OneCycle(0.3, inclusive=True),
    rg.OneCycle(0.3, rise="20%", three_phase=True, anneal_strategy="linear", warmup="5%"),
    rg.Polynomial(1.0, power=1.7, final=0.1, inclusive=True),
    rg.Piecewise(0.5, at=["10%", "35%", "60%"], factors=[0.3, 2.0, 0.1], interpolate="linear"),
    rg.Piecewise(0.5, at=["10%", "35%", "60%"], factors=[0.3, 2.0, 0.1], warmup="3 steps"),
    rg.Piecewise(0.5, at=["29%", "58%", "87%"], factors=[0.3, 2.0, 0.1], interpolate="linear", first=0.2, warmup="1%"),
    rg.Step(0.5, milestones=["50%"], factor=0.3),
    rg.Triangular(0.5, base=0.1, up="13%", down="9%", mode="triangular2"),
    rg.Triangular(0.5, up="13%", mode="exp_range", gamma=0.99),
    rg.WarmRestarts(0.5, period="11%", growth=1.7, final=0.02, warmup="4%"),
    rg.Exponential(0.5, 0.9, every="1 steps", warmup="6%"),
    0.1 + rg.Cosine(0.3, final=0.1, warmup="100%") * (rg.Linear(2.0) + rg.Constant(0.5, warmup="20%")),
    rg.Constant(1.0).then(rg.Linear(1.0, 0.2, warmup="10%"), "40%"),
    rg.Cosine(1.0, warmup="10%").clip(0.3, 0.7).sampled("9%"),
    rg.Window(rg.REX(0.3, beta=0.7, final=0.01), start="20%", length="50%"),
]


@pytest.mark.parametrize("steps", [1, 7, 200])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_formula_is_the_schedule_to_the_bit(schedule, steps, known):
    span = percent_span(steps)
    try:
        expected = schedule.bind(span)
    except rg.DeclarationError:
        pytest.skip("does not fit into so few steps")
    points = [step / steps for step in range(steps)]
    found = Formulas()
    text = found.expression(
        schedule,
        span,
        dict.fromkeys(("phase", "run"), "x"),
        dict.fromkeys(("phase", "run"), points if known else None),
        "lr",
    )
    names = {"math": math}
    exec("\n".join(line for function in found.functions for line in function), names)
    for x in points:
        assert eval(text, names, {"x": x}) == expected(Progress(fraction=x, run_fraction=x)), (x, found.functions)


def test_every_schedule_of_the_core_shelf_has_a_formula():
    core = {cls for cls in REGISTRY.classes("schedule") if getattr(cls, "card", None) and cls.card.shelf == "core"}
    assert core == set(CURVES)


def test_pieces_that_no_step_reaches_are_left_out():
    found = Formulas()
    clocks, points = {"phase": "done"}, {"phase": [0.5, 0.6]}
    found.expression(rg.Linear(1.0, warmup="20%"), percent_span(), clocks, points, "lr")
    assert [line for line in found.functions[0] if " if " in line] == []
    assert "    x = (x - 0.2) / 0.8" in found.functions[0]


def test_a_schedule_of_the_other_shelf_is_refused():
    with pytest.raises(rg.DeclarationError, match="DampedCosine.*no script knows; allowed: Clip, Constant"):
        Formulas().expression(rg.DampedCosine(0.1, 2.5, 1.5), percent_span(), {"phase": "x"}, {"phase": None}, "lr")
