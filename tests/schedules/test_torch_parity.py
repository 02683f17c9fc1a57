"""Every schedule that torch also has equals torch's own on all steps, to 1e-12, in the same run.

How warm-ups compare: ours begins at 0 and is at the peak after W steps, value peak * t / W at step t (so is that of
transformers). torch's LinearLR refuses a start at 0; from a start of 1e-200 it has the same values. What people write
instead, ``LinearLR(start_factor=1/W, total_iters=W - 1)``, is ours one step ahead (the last test).
"""

import math
import warnings
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

import regimes as rg
from regimes.core.kinds import percent_span
from regimes.core.progress import Progress
from regimes.engine.compile import compile_regime

PEAK = 0.3


def ours(schedule, steps):
    """Values at the steps of a stretch of `steps` steps, as the engine reads them."""
    function = schedule.bind(percent_span(steps))
    return [function(Progress(step=t, fraction=t / steps, run_fraction=t / steps)) for t in range(steps)]


def torchs(build, steps, lr=PEAK):
    """Rates that torch's scheduler gives to the optimizer at the same steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = build(optimizer)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return found


def agree(schedule, build, steps, lr=PEAK):
    mine, other = ours(schedule, steps), torchs(build, steps, lr)
    off = [(t, a, b) for t, (a, b) in enumerate(zip(mine, other)) if not abs(a - b) <= 1e-12]
    assert not off, (schedule, off[:3])
    assert len(mine) == len(other) == steps
    assert len(set(mine)) > 1 or isinstance(schedule, rg.Constant)  # what never moves would agree too easily


def of(name, *args, **kwargs):
    """torch's scheduler of that name with everything but the optimizer."""
    return lambda optimizer: getattr(theirs, name)(optimizer, *args, **kwargs)


def steps(*numbers):
    return [f"{n} steps" for n in numbers]


#: (steps, ours, torch's)
CASES = [
    (50, rg.Constant(PEAK), of("ConstantLR", factor=1.0)),
    (50, rg.Piecewise(PEAK / 3, at=steps(13), factors=[3]), of("ConstantLR", factor=1 / 3, total_iters=13)),
    (97, rg.Linear(PEAK), of("LinearLR", 1.0, 0.0, 97)),
    (97, rg.Linear(PEAK, PEAK / 10), of("LinearLR", 1.0, 0.1, 97)),
    (97, rg.Linear(PEAK / 4, PEAK / 2).then(rg.Constant(PEAK / 2), "31 steps"), of("LinearLR", 0.25, 0.5, 31)),
    (
        97,
        rg.Piecewise(PEAK / 4, at=steps(31), factors=[2], interpolate="linear"),
        of("LinearLR", 0.25, 0.5, total_iters=31),
    ),
    *[(t, rg.Cosine(PEAK), of("CosineAnnealingLR", t)) for t in (2, 97, 500)],
    (97, rg.Cosine(PEAK, 0.01), of("CosineAnnealingLR", 97, eta_min=0.01)),
    (98, rg.Cosine(PEAK, 0.01, inclusive=True), of("CosineAnnealingLR", 97, eta_min=0.01)),
    *[(97, rg.Polynomial(PEAK, power=p), of("PolynomialLR", 97, power=p)) for p in (0.5, 0.9, 1.0, 2.0, 3.0)],
    (97, rg.Polynomial(PEAK, 2.0).then(rg.Constant(0.0), "60 steps"), of("PolynomialLR", 60, power=2.0)),
    *[(97, rg.Exponential(PEAK, g, every="1 step"), of("ExponentialLR", g)) for g in (0.5, 0.93, 1.05)],
    (97, rg.Exponential(PEAK, 0.93**97), of("ExponentialLR", 0.93)),
    (97, rg.Step(PEAK, steps(30, 60), factor=0.2), of("MultiStepLR", [30, 60], 0.2)),
    (97, rg.Step(PEAK, steps(1, 50, 50, 96)), of("MultiStepLR", [1, 50, 50, 96])),
    (100, rg.Step(PEAK, ["7%", "29%", "57%"], factor=0.5), of("MultiStepLR", [7, 29, 57], 0.5)),
    *[
        (97, rg.Exponential(PEAK, g, every=f"{n} steps").sampled(f"{n} steps"), of("StepLR", n, g))
        for n, g in ((1, 0.9), (13, 0.5), (30, 0.1), (96, 0.1))
    ],
    *[
        (
            t,
            rg.OneCycle(PEAK, rise=f"{100 * p}%", anneal_strategy=a, three_phase=three, inclusive=True),
            of("OneCycleLR", PEAK, total_steps=t, pct_start=p, anneal_strategy=a, three_phase=three),
        )
        for t in (10, 97, 100)
        for p in (0.25, 0.3, 0.45)
        for a in ("cos", "linear")
        for three in (False, True)
    ],
    (
        61,
        rg.OneCycle(PEAK, div_factor=10, final_div_factor=100, inclusive=True),
        of("OneCycleLR", PEAK, total_steps=61, div_factor=10, final_div_factor=100),
    ),
    *[
        (
            97,
            rg.Triangular(PEAK, 0.01, up=f"{up} steps", down=f"{down} steps", mode=mode, gamma=gamma),
            of(
                "CyclicLR",
                0.01,
                PEAK,
                step_size_up=up,
                step_size_down=down,
                mode=mode,
                gamma=gamma,
                cycle_momentum=False,
            ),
        )
        for up, down in ((11, 11), (7, 12), (12, 7), (200, 1), (1, 1))
        for mode, gamma in (("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.98))
    ],
    (97, rg.Triangular(PEAK, 0.01, up="9 steps"), of("CyclicLR", 0.01, PEAK, 9, cycle_momentum=False)),
    *[
        (
            t,
            rg.WarmRestarts(PEAK, f"{first} steps", growth=mult, final=low),
            of("CosineAnnealingWarmRestarts", first, T_mult=mult, eta_min=low),
        )
        for t, first, mult, low in (
            (97, 13, 1, 0.0),
            (97, 9, 2, 0.02),
            (300, 1, 3, 0.0),
            (300, 7, 1, 0.1),
            (2048, 1, 2, 0.0),
        )
    ],
    (
        60,
        rg.Cosine(PEAK, 0.05).then(rg.Constant(0.05), "20 steps"),
        lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=20, anneal_strategy="cos"),
    ),
    (
        97,
        rg.Cosine(PEAK) * rg.Exponential(1.0, 0.99, every="1 step"),
        lambda o: theirs.ChainedScheduler([theirs.CosineAnnealingLR(o, 97), theirs.ExponentialLR(o, 0.99)]),
    ),
    (
        97,
        rg.Constant(PEAK / 10).then(rg.Exponential(PEAK, 0.9, every="1 step"), "20 steps"),
        lambda o: theirs.SequentialLR(
            o, [theirs.ConstantLR(o, 0.1, total_iters=50), theirs.ExponentialLR(o, 0.9)], milestones=[20]
        ),
    ),
]


@pytest.mark.parametrize(("steps", "schedule", "build"), CASES, ids=[f"{n} {s!r}" for n, s, _ in CASES])
def test_equals_torch_on_all_steps(steps, schedule, build):
    agree(schedule, build, steps)


def warmed(decay, warm):
    """torch's way to warm up, from as good as nothing."""

    def build(optimizer):
        rise = theirs.LinearLR(optimizer, start_factor=1e-200, total_iters=warm)
        return theirs.SequentialLR(optimizer, [rise, decay(optimizer)], milestones=[warm])

    return build


@pytest.mark.parametrize("warm", [1, 10, 17, 50])
@pytest.mark.parametrize("total", [97, 100])
@pytest.mark.parametrize(
    ("make", "decay"),
    [
        (rg.Constant, lambda left: of("ConstantLR", 1.0)),
        (rg.Linear, lambda left: of("LinearLR", 1.0, 0.0, left)),
        (partial(rg.Cosine, final=0.02), lambda left: of("CosineAnnealingLR", left, eta_min=0.02)),
        (partial(rg.Polynomial, power=2.0), lambda left: of("PolynomialLR", left, power=2.0)),
        (partial(rg.Exponential, factor=0.95, every="1 step"), lambda left: of("ExponentialLR", 0.95)),
        (partial(rg.Exponential, factor=0.95), lambda left: of("ExponentialLR", 0.95 ** (1 / left))),
        # Milestones and other moments count from the very beginning; torch's from the end of the warm-up.
        (partial(rg.Step, milestones=steps(60, 80)), lambda left: "milestones"),
        (partial(rg.WarmRestarts, period="9 steps", growth=2), lambda left: of("CosineAnnealingWarmRestarts", 9, 2)),
    ],
)
def test_equals_torch_after_a_warm_up(make, decay, warm, total):
    found = decay(total - warm)
    if found == "milestones":
        found = of("MultiStepLR", [60 - warm, 80 - warm])
    agree(make(PEAK, warmup=f"{warm} steps"), warmed(found, warm), total)


@pytest.mark.parametrize("inclusive", [False, True])
def test_inclusive_with_a_warm_up_ends_at_the_last_step(inclusive):
    left = 97 - 17 - (1 if inclusive else 0)
    schedule = rg.Cosine(PEAK, warmup="17 steps", inclusive=inclusive)
    agree(schedule, warmed(of("CosineAnnealingLR", left), 17), 97)
    assert (ours(schedule, 97)[-1] == 0.0) is inclusive


def test_common_warm_up_of_torch_is_ours_one_step_ahead():
    warm, total = 10, 50

    def build(optimizer):
        rise = theirs.LinearLR(optimizer, start_factor=1 / warm, total_iters=warm - 1)
        return theirs.SequentialLR(optimizer, [rise, theirs.ConstantLR(optimizer, 1.0)], milestones=[warm])

    other, mine = torchs(build, total), ours(rg.Constant(PEAK, warmup=f"{warm} steps"), total)
    assert mine[0] == 0.0
    assert mine[1:] == pytest.approx(other[:-1], abs=1e-12)


@pytest.mark.parametrize("budget", ["5 epochs", "800 samples", "100 steps"])
def test_the_engine_reads_the_same_values(budget):
    """Whatever unit the budget has, with Durations in steps and in percent."""
    for schedule, build in [
        (rg.Step(PEAK, ["7%", "29 steps", "57%"], warmup="3 steps"), warmed(of("MultiStepLR", [4, 26, 54]), 3)),
        (rg.WarmRestarts(PEAK, "7%"), of("CosineAnnealingWarmRestarts", 7)),
        (rg.Exponential(PEAK, 0.5, every="7%").sampled("7 steps"), of("StepLR", 7, 0.5)),
        (rg.OneCycle(PEAK, inclusive=True), of("OneCycleLR", PEAK, total_steps=100)),
        (rg.Linear(PEAK, 0.1).then(rg.Constant(0.1), "29%"), of("LinearLR", 1.0, 1 / 3, 29)),
    ]:
        regime = rg.Regime(optimizer=rg.SGD(lr=schedule), batch_size=8, budget=budget)
        phase = compile_regime(regime, [160], example_tokens=None)[0]
        function = phase.functions["optimizer.lr"]
        used = [(t if "steps" in budget else 8 * t) / phase.length.total for t in range(100)]
        mine = [function(Progress(step=t, fraction=f, run_fraction=f)) for t, f in enumerate(used)]
        assert mine == pytest.approx(torchs(build, 100), abs=1e-12, rel=0), schedule


def test_a_momentum_cycle_is_the_same_schedule_upside_down():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK, momentum=0.9)
    scheduler = theirs.OneCycleLR(optimizer, PEAK, total_steps=80, base_momentum=0.85, max_momentum=0.95)
    momentum = []
    for _ in range(80):
        momentum.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step() if len(momentum) < 80 else None
    schedule = rg.OneCycle(0.85, div_factor=0.85 / 0.95, final_div_factor=1.0, inclusive=True)
    assert ours(schedule, 80) == pytest.approx(momentum, abs=1e-12, rel=0)


def test_inverse_sqrt_is_that_of_the_paper_and_of_transformers():
    d_model, warm, total = 512, 40, 200
    schedule = rg.InverseSqrt(d_model**-0.5 * warm**-0.5, warmup=f"{warm} steps")
    expected = [0.0] + [d_model**-0.5 * min(t**-0.5, t * warm**-1.5) for t in range(1, total)]
    assert ours(schedule, total) == pytest.approx(expected, rel=1e-12, abs=0)
    scale = 90

    def factor(t):
        return t / warm if t < warm else 1 / math.sqrt((t + scale - warm) / scale)

    agree(rg.InverseSqrt(PEAK, f"{scale} steps", warmup=f"{warm} steps"), of("LambdaLR", factor), total)


@pytest.mark.exact("REX")
def test_rex_of_its_paper():
    rex = rg.REX(0.4)
    assert (rex(0.0), rex(1.0)) == (0.4, 0.0)
    assert rex(0.5) == pytest.approx(0.4 * 2 / 3, rel=1e-15)
    paper = [0.4 * (1 - t / 97) / (1 / 2 + 1 / 2 * (1 - t / 97)) for t in range(97)]
    assert ours(rex, 97) == pytest.approx(paper, rel=1e-14)
    assert ours(rex.sampled("1 step"), 97) == pytest.approx(paper, rel=1e-12)
    straight = torchs(of("LambdaLR", lambda t: 1 - t / 97), 97, lr=0.4)
    assert ours(rg.REX(0.4, beta=1.0), 97) == straight == ours(rg.Linear(0.4), 97)
    table = [rex(i / 20000) for i in range(20001)]
    area = (sum(table) - 0.5 * (table[0] + table[-1])) / 20000
    assert area == pytest.approx(0.4 * 2 * (1 - math.log(2)), rel=1e-8)
    slope = [(rg.REX(1.0, beta=b)(1e-7) - 1.0) / 1e-7 for b in (0.25, 0.5, 2.0)]
    assert slope == pytest.approx([-0.25, -0.5, -2.0], rel=1e-5)
