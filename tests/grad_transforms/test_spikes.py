"""Spikes: what is one and what is none, and the guards that clip them or leave them out, each against a plain twin."""

import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import StepSkipped
from regimes.core.kinds import TransformContext
from regimes.engine import trees
from regimes.engine.run import Run
from regimes.engine.together import Together
from regimes.testing.resume import resume_chain

BATCH, STEPS, PLANTED = 4, 60, 40


def data(batches=STEPS, spikes=(), leave=()):
    """Batches in order; those of `spikes` with targets that make the loss a thousand times as large, some left out."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(batches, BATCH, 3, generator=draw, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    y += 3.0 * torch.randn(y.shape, generator=draw, dtype=torch.float64)
    for place in spikes:
        y[place] *= math.sqrt(1000.0)
    kept = [place for place in range(batches) if place not in leave]
    return x[kept].reshape(-1, 3), y[kept].reshape(-1, 1)


def workload(**given):
    own = data(**given)
    torch.manual_seed(1)
    return rg.Workload(model=lambda: nn.Linear(3, 1).double(), train=own, val=data(), loss=nn.MSELoss())


def regime(*transforms, steps=STEPS, **more):
    fields = {"optimizer": rg.SGD(lr=1e-3, momentum=0.9), "sampler": rg.Sequential()} | more
    return rg.Regime(batch_size=BATCH, budget=f"{steps} steps", grad_transforms=list(transforms), **fields)


def same_ends(one, other):
    """Weights and the rule's memory, to the bit."""
    return trees.differences(
        trees.clone({"model": dict(one.model.state_dict()), "rule": one.states["optimizer"]}),
        trees.clone({"model": dict(other.model.state_dict()), "rule": other.states["optimizer"]}),
    )


def told(detector, values):
    """The places that a detector calls spikes."""
    state, found = detector.init(), []
    for place, value in enumerate(values):
        if detector.spikes(state, value):
            found.append(place)
        state = detector.learn(state, value)
    return found


# -- detectors --------------------------------------------------------------------------------------------


@pytest.mark.exact("ModifiedZScore")
def test_the_level_is_the_median_and_its_scaled_median_distance():
    detector, state, seen = rg.ModifiedZScore(window=20, warmup=5), rg.ModifiedZScore().init(), []
    for value in np.random.default_rng(0).normal(3.0, 2.0, 100).tolist():
        last = seen[-20:]
        if len(last) < 5:
            assert detector.level(state) is None
            assert detector.height(state, 1e9) == 0.0
        else:
            m = statistics.median(last)
            sigma = max(1.4826 * statistics.median([abs(x - m) for x in last]), 0.01 * abs(m))
            assert detector.level(state) == (m, sigma)
            assert detector.height(state, value) == (value - m) / (sigma + 1e-6)
        state = detector.learn(state, value)
        seen.append(value)


@pytest.mark.exact("ZScore")
def test_the_running_mean_and_deviation_are_zclips():
    """Against the algorithm as its authors' code has it, written plainly."""
    draw = np.random.default_rng(1)
    norms = [float(x) * (50.0 if t % 17 == 16 else 1.0) for t, x in enumerate(draw.lognormal(0.0, 0.3, 200))]
    detector, state, first, mean, var, spikes = (
        rg.ZScore(2.0, decay=0.9, warmup=10),
        rg.ZScore().init(),
        [],
        None,
        None,
        0,
    )
    for norm in norms:
        if mean is None:
            assert detector.level(state) is None
            first.append(norm)
            if len(first) == 10:
                mean = sum(first) / 10
                var = sum((x - mean) ** 2 for x in first) / 10
        else:
            std = var**0.5
            z = (norm - mean) / (std + 1e-6)
            assert detector.height(state, norm) == pytest.approx(z, rel=1e-10)
            used = mean + 2.0 * std / (z / 2.0) if z > 2.0 else norm
            spikes += z > 2.0
            assert detector.tamed(state, norm) == pytest.approx(used, rel=1e-10)
            mean = 0.9 * mean + 0.1 * used
            var = 0.9 * var + 0.1 * (used - mean) ** 2
        state = detector.learn(state, norm)
    assert spikes >= 11
    assert detector.level(state) == pytest.approx((mean, var**0.5), rel=1e-10)


@pytest.mark.exact("ModifiedZScore", "ZScore")
@pytest.mark.parametrize("detector", [rg.ModifiedZScore(), rg.ZScore()])
def test_constant_and_falling_losses_have_no_spikes_and_a_planted_one_is_told_at_its_step(detector):
    count = 100_000 if isinstance(detector, rg.ZScore) else 20_000
    ranges = {
        "constant": lambda t: 2.5,
        "linear": lambda t: 10.0 - 9.0 * t / count,
        "exponential": lambda t: 1.0 + 9.0 * math.exp(-t / 500.0),
        "power": lambda t: 5.0 * (1.0 + t) ** -0.3,
    }
    for losses in ranges.values():
        assert told(detector, map(losses, range(count))) == []
    for losses in ranges.values():
        planted = [losses(t) * (1000.0 if t == 321 else 1.0) for t in range(500)]
        assert told(detector, planted) == [321]


@pytest.mark.exact("ModifiedZScore")
def test_of_a_hundred_thousand_normal_values_none_is_a_spike():
    """At the default; at 3.5, the authors' threshold, the stated one in 1,900."""
    values = np.random.default_rng(7).normal(4.0, 1.0, 100_000).tolist()
    assert told(rg.ModifiedZScore(), values) == []
    assert 38 <= len(told(rg.ModifiedZScore(3.5), values)) <= 68


@pytest.mark.exact("ZScore")
def test_of_normal_values_one_in_a_hundred_is_above_zclips_threshold():
    values = np.random.default_rng(7).normal(4.0, 1.0, 100_000).tolist()
    assert 900 <= len(told(rg.ZScore(), values)) <= 1050


@pytest.mark.exact("ModifiedZScore", "ZScore")
@pytest.mark.parametrize("detector", [rg.ModifiedZScore(), rg.ZScore()])
def test_spikes_one_after_another_do_not_hide_each_other(detector):
    draw = np.random.default_rng(2)
    values = draw.normal(4.0, 0.01, 400)
    places = [100, 101, 102, 200, 210, 399]
    values[places] *= 1000.0
    assert set(places) <= set(told(detector, values.tolist()))
    assert len(told(rg.ModifiedZScore(), values.tolist())) == len(places)


@pytest.mark.exact("ModifiedZScore")
def test_of_a_series_without_noise_six_hundredths_more_are_a_spike():
    for rise, expected in ((1.0599, []), (1.0601, [100])):
        assert told(rg.ModifiedZScore(), [2.0 + 1e-12 * (t % 3) for t in range(100)] + [2.0 * rise]) == expected


@pytest.mark.exact("ModifiedZScore")
def test_a_level_that_changes_for_good_is_the_level_after_half_a_window():
    values = [1.0, 1.02, 0.98, 1.01, 0.99] * 20 + [5.0] * 200
    assert told(rg.ModifiedZScore(window=40), values) == list(range(100, 120))


@pytest.mark.parametrize("detector", [rg.ModifiedZScore(), rg.ZScore()])
def test_what_is_not_finite_is_not_learned(detector):
    state = detector.init()
    for value in [1.0, 1.1, 0.9] * 10:
        state = detector.learn(state, value)
    assert detector.learn(state, math.inf) == state == detector.learn(state, math.nan)
    assert detector.spikes(state, math.inf)


def test_a_warm_up_longer_than_the_window_is_refused():
    with pytest.raises(rg.DeclarationError, match=r"warmup: got 30; allowed: at most the window \(20\)"):
        rg.ModifiedZScore(window=20, warmup=30)


# -- clipping ---------------------------------------------------------------------------------------------


@pytest.mark.exact("ClipSpikes")
def test_a_spike_is_brought_to_the_reciprocal_of_its_height():
    """The gradient of every step against ZClip written plainly, over tensors of several shapes."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 3), "b": (5,), "c": ()}
    parameters = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    context = TransformContext(tuple(parameters), tuple(parameters.values()), None, 1.0)
    clip = rg.ClipSpikes(rg.ZScore(2.0, decay=0.9, warmup=8))
    state, first, mean, var, clipped = clip.init(parameters), [], None, None, 0
    for t in range(100):
        scale = 300.0 if t % 13 == 12 else 1.0
        given = tuple(torch.randn(s, generator=draw, dtype=torch.float64) * scale for s in shapes.values())
        norm = math.sqrt(sum(float((g**2).sum()) for g in given))
        factor = 1.0
        if mean is not None:
            z = (norm - mean) / (math.sqrt(var) + 1e-6)
            if z > 2.0:
                factor, clipped = (mean + 4.0 * math.sqrt(var) / z) / norm, clipped + 1
        got = clip.apply(state, tuple(g.clone() for g in given), context)
        for one, g in zip(got, given, strict=True):
            torch.testing.assert_close(one, g * factor, rtol=1e-10, atol=0)
        state = clip.observe(state, {}, None)
        used = norm * factor
        if mean is None:
            first.append(used)
            if len(first) == 8:
                mean = sum(first) / 8
                var = sum((x - mean) ** 2 for x in first) / 8
        else:
            mean = 0.9 * mean + 0.1 * used
            var = 0.9 * var + 0.1 * (used - mean) ** 2
    assert clipped >= 6


@pytest.mark.exact("ClipSpikes")
def test_just_above_the_threshold_the_norm_stays_and_without_end_it_is_the_mean():
    p = torch.zeros(1, dtype=torch.float64)
    clip, context = rg.ClipSpikes(rg.ZScore(warmup=2)), TransformContext(("w",), (p,), None, 1.0)
    state = clip.init({"w": p})
    for g in (1.0, 3.0):
        clip.apply(state, (torch.tensor([g], dtype=torch.float64),), context)
        state = clip.observe(state, {}, None)
    for g, expected in ((4.5, 4.5), (4.5 + 1e-5, 4.5), (1e300, 2.0), (-1e300, -2.0)):
        (got,) = clip.apply(state, (torch.tensor([g], dtype=torch.float64),), context)
        assert got.item() == pytest.approx(expected, abs=3e-5)


@pytest.mark.parametrize("guard", [rg.ClipSpikes(), rg.SkipSpikes()])
def test_what_a_step_shows_is_learned_when_it_is_made(guard):
    p = torch.zeros(3)
    context, state = TransformContext(("w",), (p,), None, 1.0), guard.init({"w": p})
    guard.apply(state, (torch.tensor([900.0, 1.0, 1.0]),), context)
    assert trees.clone(state) == guard.init({"w": p})
    guard.apply(state, (torch.tensor([0.0, 1.0, 0.0]),), context)
    (learned,) = next(iter(guard.observe(state, {}, None)["detector"].values()))
    assert learned == 1.0


# -- leaving out --------------------------------------------------------------------------------------------


@pytest.mark.exact("SkipSpikes")
@pytest.mark.parametrize("watch", ["gradient_norm", "loss"])
def test_a_skipped_spike_leaves_the_run_that_never_drew_that_batch(watch):
    guarded = Run(workload(spikes=[PLANTED]), regime(rg.SkipSpikes(watch=watch)), seed=3)
    records = list(guarded)
    without = Run(workload(spikes=[PLANTED], leave=[PLANTED]), regime(steps=STEPS - 1), seed=3)
    losses = [record.loss for record in without]
    assert [n for n, r in enumerate(records) if "skipped" in r.signals] == [PLANTED]
    assert records[PLANTED].signals["skipped"].startswith(f"spike: {watch} ")
    assert [r.loss for n, r in enumerate(records) if n != PLANTED] == losses
    assert same_ends(guarded, without) == []
    plain = Run(workload(spikes=[PLANTED]), regime(), seed=3)
    shown = list(plain)[PLANTED].loss
    assert (f"loss {shown:.4g} is" in records[PLANTED].signals["skipped"]) == (watch == "loss")
    assert guarded.work.flops == plain.work.flops > without.work.flops  # what was left out was evaluated
    assert guarded.frame.samples == plain.frame.samples
    assert same_ends(guarded, plain) != []


@pytest.mark.exact("SkipSpikes")
def test_where_nothing_spikes_the_run_is_the_one_without():
    guarded, plain = Run(workload(), regime(rg.SkipSpikes()), seed=3), Run(workload(), regime(), seed=3)
    assert [r.signals for r in guarded] == [r.signals for r in plain]
    assert same_ends(guarded, plain) == []


@pytest.mark.exact("SkipSpikes")
def test_after_its_patience_a_level_is_taken_anew():
    high = list(range(PLANTED, 100))
    records = list(Run(workload(batches=100, spikes=high), regime(rg.SkipSpikes(patience=3), steps=100), seed=3))
    skipped = [n for n, r in enumerate(records) if "skipped" in r.signals]
    assert skipped == [PLANTED, PLANTED + 1, PLANTED + 2]


def test_with_more_patience_than_the_run_has_it_gives_up_and_says_why():
    high = list(range(PLANTED, 100))
    run = Run(workload(batches=100, spikes=high), regime(rg.SkipSpikes(patience=50), steps=100), seed=3)
    with pytest.raises(rg.RunFailed, match=f"10 steps in a row were not finite or skipped by a guard.*{PLANTED + 9}"):
        list(run)


@pytest.mark.exact("SkipSpikes", "ClipSpikes", "ModifiedZScore", "ZScore")
@pytest.mark.parametrize("guard", [rg.SkipSpikes(), rg.SkipSpikes(watch="loss"), rg.ClipSpikes()])
def test_guards_resume_in_the_same_bits_before_at_and_after_a_spike(guard):
    def make():
        return Run(workload(spikes=[30, 33]), regime(guard, steps=45), seed=3)

    assert resume_chain(make, steps=45) == []


@pytest.mark.exact("SkipSpikes", "ClipSpikes")
@pytest.mark.parametrize("guard", [rg.SkipSpikes(), rg.ClipSpikes()])
def test_in_a_stack_each_run_is_guarded_as_alone(guard):
    """In float64; the data are shuffled, so that every run meets the batch of spikes at steps of its own."""
    work, declared = workload(spikes=[PLANTED]), regime(guard, sampler=rg.Reshuffle())
    runs, alone = ([Run(work, declared, seed) for seed in range(3)] for _ in range(2))
    together, found = Together(runs), {id(run): [] for run in runs}
    while together.running:
        for run, records in list(together.steps()):
            found[id(run)] += records
    assert together.reasons == []
    skipped = []
    for run, other in zip(runs, alone):
        expected = list(other)
        skipped.append([n for n, r in enumerate(expected) if "skipped" in r.signals])
        assert [n for n, r in enumerate(found[id(run)]) if "skipped" in r.signals] == skipped[-1]
        for name, p in run.parameters.items():
            torch.testing.assert_close(p, other.parameters[name], rtol=0, atol=1e-10)
    if isinstance(guard, rg.SkipSpikes):
        assert len({tuple(steps) for steps in skipped}) == 3


def test_a_step_may_be_left_out_by_a_transform_of_ones_own():
    """Nobody observes, the average neither; the position moves on."""

    class EverySecond(rg.ClipNorm):
        def apply(self, state, gradients, ctx):
            if ctx.skipped == 0:
                raise StepSkipped(f"odd: loss {ctx.loss:.3f}")
            return gradients

    run = Run(workload(), regime(EverySecond(1e9), steps=10, average=rg.EMA(0.9)), seed=3)
    records = list(run)
    assert ["skipped" in r.signals for r in records] == [True, False] * 5
    assert records[0].signals["skipped"].startswith("odd: loss ")
    assert run.frame.step == 10
    assert run.states["optimizer"]["slots"]["weight"]["step"] == 5
