"""Warm-up, stable, decay, constant: step by step against the formula, and what it is without its last part."""

import math

import pytest

import regimes as rg
from regimes.core.kinds import percent_span
from regimes.core.progress import Progress

SHAPES = {
    "linear": lambda h, low, u: low + (h - low) * (1 - u),
    "sqrt": lambda h, low, u: low + (h - low) * (1 - math.sqrt(u)),
    "cosine": lambda h, low, u: low + (h - low) * (1 + math.cos(math.pi * u)) / 2,
    "exponential": lambda h, low, u: math.exp((1 - u) * math.log(h) + u * math.log(low)),
    "inverse": lambda h, low, u: 1 / ((1 - u) / h + u / low),
}
PARTS = [(5, 20, 10, 7), (0, 12, 30, 1), (3, 0, 40, 20), (1, 1, 1, 1), (10, 50, 25, 0)]


def table(schedule, steps):
    function = schedule.bind(percent_span(steps))
    return [function(Progress(fraction=t / steps, run_fraction=t / steps)) for t in range(steps + 1)]


def declared(warm, decay, constant, **fields):
    return rg.WSDC(
        0.3, decay=f"{decay} steps", constant=f"{constant} steps", final=0.02, warmup=f"{warm} steps", **fields
    )


@pytest.mark.exact("WSDC")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", PARTS)
def test_every_step_is_the_formula(parts, shape):
    warm, stable, decay, constant = parts
    expected = [0.3 * t / warm for t in range(warm)] + [0.3] * stable
    expected += [SHAPES[shape](0.3, 0.02, t / decay) for t in range(decay)] + [0.02] * (constant + 1)
    found = table(declared(warm, decay, constant, decay_shape=shape), sum(parts))
    assert found == pytest.approx(expected, rel=1e-12)
    # At the joints and after the decay there is nothing to round.
    assert found[warm] == 0.3
    assert set(found[len(found) - 1 - constant :]) == {0.02}


@pytest.mark.exact("WSDC")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warm", ["0%", "13%", "4 steps"])
def test_without_a_constant_end_it_is_wsd_to_the_bit(shape, warm):
    for decay in ("100%", "31%", "7 steps", "1 steps"):
        if decay == "100%" and warm != "0%":
            continue
        fields = {"decay": decay, "decay_shape": shape, "warmup": warm, "final": 0.011}
        assert table(rg.WSDC(0.3, constant="0%", **fields), 97) == table(rg.WSD(0.3, **fields), 97)


@pytest.mark.exact("WSDC")
def test_with_neither_stable_nor_constant_part_it_falls_in_a_straight_line():
    for warm in (0, 1, 10, 33):
        mine = rg.WSDC(0.3, f"{97 - warm} steps", "0%", 0.02, warmup=f"{warm} steps")
        assert table(mine, 97) == pytest.approx(table(rg.Linear(0.3, 0.02, warmup=f"{warm} steps"), 97), rel=1e-14)


@pytest.mark.exact("WSDC")
@pytest.mark.parametrize("parts", PARTS)
def test_rates_of_a_linear_decay_add_up_to_the_closed_form(parts):
    warm, stable, decay, constant = parts
    rates = table(declared(warm, decay, constant), sum(parts))[:-1]
    rise = 0.3 * (warm - 1) / 2 if warm else 0.0
    closed = rise + 0.3 * stable + 0.02 * decay + 0.28 * (decay + 1) / 2 + 0.02 * constant
    assert math.fsum(rates) == pytest.approx(closed, rel=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_continuous_where_its_parts_meet(shape):
    s = rg.WSDC(1.0, "30%", "20%", 0.1, shape, warmup="10%")
    for joint, value in ((0.1, 1.0), (0.5, 1.0), (0.8, 0.1), (1.0, 0.1)):
        steep = 2e-6 if (shape, joint) == ("sqrt", 0.5) else 1e-10  # a square root begins vertically
        assert [s(joint - 1e-12), s(joint), s(min(joint + 1e-12, 1.0))] == pytest.approx([value] * 3, abs=steep)


def test_the_final_value_is_a_tenth_of_the_peak_unless_said():
    assert rg.WSDC(0.3)(1.0) == 0.03
    assert rg.WSDC(0.3, final=0.0)(1.0) == 0.0


def test_a_run_that_was_stopped_goes_on_with_the_same_rates(tmp_path):
    work = rg.workloads.load("quadratic")
    lr = declared(3, 5, 4)
    regime = rg.Regime(optimizer=rg.SGD(lr=lr), batch_size=8, budget="20 steps")
    whole = rg.run(work, regime)
    for stop in range(1, 20):
        out = tmp_path / str(stop)
        stream = rg.stream(work, regime, out=out)
        for _ in range(stop):
            next(stream)
        stream.close()
        again = rg.run(work, regime, out=out)
        assert [row["knobs"] for row in again.records] == [row["knobs"] for row in whole.records], stop
    assert [row["knobs"]["optimizer.lr"] for row in whole.records] == table(lr, 20)[:-1]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: rg.WSDC(1.0, decay="0%")(0.5), "decay: got '0%'; allowed: more than nothing"),
        (
            lambda: rg.WSDC(1.0, "50%", "40%", warmup="20%")(0.5),
            r"constant: got '40%'; warm-up, decay \('50%'\) and constant together exceed the stretch",
        ),
        (
            lambda: rg.WSDC(1.0, final=0.0, decay_shape="inverse"),
            "decay_shape: got 'inverse' from 1 to 0; allowed: both above 0, or another shape",
        ),
        (lambda: rg.WSD(1.0, decay_shape="exponential"), "decay_shape: got 'exponential' from 1 to 0; allowed: both"),
        (lambda: rg.WSD(1.0, decay_shape="inverse_sqrt"), "decay_shape: got 'inverse_sqrt'"),
    ],
)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()
