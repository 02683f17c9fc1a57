"""Products, sums, sequences, clipping and sampling: values, stretches, paths, and printing of every nesting."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import regimes as rg
from regimes.core import paths
from regimes.core.algebra import ControlledPair, Pair
from regimes.core.kinds import Controller, Schedule, Span, percent_span
from regimes.core.notation import parse
from regimes.core.progress import Progress
from regimes.engine.compile import compile_regime

F = [i / 64 for i in range(65)]


def table(schedule, steps=None):
    return [schedule(f, steps=steps) for f in F]


def compiled(lr, budget="100 steps", batch_size=8, **more):
    regime = rg.Regime(optimizer=rg.SGD(lr=lr), batch_size=batch_size, budget=budget, **more)
    return compile_regime(regime, [160], None)[0]


# -- products and sums -------------------------------------------------------------------------------------


def test_products_and_sums_are_those_of_the_values():
    a, b = rg.Cosine(0.3, 0.1, warmup="10%"), rg.Linear(2.0, 1.0)
    assert table(a * b) == [x * y for x, y in zip(table(a), table(b))]
    assert table(a + b) == [x + y for x, y in zip(table(a), table(b))]
    assert table(0.5 * a + b * 2) == [0.5 * x + y * 2 for x, y in zip(table(a), table(b))]
    assert table(a * (b + 1)) == [x * (y + 1) for x, y in zip(table(a), table(b))]
    assert table(sum([a, b, a])) == [0 + x + y + x for x, y in zip(table(a), table(b))]


def test_each_side_keeps_its_own_warm_up_and_follows_its_own_stretch():
    rate = rg.Constant(2.0, warmup="50%") * rg.Linear(1.0, 0.0, over="run")
    assert rate(Progress(fraction=0.25, run_fraction=0.75)) == 1.0 * 0.25
    assert rate(Progress(fraction=1.0, run_fraction=0.5)) == 2.0 * 0.5


@pytest.mark.parametrize("wrong", [True, "x", None, [1.0], 1j])
def test_nothing_but_numbers_schedules_and_controllers_multiplies(wrong):
    for operate in (lambda a, b: a * b, lambda a, b: b * a, lambda a, b: a + b, lambda a, b: b + a):
        with pytest.raises(TypeError):
            operate(rg.Cosine(1.0), wrong)


@pytest.mark.parametrize("wrong", [math.inf, math.nan, 10**400])
def test_no_number_that_is_not_finite(wrong):
    with pytest.raises(rg.DeclarationError, match=r"left: got .*; allowed: a finite number"):
        wrong * rg.Cosine(1.0)


def test_two_numbers_make_no_schedule():
    with pytest.raises(rg.DeclarationError, match="a schedule on one side"):
        Pair("*", 1.0, 2.0)


def test_a_controller_in_it_makes_a_controller_with_a_state_per_factor():
    rate = rg.Cosine(1.0) * (rg.Plateau("loss", factor=0.5, patience=0) + rg.Plateau("val:loss", patience=0)) * 2
    assert isinstance(rate, ControlledPair)
    assert not isinstance(rate, Schedule)
    state = rate.init()
    for signals in ({"loss": 1.0}, {"loss": 1.0, "val:loss": 1.0}, {"val:loss": 1.0}):
        state = rate.observe(json.loads(json.dumps(state)), signals, Progress())
    assert rate.value(state, Progress(fraction=0.5)) == pytest.approx(0.5 * (0.5 + 0.1) * 2)
    assert rate.all_needs() == {"loss", "val:loss"}


def test_schedules_beside_a_controller_have_their_durations_placed_and_print_as_declared():
    rate = rg.Plateau() * (rg.Cosine(0.4, warmup="50 steps") + 0.1)
    bound = compiled(rate).controllers["optimizer.lr"]
    assert bound.value(bound.init(), Progress(fraction=0.25)) == pytest.approx(0.2 + 0.1)
    assert repr(bound) == repr(rate) == "Plateau() * (Cosine(0.4, warmup='50 steps') + 0.1)"
    with pytest.raises(rg.DeclarationError, match=r"^optimizer.lr.right.warmup: got '50 steps' where the budget is"):
        compiled(rg.Plateau() * rg.Cosine(0.4, warmup="50 steps"), "800 samples", batch_size=rg.Linear(2, 4))


def test_a_controller_stands_in_no_schedule_s_field():
    for build in (
        lambda: rg.Cosine(rg.Plateau()),
        lambda: rg.Then(rg.Plateau(), rg.Constant(1.0), "50%"),
        lambda: rg.Clip(rg.Cosine(1.0) * rg.Plateau(), low=0.1),
        lambda: rg.Sampled(rg.Plateau(), "5%"),
    ):
        with pytest.raises(rg.DeclarationError, match="got"):
            build()


# -- then ------------------------------------------------------------------------------------------------


def test_each_part_of_a_sequence_is_a_whole_of_its_own():
    s = rg.Linear(1.0, 0.5).then(rg.Cosine(2.0, warmup="50%"), "25%")
    assert [s(f) for f in (0.0, 0.125, 0.25, 0.4375, 0.625, 0.8125, 1.0)] == pytest.approx(
        [1.0, 0.75, 0.0, 1.0, 2.0, 1.0, 0.0]
    )


def test_durations_in_steps_keep_their_length_in_nested_parts():
    s = rg.Constant(1.0).then(
        rg.Constant(2.0, warmup="10 steps").then(rg.Exponential(4.0, 0.5, every="5 steps"), "30 steps"), "40 steps"
    )
    function = compiled(s).functions["optimizer.lr"]
    told = {0: 1, 39: 1, 40: 0, 45: 1, 50: 2, 69: 2, 70: 4, 75: 2, 80: 1, 90: 0.25}
    for step, value in told.items():
        assert function(Progress(fraction=step / 100)) == pytest.approx(value), step


@pytest.mark.parametrize(("budget", "unit"), [("10 epochs", 1600), ("1600 samples", 1600), ("200 steps", 200)])
def test_durations_of_other_units_too(budget, unit):
    s = rg.Constant(1.0).then(rg.Constant(3.0, warmup="2 epochs").then(rg.Constant(5.0), "80 steps"), "20%")
    function = compiled(s, budget).functions["optimizer.lr"]
    for step, value in {39: 1, 40: 0, 60: 1.5, 80: 3, 119: 3, 120: 5}.items():
        used = step if budget.endswith("steps") else 8 * step
        assert function(Progress(fraction=used / unit)) == pytest.approx(value), step


def test_the_border_counts_from_the_beginning_warm_up_included():
    s = rg.Then(rg.Constant(1.0), rg.Constant(3.0), "50%", warmup="20%")
    assert [s(f) for f in (0.0, 0.1, 0.2, 0.499, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0, 3.0, 3.0])


def test_inclusive_parts_reach_their_last_value_at_their_last_step():
    s = rg.Linear(1.0, 0.0, inclusive=True).then(rg.Linear(8.0, 4.0, inclusive=True), "40%")
    function = s.bind(percent_span(10))
    got = [function(Progress(fraction=t / 10)) for t in range(10)]
    assert got == pytest.approx([1, 2 / 3, 1 / 3, 0, 8, 7.2, 6.4, 5.6, 4.8, 4], abs=1e-12)
    whole = rg.Then(rg.Linear(1.0), rg.Linear(8.0, 4.0), "40%", inclusive=True).bind(percent_span(10))
    assert whole(Progress(fraction=0.9)) == 4.0


REFUSALS = [
    (
        lambda: rg.Constant(1).then(rg.Constant(2), "0%")(0.5),
        "at: got '0%'; allowed: after the warm-up and before the end",
    ),
    (lambda: rg.Constant(1).then(rg.Constant(2), "100%")(0.5), "at: got '100%'; allowed: after the warm-up"),
    (lambda: rg.Then(rg.Constant(1), rg.Constant(2), "10%", warmup="10%")(0.5), "at: got '10%'; allowed: after the"),
    (lambda: rg.Constant(1).then(rg.Constant(2), "5 tokens")(0.5), "at: got '5 tokens'"),
    (lambda: rg.Constant(1).then(2.0, "5%"), "second: got 2.0; allowed: a Schedule"),
    (lambda: rg.Constant(1).then(rg.Cosine(2, warmup="2 epochs"), "5%")(0.5), "second.warmup: got '2 epochs'"),
    (
        lambda: rg.Constant(1).then(rg.Constant(2, over="run"), "5%"),
        "second.over: got .* which follows the run while Then follows the phase; allowed: over='phase' here",
    ),
    (lambda: rg.Then(rg.Constant(1), rg.Constant(2), "5%", over="run"), "first.over: got .* which follows the phase"),
    (lambda: rg.Sampled(rg.Constant(1, over="run"), "5%"), "schedule.over: got .* follows the run while Sampled"),
    (
        lambda: (rg.Constant(1, over="run") * rg.Constant(1)).clip(low=0.5),
        "schedule.over: got .* follows the run while Clip follows the phase",
    ),
    (
        lambda: rg.Clip(rg.Cosine(1, inclusive=True) * 2, low=0.5, inclusive=True),
        "inclusive: got True on Clip and on .*; allowed: on one of them",
    ),
    (lambda: rg.Cosine(1).clip(), "low: got no bound; allowed: low=, high= or both"),
    (lambda: rg.Cosine(1).clip(low=2, high=1), r"high: got 1; allowed: at least low \(2\)"),
    (lambda: rg.Cosine(1).clip(low=math.nan), "low: got nan"),
    (lambda: rg.Cosine(1).sampled("0%")(0.5), "every: got '0%'; allowed: more than nothing"),
    (lambda: rg.Cosine(1).sampled("5 epochs")(0.5), "every: got '5 epochs'"),
    (lambda: rg.Cosine(1).sampled(0.1), "every: got 0.1, an amount without a unit"),
]


@pytest.mark.parametrize(("build", "said"), REFUSALS)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=f"^{said}"):
        build()


# -- clip and sampled ------------------------------------------------------------------------------------


def test_clip_keeps_within_bounds_and_its_own_warm_up_is_below_them():
    s = rg.Linear(1.0, 0.0).clip(0.25, 0.75)
    assert table(s) == [min(max(v, 0.25), 0.75) for v in table(rg.Linear(1.0, 0.0))]
    warmed = s.replace("warmup", "20%")
    assert [warmed(f) for f in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.0, 0.375, 0.75, 0.5, 0.25])
    inside = rg.Linear(1.0, warmup="20%").clip(low=0.25)
    assert [inside(f) for f in (0.0, 0.1)] == [0.25, 0.5]


@pytest.mark.parametrize("steps", [7, 50, 99, 1000])
def test_sampled_reads_at_the_beginning_of_every_hold(steps):
    for n in (1, 2, 3, 7):
        function = rg.Cosine(1.0).sampled(f"{n} steps").bind(percent_span(steps))
        got = [function(Progress(fraction=t / steps)) for t in range(steps)]
        assert got == pytest.approx([rg.Cosine(1.0)(t // n * n / steps) for t in range(steps)], abs=1e-12)


def test_sampled_counts_from_the_end_of_its_own_warm_up_and_samples_one_inside():
    own = rg.Sampled(rg.Linear(1.0), "20%", warmup="20%")
    assert [own(f) for f in (0.1, 0.2, 0.39, 0.41, 0.61, 0.99)] == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    inside = rg.Linear(1.0, warmup="20%").sampled("10%")
    assert [inside(f) for f in (0.05, 0.15, 0.2)] == pytest.approx([0.0, 0.5, 1.0])


def test_moments_inside_a_warmed_combinator_count_from_the_beginning():
    for hold in (lambda s: rg.Clip(s, low=0.0, warmup="20%"), lambda s: rg.Sampled(s, "1 steps", warmup="20%")):
        function = hold(rg.Step(1.0, "50%", 0.5)).bind(percent_span(10))
        got = [function(Progress(fraction=t / 10)) for t in range(10)]
        assert got == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5])


# -- over the run ------------------------------------------------------------------------------------------


def test_methods_follow_what_they_are_called_on():
    run = rg.Cosine(1.0, over="run")
    for s in (run.sampled("10%"), run.clip(low=0.1), run.then(rg.Linear(1.0, over="run"), "50%"), (run * 2).clip(0.1)):
        assert s.over == "run"
        assert parse(repr(s)) == s
        assert s(Progress(fraction=0.9, run_fraction=0.2)) == s(Progress(fraction=0.1, run_fraction=0.2))
        assert s(Progress(fraction=0.9, run_fraction=0.2)) != s(Progress(fraction=0.9, run_fraction=0.8))


def test_a_sequence_over_the_run_crosses_the_seam():
    lr = rg.Constant(1.0, over="run").then(rg.Linear(1.0, over="run"), "75%")
    phases = [rg.Phase("a", budget="50%"), rg.Phase("b", budget="50%")]
    regime = rg.Regime(phases, optimizer=rg.SGD(lr=lr), batch_size=2, budget="16 steps")
    import torch

    data = (torch.zeros(8, 2), torch.zeros(8, 1))
    work = rg.Workload(model=lambda: torch.nn.Linear(2, 1), train=data, loss=rg.MSE())
    rates = [record.knobs["optimizer.lr"] for record in rg.Run(work, regime)]
    assert rates == pytest.approx([1.0] * 12 + [1.0, 0.75, 0.5, 0.25])


def test_durations_over_the_run_are_placed_in_the_run_where_the_span_knows_it():
    """Two phases of 100 steps: 40 steps of warm-up are 20% of the run, not 40%."""
    run = Span(lambda d: d.share if d.unit == "%" else d.value / 200, 200)
    phase = Span(lambda d: d.share if d.unit == "%" else d.value / 100, 100, run=run)
    for s in (rg.Constant(1.0, warmup="40 steps", over="run"), rg.Constant(1.0, warmup="20%", over="run")):
        assert s.bind(phase)(Progress(fraction=0.2, run_fraction=0.1)) == 0.5
    held = rg.Linear(1.0, over="run").sampled("50 steps").bind(phase)
    assert [held(Progress(run_fraction=f)) for f in (0.24, 0.26, 0.51)] == [1.0, 0.75, 0.5]
    both = rg.Constant(1.0, warmup="40 steps") * rg.Constant(1.0, warmup="40 steps", over="run")
    assert both.bind(phase)(Progress(fraction=0.2, run_fraction=0.1)) == 0.25


# -- paths ------------------------------------------------------------------------------------------------

PEAKS = [
    (rg.Cosine(0.3) * rg.Linear(1.0, 0.5), 0.3, "optimizer.lr.left.peak"),
    (0.3 * rg.Linear(1.0, 0.5), 0.3, "optimizer.lr.left"),
    (rg.Cosine(0.3) * rg.Plateau(), 0.3, "optimizer.lr.left.peak"),
    (rg.Plateau() * 0.3, 0.3, "optimizer.lr.right"),
    (rg.Plateau() * rg.Plateau() * rg.Cosine(0.3), 0.3, "optimizer.lr.right.peak"),
    (rg.Cosine(0.3) * 2 * rg.Plateau() + 0.1, 0.3, "optimizer.lr.left.left.left.peak"),
    (rg.Cosine(0.3).then(rg.Constant(0.1), "50%"), 0.3, "optimizer.lr.first.peak"),
    ((rg.Cosine(0.3) * 2).sampled("5%").clip(low=0.1), 0.3, "optimizer.lr.schedule.schedule.left.peak"),
    (0.3 * rg.Constant(1.0).then(rg.Linear(1.0), "50%"), 0.3, "optimizer.lr.left"),
    (rg.Cosine(0.3), 0.3, "optimizer.lr.peak"),
]


@pytest.mark.parametrize(("lr", "peak", "place"), PEAKS, ids=[repr(lr) for lr, _, _ in PEAKS])
def test_peak_is_that_of_the_first_factor_that_has_one(lr, peak, place):
    regime = rg.Regime(optimizer=rg.SGD(lr=lr), batch_size=2, budget="16 steps", evaluate="4 steps")
    phase = regime.phases[0]
    assert paths.get(phase, "optimizer.lr.peak") == peak == paths.get(phase, place)
    for key in ("*.lr.peak", "optimizer.lr.peak", "lr.peak"):
        edited = regime.but({key: 0.7})
        assert [d.path for d in regime.diff(edited)] == [place], key
        assert paths.get(edited.phases[0], place) == 0.7


def test_edits_of_a_side_keep_what_the_whole_is():
    regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.3) * rg.Plateau()), batch_size=2, budget="16 steps")
    plain = regime.but({"optimizer.lr.right": rg.Linear(1.0)}).phases[0].optimizer.lr
    assert plain == rg.Cosine(0.3) * rg.Linear(1.0)
    assert isinstance(plain, Schedule)
    again = regime.but({"optimizer.lr.left": "Plateau(patience=3) * 2"}).phases[0].optimizer.lr
    assert again == rg.Plateau(patience=3) * 2 * rg.Plateau()
    assert parse(repr(plain)) == plain


def test_edits_that_fit_no_side_are_refused():
    regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.3) * 2), batch_size=2, budget="16 steps")
    for edit, said in (
        ({"optimizer.lr.warmup": "5%"}, "there is no 'optimizer.lr.warmup' here"),
        ({"optimizer.lr": 0.1}, r"optimizer.lr: got 0.1 where Cosine\(0.3\) \* 2.0 stands"),
        ({"optimizer.lr.right": "SGD()"}, r"optimizer.lr.right: got 'SGD\(\)'; allowed: a number, a schedule"),
        ({"optimizer.lr.right": True}, r"optimizer.lr.right: got True; allowed: a number"),
        ({"optimizer.lr.right": "Cosin()"}, r"right: .*did you mean 'Cosine'"),
    ):
        with pytest.raises(rg.DeclarationError, match=said):
            regime.but(edit)
    with pytest.raises(rg.DeclarationError, match=r"warmup: Cosine\(0.3\) \* 2.0 has no field 'warmup' of its own"):
        (rg.Cosine(0.3) * 2).replace("warmup", "5%")


# -- printing and parsing back -------------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-1000, 1000)
amounts = st.builds(
    lambda v, u: f"{v!r}{u}", st.integers(1, 60), st.sampled_from(["%", " steps", " epochs", " tokens"])
)
LEAVES = [
    lambda draw, more: rg.Constant(draw(numbers), inclusive=draw(st.booleans()), **more),
    lambda draw, more: rg.Cosine(draw(numbers), final=draw(numbers), inclusive=draw(st.booleans()), **more),
    lambda draw, more: rg.Step(draw(numbers), draw(st.lists(amounts, min_size=1, max_size=3)), **more),
    lambda draw, more: rg.Piecewise(draw(numbers), draw(amounts), draw(numbers), "linear", **more),
    lambda draw, more: rg.Exponential(draw(numbers), draw(st.floats(0.1, 3)), draw(st.none() | amounts), **more),
]
HOLDERS = [
    lambda draw, inner, more: rg.Then(inner(), inner(), draw(amounts), **more),
    lambda draw, inner, more: rg.Clip(inner(), draw(st.floats(-1, 0)), draw(st.none() | st.floats(0, 1)), **more),
    lambda draw, inner, more: rg.Sampled(inner(), draw(amounts), **more),
]


@st.composite
def schedules(draw, over=None, depth=3):
    """A schedule of any nesting; holders and what they hold follow the same, other sides whatever they like."""
    follows = over or draw(st.sampled_from(["phase", "run"]))
    more = {"over": follows} | draw(st.sampled_from([{}, {"warmup": draw(amounts)}]))
    form = draw(st.sampled_from(["leaf", "*", "+", "held"])) if depth else "leaf"
    if form == "leaf":
        return draw(st.sampled_from(LEAVES))(draw, more)
    if form == "held":
        return draw(st.sampled_from(HOLDERS))(draw, lambda: draw(schedules(follows, depth - 1)), more)
    return draw(pairs(form, schedules(over, depth - 1), schedules(over, depth - 1) | numbers))


@st.composite
def pairs(draw, operation, one, other):
    left, right = draw(one), draw(other)
    if draw(st.booleans()):
        left, right = right, left
    return left * right if operation == "*" else left + right


@st.composite
def controllers(draw, depth=3):
    """A controller of any nesting of products and sums."""
    if not depth or draw(st.booleans()):
        return draw(
            st.builds(rg.Plateau, st.sampled_from(["loss", "val:loss"]), factor=st.floats(0.1, 0.9))
            | st.builds(rg.NoiseScaleGrowth, st.integers(1, 8), st.integers(8, 64))
        )
    side = controllers(depth - 1) | schedules(depth=depth - 1) | numbers
    return draw(pairs(draw(st.sampled_from("*+")), controllers(depth - 1), side))


anything = schedules() | controllers()


@settings(max_examples=200, deadline=None)
@given(anything)
def test_every_nesting_prints_as_what_builds_it_again(value):
    text = repr(value)
    again = parse(text)
    assert type(again) is type(value)
    assert again == value
    assert repr(again) == text
    assert paths.digest(again) == paths.digest(value)
    assert eval(text, vars(rg) | {name: getattr(rg, name) for name in ("Then", "Clip", "Sampled")}) == value


@settings(max_examples=80, deadline=None)
@given(anything)
def test_every_nesting_is_the_same_function_after_printing(value):
    """Both bind to the same values, or are refused with the same sentence."""
    span = Span(lambda d: d.share if d.unit == "%" else d.value / 700, 700).alone()

    def read(one):
        try:
            if isinstance(one, Controller):
                bound = one.bind_parts(span)
                return [bound.value(bound.init(), Progress(fraction=f, run_fraction=f)) for f in F]
            function = one.bind(span)
            return [function(Progress(fraction=f, run_fraction=f)) for f in F]
        except (rg.DeclarationError, OverflowError) as why:
            return str(why)

    assert read(parse(repr(value))) == read(value)


@settings(max_examples=80, deadline=None)
@given(schedules(), schedules(), numbers, st.floats(0, 1))
def test_operators_are_arithmetic_at_every_nesting(a, b, number, f):
    span = Span(lambda d: d.share if d.unit == "%" else d.value / 700, 700).alone()

    def at(schedule):
        return schedule.bind(span)(Progress(fraction=f, run_fraction=1.0 - f))

    try:
        x, y = at(a), at(b)
    except (rg.DeclarationError, OverflowError):
        return
    assert at(a * b) == x * y
    assert at(a + b) == x + y
    assert at(number * a) == float(number) * x
    assert at((a + number) * b) == (x + float(number)) * y
