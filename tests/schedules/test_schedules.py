"""Closed tables of every schedule, warm-ups, moments on the very step, and refusals before anything is spent."""

import math

import pytest

import regimes as rg
from regimes.core.kinds import Span, percent_span
from regimes.core.progress import Progress
from regimes.core.registry import REGISTRY
from regimes.engine.compile import compile_regime

SQRT = math.sqrt

#: (schedule, {fraction: value}), ends included.
TABLES = [
    (rg.Constant(0.5), {0: 0.5, 0.3: 0.5, 1: 0.5}),
    (rg.Constant(0.5, warmup="20%"), {0: 0, 0.05: 0.125, 0.2: 0.5, 1: 0.5}),
    (rg.Linear(1.0, 0.2), {0: 1, 0.25: 0.8, 1: 0.2}),
    (rg.Linear(0.2, 1.0), {0: 0.2, 0.25: 0.4, 1: 1}),
    (rg.Linear(1.0, warmup="50%"), {0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.5, 1: 0}),
    (rg.Cosine(1.0), {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
    (rg.Cosine(1.0, 0.1, warmup="25%"), {0: 0, 0.25: 1, 0.5: 0.775, 1: 0.1}),
    (rg.DampedCosine(1.0, 0.5, 0.0), {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
    (rg.DampedCosine(1.0, 1.5, math.log(8), 0.2), {0: 1, 1 / 3: 0.2, 0.5: 0.2 + 0.4 / SQRT(8), 2 / 3: 0.4, 1: 0.2}),
    (rg.DampedCosine(1.0, 1.5, math.log(16), warmup="20%"), {0.1: 0.5, 0.2: 1, 0.6: 0.125, 1: 0}),
    (rg.Polynomial(1.0, 3.0), {0: 1, 0.5: 0.125, 1: 0}),
    (rg.Polynomial(1.0, 0.5, 0.5), {0: 1, 0.75: 0.75, 1: 0.5}),
    (rg.Exponential(1.0, 0.01), {0: 1, 0.5: 0.1, 1: 0.01}),
    (rg.Exponential(1.0, 0.01, warmup="20%"), {0.1: 0.5, 0.2: 1, 0.6: 0.1, 1: 0.01}),
    (rg.Exponential(1.0, 0.5, every="10%", warmup="20%"), {0.2: 1, 0.3: 0.5, 0.4: 0.25, 1: 2**-8}),
    (rg.Exponential(1e-6, 1e6), {0: 1e-6, 0.5: 1e-3, 1: 1}),
    (rg.InverseSqrt(1.0, warmup="4%"), {0: 0, 0.02: 0.5, 0.04: 1, 0.16: 0.5, 1: 0.2}),
    (rg.InverseSqrt(1.0, "10%"), {0: 1, 0.3: 0.5, 0.8: 1 / 3, 1: SQRT(0.1 / 1.1)}),
    (rg.InverseSqrt(1.0, "10%", warmup="20%"), {0.1: 0.5, 0.2: 1, 0.5: 0.5, 1: 1 / 3}),
    (rg.Step(1.0, ["30%", "60%"], 0.5), {0: 1, 0.299: 1, 0.3: 0.5, 0.599: 0.5, 0.6: 0.25, 1: 0.25}),
    (rg.Step(1.0, ["30%", "100%"], 0.5, warmup="10%"), {0.05: 0.5, 0.1: 1, 0.299: 1, 0.3: 0.5, 0.99: 0.5, 1: 0.25}),
    (rg.Step(1.0, "40%", 0.0), {0.399: 1, 0.4: 0, 1: 0}),
    (rg.Piecewise(2.0, ["50%", "75%"], [0.5, 3]), {0: 2, 0.499: 2, 0.5: 1, 0.75: 6, 1: 6}),
    (
        rg.Piecewise(2.0, ["60%", "100%"], [0.5, 0], interpolate="linear", warmup="20%"),
        {0: 0, 0.1: 1, 0.2: 2, 0.4: 1.5, 0.6: 1, 0.8: 0.5, 1: 0},
    ),
    (rg.Piecewise(2.0, "50%", 0.5, interpolate="linear"), {0: 2, 0.25: 1.5, 0.5: 1, 0.9: 1, 1: 1}),
    (
        rg.OneCycle(1.0, "40%", div_factor=10, final_div_factor=10, anneal_strategy="linear"),
        {0: 0.1, 0.2: 0.55, 0.4: 1, 0.7: 0.505, 1: 0.01},
    ),
    (
        rg.OneCycle(1.0, "40%", div_factor=10, final_div_factor=10, three_phase=True),
        {0: 0.1, 0.2: 0.55, 0.4: 1, 0.6: 0.55, 0.8: 0.1, 0.9: 0.055, 1: 0.01},
    ),
    (rg.Triangular(1.0, 0.2, "25%"), {0: 0.2, 0.125: 0.6, 0.25: 1, 0.5: 0.2, 0.625: 0.6, 1: 0.2}),
    (rg.Triangular(1.0, up="10%", down="40%", mode="triangular2"), {0: 0, 0.1: 1, 0.3: 0.5, 0.5: 0, 0.6: 0.5, 1: 0}),
    (rg.WarmRestarts(1.0, "25%"), {0: 1, 0.125: 0.5, 0.25: 1, 0.875: 0.5, 1: 1}),
    (rg.WarmRestarts(1.0, "20%", growth=1.5, final=0.5), {0: 1, 0.1: 0.75, 0.2: 1, 0.35: 0.75, 0.5: 1, 0.725: 0.75}),
    (rg.REX(1.0), {0: 1, 0.5: 2 / 3, 0.8: 1 / 3, 1: 0}),
    (rg.REX(1.0, final=0.4, warmup="20%"), {0.1: 0.5, 0.2: 1, 0.6: 0.8, 1: 0.4}),
    (rg.REX(1.0, beta=2.0), {0: 1, 0.5: 1 / 3, 1: 0}),
    (rg.WSD(1.0, warmup="10%", decay="20%"), {0: 0, 0.05: 0.5, 0.1: 1, 0.8: 1, 0.9: 0.5, 1: 0}),
    (rg.WSD(1.0, decay="20%", decay_shape="sqrt", final=0.1), {0.8: 1, 0.85: 0.55, 1: 0.1}),
    (rg.WSD(1.0, decay="30%", decay_shape="cosine"), {0.7: 1, 0.8: 0.75, 0.85: 0.5, 1: 0}),
    (rg.WSD(1.0, decay="0%"), {0: 1, 1: 1}),
    (rg.WSD(1.0, decay="100%"), {0: 1, 0.5: 0.5, 1: 0}),
    (rg.WSD(1.0, decay="40%", decay_shape="exponential", final=0.01), {0: 1, 0.6: 1, 0.8: 0.1, 1: 0.01}),
    (rg.WSD(1.0, decay="40%", decay_shape="inverse", final=0.25), {0: 1, 0.6: 1, 0.8: 0.4, 0.9: 4 / 13, 1: 0.25}),
    (rg.WSDC(1.0, "20%", "30%", 0.2), {0: 1, 0.5: 1, 0.6: 0.6, 0.7: 0.2, 0.85: 0.2, 1: 0.2}),
    (rg.WSDC(2.0, "40%", "10%", decay_shape="sqrt", warmup="20%"), {0: 0, 0.1: 1, 0.5: 2, 0.6: 1.1, 0.9: 0.2, 1: 0.2}),
    (rg.WSDS(1.0, ["50%", "100%"], "20%", 0.25), {0: 1, 0.4: 1, 0.45: 0.4, 0.5: 1, 0.8: 1, 0.9: 0.4, 1: 0.25}),
    (rg.WSDS(1.0, ["60%"], "20%", 0, "linear", warmup="20%"), {0: 0, 0.2: 1, 0.48: 1, 0.54: 0.5, 0.6: 1, 1: 1}),
    (rg.InfiniteLR(1.0, 0.5, "50%", "20%", 0.005), {0: 1, 0.25: 0.75, 0.5: 0.5, 0.8: 0.5, 0.9: 0.05, 1: 0.005}),
    (
        rg.InfiniteLR(1.0, 0.2, "80%", "0%", cooldown_shape="inverse_sqrt", warmup="20%"),
        {0: 0, 0.1: 0.5, 0.2: 1, 0.44: 0.2 + 0.8 * (0.5 - SQRT(1 / 11)) / (1 - SQRT(1 / 11)), 1: 0.2},
    ),
    (rg.Rewarm(1.0, "20%"), {0: 0.1, 0.1: 0.55, 0.2: 1, 0.6: 0.55, 1: 0.1}),
    (rg.Rewarm(1.0, "0%", 0.5), {0: 1, 1 / 3: 0.875, 0.5: 0.75, 1: 0.5}),
    (rg.Rewarm(1.0, "50%", 0.0, 0.5, warmup="20%"), {0: 0, 0.1: 0.25, 0.2: 0.5, 0.45: 0.75, 0.7: 1, 0.85: 0.5, 1: 0}),
    (
        rg.Piecewise(2.0, ["50%", "75%"], [0.5, 3], "linear", 0.0),
        {0: 0, 0.25: 0.5, 0.5: 1, 0.625: 3.5, 0.75: 6, 1: 6},
    ),
    (rg.Window(rg.Linear(1.0, 0.2), "40%", "20%"), {0: 1, 0.4: 1, 0.5: 0.6, 0.6: 0.2, 1: 0.2}),
]


@pytest.mark.exact("REX")
@pytest.mark.parametrize(("schedule", "table"), TABLES, ids=[repr(s) for s, _ in TABLES])
def test_closed_table(schedule, table):
    assert [schedule(f) for f in table] == pytest.approx(list(table.values()), abs=1e-14, rel=1e-12)


def test_every_schedule_has_a_table_with_both_ends():
    plain = {"Then", "Clip", "Sampled"}  # their courses are those of what they hold, tested with them
    names = {cls.__name__ for cls in REGISTRY.classes("schedule") if cls.__module__.startswith("regimes.")} - plain
    told = {type(s).__name__ for s, table in TABLES if 0 in table and 1 in table}
    assert names == told


@pytest.mark.parametrize("schedule", [s for s, _ in TABLES if s != rg.WSD(1.0, decay="100%")], ids=repr)
def test_warm_up_rises_linearly_to_where_the_curve_begins_and_shifts_nothing_else(schedule):
    warmed = schedule.replace("warmup", "16%")
    top = warmed(0.16)
    assert [warmed(0.16 * u) for u in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([0, top / 4, top / 2, 3 * top / 4])
    assert warmed(1.0) == pytest.approx(warmed(1.0, steps=100), rel=1e-12)


@pytest.mark.parametrize("warm", [0, 1, 7])
def test_what_is_declared_in_percent_happens_on_the_very_step(warm):
    """p% of T steps, where that is a whole step k: the value changes at k, not one step earlier or later."""
    changes = 0
    for steps in range(10, 211):
        span = Span(lambda d, n=steps: d.value / n if d.unit == "steps" else d.share * n / n, steps)  # as the engine's
        for p in range(1, 100):
            k, moment = p * steps // 100, f"{p}%"
            if p * steps % 100 or k <= warm + 1:
                continue
            begin = {"warmup": f"{warm} steps"}
            schedules = [
                rg.Step(1.0, moment, 0.5, **begin),
                rg.Piecewise(1.0, moment, 0.5, **begin),
                rg.Then(rg.Constant(1.0), rg.Constant(0.5), moment, **begin),
            ]
            schedules += [rg.Linear(1.0, 0.5).sampled(moment), rg.WarmRestarts(1.0, moment)] if warm == 0 else []
            for schedule in schedules:
                function = schedule.bind(span)
                early, before, after = (function(Progress(fraction=t / steps)) for t in (k - 2, k - 1, k))
                if isinstance(schedule, rg.WarmRestarts):
                    assert before < 1.0 == after, (schedule, steps)
                else:
                    assert early == before == 1.0 > after, (schedule, steps)
                changes += 1
    assert changes > 1000


def test_inclusive_reaches_its_very_last_value_at_the_last_step():
    for steps in range(3, 60):
        for warm in range(steps - 2):
            function = rg.Linear(1.0, warmup=f"{warm} steps", inclusive=True).bind(percent_span(steps))
            last, before = (function(Progress(fraction=t / steps)) for t in (steps - 1, steps - 2))
            assert (last, before > 0.0) == (0.0, True), (steps, warm)


def test_restarts_stay_on_their_steps_however_far():
    for growth, period in ((2.0, 1), (3.0, 2), (1.5, 4), (1.0, 7), (1.0000001, 10)):
        starts, length = [0.0], float(period)
        while starts[-1] + length < 1e6:
            starts.append(starts[-1] + length)
            length *= growth
        function = rg.WarmRestarts(1.0, f"{period} steps", growth=growth).bind(percent_span(1_000_000))
        for start in starts[:40] + starts[-40:]:
            at, before = (function(Progress(fraction=t / 1e6)) for t in (start, start - 0.01 * period))
            assert at == pytest.approx(1.0, abs=1e-6)
            assert start == 0.0 or before < 0.01


@pytest.mark.exact("DampedCosine")
def test_a_damped_cosine_is_a_cosine_at_one_half():
    damped, cosine = rg.DampedCosine(3e-3, 0.5, 0.0, 1e-4, warmup="7%"), rg.Cosine(3e-3, 1e-4, warmup="7%")
    assert [damped(f / 100) for f in range(101)] == [cosine(f / 100) for f in range(101)]


@pytest.mark.exact("DampedCosine")
def test_a_damped_cosine_touches_its_envelope_and_its_floor():
    for cycles in (1, 2.5, 4):
        schedule = rg.DampedCosine(1.0, cycles, 2.0, 0.1)
        for swing in range(int(cycles) + 1):
            assert schedule(swing / cycles) == pytest.approx(0.1 + 0.9 * math.exp(-2 * swing / cycles), rel=1e-12)
        for swing in range(int(cycles + 0.5)):
            assert schedule((swing + 0.5) / cycles) == pytest.approx(0.1, rel=1e-12)


def test_long_warm_ups():
    assert rg.Cosine(1.0, warmup="100%")(0.5) == 0.5
    assert rg.Cosine(1.0, warmup="100%")(1.0) == 1.0
    assert rg.InverseSqrt(1.0, warmup="100%")(1.0) == 1.0
    assert rg.Linear(1.0).sampled("10%").replace("warmup", "100%")(0.25) == 0.25


REFUSALS = [
    (
        lambda: rg.Cosine(1.0, warmup="101%")(0.5),
        "warmup: got '101%', 1.01 times the stretch that it warms up; allowed: at most the whole of it",
    ),
    (lambda: rg.Cosine(1.0, warmup="5 steps")(0.5), "warmup: got '5 steps', but nothing here says how many"),
    (lambda: rg.Cosine(1.0, inclusive=True)(0.5), "inclusive: needs a known number of steps"),
    (
        lambda: rg.WarmRestarts(1.0, "25%", inclusive=True)(0.5, steps=8),
        "inclusive: got True; allowed: False for a Warm",
    ),
    (
        lambda: rg.WSDS(1.0, ["50%", "100%"], inclusive=True)(0.5, steps=8),
        "inclusive: got True; allowed: False for a WSDS",
    ),
    (lambda: rg.Triangular(1.0, inclusive=True)(0.5, steps=80), "inclusive: got True; allowed: False for a Triangular"),
    (lambda: rg.Exponential(1.0, 0.0), "factor: got 0.0; allowed: a finite number > 0"),
    (lambda: rg.Exponential(1.0, 0.5, every="0%")(0.5), "every: got '0%'; allowed: more than nothing"),
    (lambda: rg.DampedCosine(1.0, 0.0, 1.0), "cycles: got 0.0; allowed: a finite number > 0"),
    (lambda: rg.DampedCosine(1.0, 0.5, -0.1), "damping: got -0.1; allowed: a finite number >= 0"),
    (lambda: rg.InverseSqrt(1.0), "timescale: needs a value, or a warmup"),
    (lambda: rg.InverseSqrt(1.0, "0%")(0.5), "timescale: got '0%'; allowed: more than nothing"),
    (lambda: rg.Step(1.0), "milestones: Step needs a value"),
    (lambda: rg.Step(1.0, []), "milestones: got none"),
    (lambda: rg.Step(1.0, ["60%", "30%"])(0.5), r"milestones: got \['60%', '30%'\]; allowed: moments in order"),
    (lambda: rg.Step(1.0, ["60%", "101%"])(0.5), "milestones: got '101%'; allowed: after the warm-up, up to the end"),
    (lambda: rg.Step(1.0, "5%", warmup="5%")(0.5), "milestones: got '5%'; allowed: after the warm-up"),
    (lambda: rg.Step(1.0, "3 epochs")(0.5), "milestones: got '3 epochs'"),
    (lambda: rg.Step(1.0, [0.5]), r"milestones.0: got 0.5, an amount without a unit"),
    (lambda: rg.Piecewise(1.0, ["5%"], []), "factors: got 0 for 1 moments"),
    (lambda: rg.Piecewise(1.0, [], []), "factors: got 0 for 0 moments"),
    (lambda: rg.Piecewise(1.0, ["5%", "5%"], [1, 2])(0.5), "at: .*each moment once"),
    (lambda: rg.OneCycle(1.0, "100%")(0.5), "rise: got '100%'; allowed: inside the stretch"),
    (lambda: rg.OneCycle(1.0, "50%", three_phase=True)(0.5), "rise: got '50%'; allowed: twice inside the stretch"),
    (lambda: rg.OneCycle(1.0, "10%", inclusive=True)(0.5, steps=10), "rise: got '10%'"),
    (lambda: rg.OneCycle(1.0, pct_start=0.3), "OneCycle has no field 'pct_start'"),
    (lambda: rg.Triangular(1.0, up="0%")(0.5), "up: got '0%'; allowed: more than nothing"),
    (lambda: rg.Triangular(1.0, down="0%")(0.5), "down: got '0%'; allowed: more than nothing"),
    (lambda: rg.Triangular(1.0, gamma=0.9), "gamma: got 0.9 in mode 'triangular'; allowed: 1, or mode='exp_range'"),
    (lambda: rg.Triangular(1.0, mode="exp_range", gamma=0.9)(0.5), "gamma: got '1 steps', but nothing"),
    (lambda: rg.WarmRestarts(1.0, "0%")(0.5), "period: got '0%'; allowed: more than nothing"),
    (lambda: rg.WarmRestarts(1.0, "10%", growth=0.5), "growth: got 0.5; allowed: a finite number >= 1"),
    (lambda: rg.REX(1.0, beta=0.0), "beta: got 0.0; allowed: a finite number > 0"),
    (lambda: rg.WSD(1.0, warmup="50%", decay="60%")(0.5), "decay: got '60%'; warm-up and decay together exceed"),
    (lambda: rg.WSD(1.0, warmup="100%", decay="10%")(0.5), "decay: got '10%'; warm-up and decay together exceed"),
    (lambda: rg.Cosine(rg.Constant(1.0)), "peak: got"),
]


@pytest.mark.parametrize(("build", "said"), REFUSALS)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()


def compiled(schedule, budget="100 steps", **fields):
    optimizer = fields.pop("optimizer", None) or rg.SGD(lr=schedule)
    regime = rg.Regime(optimizer=optimizer, batch_size=fields.pop("batch_size", 8), budget=budget, **fields)
    return compile_regime(regime, [160], example_tokens=None)[0]


NEGATIVE = [
    rg.Linear(0.1, -0.1),
    rg.Cosine(0.1, -1e-9),
    rg.Constant(-0.1),
    rg.Polynomial(1.0, final=-0.1),
    rg.Triangular(0.1, -0.1),
    rg.WarmRestarts(0.1, "10%", final=-0.1),
    rg.REX(0.1, final=-0.1),
    rg.WSD(0.1, final=-0.1),
    rg.Piecewise(0.1, "99%", [-1]),
    rg.Step(0.1, "50%", 0.1) + (-0.05),
    rg.Linear(0.2) * -1,
    rg.Constant(0.1).then(rg.Linear(0.1, -0.1), "90%"),
    rg.Linear(0.1, -0.1).sampled("10%"),
    rg.Linear(0.1, -0.1).clip(high=0.05),
]


@pytest.mark.parametrize("schedule", NEGATIVE, ids=repr)
def test_a_rate_that_goes_negative_is_refused_before_anything_is_spent(schedule):
    with pytest.raises(
        rg.DeclarationError, match=r"^optimizer.lr: .* of the stretch got -.*; allowed: a finite number >= 0"
    ):
        compiled(schedule)


def test_what_is_not_finite_is_refused_before_anything_is_spent():
    with pytest.raises(rg.DeclarationError, match=r"optimizer.lr: .* of the stretch got inf"):
        compiled(rg.Constant(1e200) * rg.Constant(1e200))


def test_a_batch_that_rounds_to_nothing_is_refused():
    with pytest.raises(rg.DeclarationError, match=r"batch_size: Cosine\(32.0\) at .* got 0; allowed: an integer >= 1"):
        compiled(0.1, batch_size=rg.Cosine(32), budget="800 samples")


def test_the_same_is_allowed_where_it_is_harmless():
    assert compiled(rg.Linear(0.1, -0.1).clip(low=0.0)).functions["optimizer.lr"](Progress(fraction=0.9)) == 0.0
    phase = compiled(None, optimizer=rg.SGD(lr=0.1, momentum=0.9, dampening=rg.Linear(0.1, -0.1)))
    assert phase.functions["optimizer.dampening"](Progress(fraction=1.0)) == -0.1


def test_refusals_name_the_path_to_the_duration():
    with pytest.raises(
        rg.DeclarationError, match=r"^optimizer.lr.warmup: got '5 steps' where the budget is '800 samples'"
    ):
        compiled(rg.Cosine(0.1, warmup="5 steps"), batch_size=rg.Linear(2, 4), budget="800 samples")
    with pytest.raises(rg.DeclarationError, match=r"^optimizer.lr.second.every: got '9 tokens'"):
        compiled(rg.Constant(0.1).then(rg.Exponential(0.1, 0.5, every="9 tokens"), "50%"))


def test_a_batch_size_schedule_does_not_bend_the_rate():
    import torch

    data = (torch.zeros(64, 2), torch.zeros(64, 1))
    work = rg.Workload(model=lambda: torch.nn.Linear(2, 1), train=data, loss=rg.MSE())
    regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.3)), batch_size=rg.Linear(2, 16), budget="200 samples")
    sizes = set()
    for record in rg.Run(work, regime):
        assert record.knobs["optimizer.lr"] == pytest.approx(rg.Cosine(0.3)(record.at.samples / 200), abs=1e-15)
        sizes.add(record.knobs["batch_size"])
    assert len(sizes) > 5
