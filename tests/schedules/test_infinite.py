"""A rate without an end: step by step against the formula, its reductions, and over two phases."""

import math

import pytest

import regimes as rg
from regimes.core.kinds import percent_span
from regimes.core.progress import Progress


def table(schedule, steps):
    function = schedule.bind(percent_span(steps))
    return [function(Progress(fraction=t / steps, run_fraction=t / steps)) for t in range(steps + 1)]


def twin(t, warm, cool, begin, end, shape):
    """eta_max 0.3, eta_const 0.12, eta_min 0.01 at step t."""
    high, level, low = 0.3, 0.12, 0.01
    if t < warm:
        return high * t / warm
    if t < warm + cool:
        u = (t - warm) / cool
        if shape == "cosine":
            return level + (high - level) / 2 * (1 + math.cos(math.pi * u))

        def fallen(v):
            return 1 / math.sqrt(1 + 10 * v) - 1

        return high + (level - high) / fallen(1) * fallen(u)
    if t <= begin:
        return level
    return level * math.exp(-math.log(level / low) * (t - begin) / (end - begin))


@pytest.mark.exact("InfiniteLR")
@pytest.mark.parametrize("shape", ["cosine", "inverse_sqrt"])
@pytest.mark.parametrize(("warm", "cool", "last"), [(0, 30, 20), (5, 40, 10), (9, 1, 90), (10, 60, 30), (4, 50, 1)])
def test_every_step_is_the_formula(warm, cool, last, shape):
    lr = rg.InfiniteLR(0.3, 0.12, f"{cool} steps", f"{last} steps", 0.01, cooldown_shape=shape, warmup=f"{warm} steps")
    found = table(lr, 100)
    assert found == pytest.approx([twin(t, warm, cool, 100 - last, 100, shape) for t in range(101)], rel=1e-12)
    assert [found[warm], found[warm + cool], found[100]] == [0.3, 0.12, 0.01]  # to the bit
    assert found[100 - last] == 0.12


@pytest.mark.parametrize("shape", ["cosine", "inverse_sqrt"])
def test_it_is_continuous_where_its_parts_meet(shape):
    s = rg.InfiniteLR(1.0, 0.5, "40%", "20%", 0.1, shape, warmup="10%")
    for joint, value in ((0.1, 1.0), (0.5, 0.5), (0.8, 0.5), (1.0, 0.1)):
        assert [s(joint - 1e-12), s(joint), s(min(joint + 1e-12, 1.0))] == pytest.approx([value] * 3, abs=1e-10)


@pytest.mark.exact("InfiniteLR")
@pytest.mark.parametrize("shape", ["cosine", "inverse_sqrt"])
@pytest.mark.parametrize("warm", ["0%", "13%", "4 steps"])
def test_where_the_constant_is_the_peak_it_is_wsd_with_an_exponential_decay_to_the_bit(shape, warm):
    for anneal in ("31%", "7 steps", "0%"):
        mine = rg.InfiniteLR(0.3, 0.3, "20%", anneal, 0.011, shape, warmup=warm)
        theirs = rg.WSD(0.3, anneal, 0.011, "exponential", warmup=warm)
        assert table(mine, 97) == table(theirs, 97)


@pytest.mark.exact("InfiniteLR")
def test_it_is_its_parts_one_after_another():
    parts = rg.Cosine(0.3, 0.12).then(rg.Constant(0.12).then(rg.Exponential(0.12, 0.01 / 0.12), "60%"), "50%")
    mine = rg.InfiniteLR(0.3, 0.12, "50%", "20%", 0.01)
    assert table(mine, 100) == pytest.approx(table(parts, 100), rel=1e-13)


def test_over_two_phases_it_is_read_as_one():
    lr = rg.InfiniteLR(0.02, 0.01, "10 steps", "5 steps", over="run", warmup="2 steps")
    phases = [rg.Phase(name, budget="15 steps", optimizer=rg.SGD(lr=lr)) for name in ("old", "new")]
    run = rg.run(rg.workloads.load("quadratic"), rg.Regime(phases=phases, batch_size=4))
    found = [row["knobs"]["optimizer.lr"] for row in run.records]
    assert found == pytest.approx(table(lr, 30)[:-1], rel=1e-12)
    assert found[15:25] == [0.01] * 10  # the seam is in the constant part: nothing is warmed up again


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: rg.InfiniteLR(1.0, 0.5, "0%")(0.5), "cooldown: got '0%'; allowed: more than nothing"),
        (
            lambda: rg.InfiniteLR(1.0, 0.5, "70%", "20%", warmup="20%")(0.5),
            r"cooldown: got '70%'; warm-up, cooldown and annealing \('20%'\) together exceed the stretch",
        ),
        (lambda: rg.InfiniteLR(1.0, 0.5, "70%", final=0.0), "final: got 'exponential' from 0.5 to 0; allowed: both"),
        (lambda: rg.InfiniteLR(1.0, 0.0, "70%"), "final: got 'exponential' from 0 to 0.1"),
    ],
)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()
