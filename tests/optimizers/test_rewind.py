"""Going back before a spike: the run that never saw the batches, to the bit; counted, resumed, said."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine import trees
from regimes.engine.run import Run
from regimes.testing.resume import resume_chain

BATCH, STEPS, PLANTED = 4, 60, 41
SGD = rg.SGD(lr=1e-3, momentum=0.9)


def data(spikes=(), leave=()):
    """Sixty batches in order; of `spikes` the loss is a thousand times as large, those of `leave` are left out."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS, BATCH, 3, generator=draw, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    y += 3.0 * torch.randn(y.shape, generator=draw, dtype=torch.float64)
    for place in spikes:
        y[place] *= math.sqrt(1000.0)
    kept = [place for place in range(STEPS) if place not in leave]
    return x[kept].reshape(-1, 3), y[kept].reshape(-1, 1)


def plain():
    return nn.Linear(3, 1).double()


def normed():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 1)).double()


def run_of(rule, model=plain, steps=STEPS, seed=3, **given):
    work = rg.Workload(model=model, train=data(**given), val=data(), loss=nn.MSELoss())
    declared = rg.Regime(optimizer=rule, batch_size=BATCH, budget=f"{steps} steps", sampler=rg.Sequential())
    return Run(work, declared, seed)


def weights(run):
    return trees.clone(dict(run.model.state_dict()))


@pytest.mark.exact("Rewind")
@pytest.mark.parametrize(("back", "gone"), [(1, 1), (5, 6), (7, 13), (20, 21), (30, 41), (100, 41)])
def test_it_ends_as_the_run_that_never_saw_the_batches(back, gone):
    """The older of two copies, made every `back` updates, holds the state after the first 41 - gone."""
    guarded = run_of(rg.Rewind(SGD, back=back), spikes=[PLANTED])
    records = list(guarded)
    unseen = range(PLANTED - gone, PLANTED + 1)
    without = run_of(SGD, steps=STEPS - len(unseen), spikes=[PLANTED], leave=unseen)
    losses = [record.loss for record in without]
    assert {r.at.step: r.signals["rewound"] for r in records if "rewound" in r.signals} == {PLANTED: float(gone)}
    assert [r.loss for r in records if r.at.step not in unseen] == losses
    assert not trees.differences(weights(guarded), weights(without))
    assert not trees.differences(
        trees.clone(guarded.states["optimizer"]["base"]), trees.clone(without.states["optimizer"])
    )
    bare = run_of(SGD, spikes=[PLANTED])
    list(bare)
    assert guarded.work.flops == bare.work.flops  # all that was evaluated counts
    assert (guarded.frame.step, guarded.frame.samples) == (STEPS, STEPS * BATCH)
    assert trees.differences(weights(guarded), weights(bare))


@pytest.mark.exact("Rewind")
def test_where_nothing_spikes_it_is_the_base_rule_to_the_bit():
    guarded, bare = run_of(rg.Rewind(SGD, back=4)), run_of(SGD)
    assert [r.signals for r in guarded] == [r.signals for r in bare]
    assert not trees.differences(weights(guarded), weights(bare))


@pytest.mark.exact("Rewind")
def test_running_statistics_go_back_with_the_weights():
    """At the spike all buffers and weights are those of the copy, to the bit."""
    run = run_of(rg.Rewind(rg.AdamW(lr=1e-3), back=5), normed, spikes=[PLANTED])
    seen = []
    for _ in range(PLANTED + 1):
        seen.append(weights(run))
        last = run.step()
    assert last.signals["rewound"] == 6.0
    assert not trees.differences(weights(run), seen[PLANTED - 6])
    assert any("running_mean" in name for name in trees.differences(seen[PLANTED], seen[PLANTED - 6]))


@pytest.mark.exact("Rewind")
def test_the_detector_begins_anew_so_that_a_level_that_stays_is_gone_back_from_once():
    high = list(range(PLANTED, STEPS))
    rule = rg.Rewind(rg.SGD(lr=1e-5), rg.ModifiedZScore(warmup=10), back=3)
    records = list(run_of(rule, spikes=high))
    assert [r.at.step for r in records if "rewound" in r.signals] == [PLANTED]


@pytest.mark.exact("Rewind")
@pytest.mark.parametrize(
    "rule",
    [
        rg.Rewind(rg.SAM(rg.SGD(lr=1e-3, momentum=0.9)), back=5),
        rg.Rewind(rg.SAM(rg.SGD(lr=1e-3, momentum=0.9)), watch="gradient_norm", back=5),
        rg.Rewind(rg.Groups([rg.Group("weight", SGD), rg.Group("*", rg.AdamW(lr=1e-3))]), back=5),
        rg.Rewind(rg.MomentumReset(SGD, every=7), back=5),
        rg.Rewind(rg.ScheduleFreeSGD(lr=1e-3), back=5),
    ],
    ids=["SAM", "SAM by its gradient", "Groups", "MomentumReset", "schedule-free"],
)
def test_around_any_rule_it_ends_as_the_run_that_never_saw_the_batches(rule):
    guarded, unseen = run_of(rule, spikes=[PLANTED]), range(PLANTED - 6, PLANTED + 1)
    records = list(guarded)
    without = run_of(rule.base, steps=STEPS - 7, spikes=[PLANTED], leave=unseen)
    list(without)
    assert [r.at.step for r in records if "rewound" in r.signals] == [PLANTED]
    assert not trees.differences(weights(guarded), weights(without))
    shown = guarded.evaluation_weights()
    assert not trees.differences(trees.clone(dict(shown)), trees.clone(dict(without.evaluation_weights())))


@pytest.mark.exact("Rewind")
@pytest.mark.parametrize("model", [plain, normed])
def test_it_resumes_in_the_same_bits_at_every_step(model):
    def make():
        rule = rg.Rewind(rg.AdamW(lr=1e-3), rg.ModifiedZScore(30.0, window=10, warmup=5), back=3)
        return run_of(rule, model, steps=30, spikes=[12, 22])

    assert [r.at.step for r in make() if "rewound" in r.signals] == [12, 22]
    assert resume_chain(make, steps=30) == []


@pytest.mark.exact("Rewind")
@pytest.mark.parametrize("stop", [PLANTED - 1, PLANTED, PLANTED + 1])
def test_a_run_that_is_left_around_the_spike_goes_on_to_the_same_records(tmp_path, stop):
    work = rg.Workload(model=plain, train=data([PLANTED]), val=data(), loss=nn.MSELoss())
    declared = rg.Regime(
        optimizer=rg.Rewind(SGD, back=5), batch_size=BATCH, budget=f"{STEPS} steps", sampler=rg.Sequential()
    )
    whole = rg.run(work, declared, out=tmp_path / "whole", checkpoint="7 steps", progress=False)
    stream = rg.stream(work, declared, out=tmp_path / "left", checkpoint="7 steps")
    for _ in range(stop + 1):
        next(stream)
    stream.close()
    again = rg.run(work, declared, out=tmp_path / "left", checkpoint="7 steps", progress=False)
    assert again.metrics == whole.metrics
    assert (tmp_path / "left" / "records.jsonl").read_bytes() == (tmp_path / "whole" / "records.jsonl").read_bytes()


def test_a_rule_without_gradients_can_be_watched_by_its_loss_alone():
    assert not rg.Rewind(rg.MeZO()).uses_gradients
    with pytest.raises(rg.DeclarationError, match="watch: got 'gradient_norm', but MeZO makes no gradient"):
        rg.Rewind(rg.MeZO(), watch="gradient_norm")
