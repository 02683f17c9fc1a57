"""The probe that remembers: planted spikes are counted at their steps, through a resume, and nothing else changes."""

import json
import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.progress import Progress
from regimes.engine import trees
from regimes.engine.api import Session

BATCH, STEPS = 4, 60
PLANTED = (35, 50)


def workload():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS, BATCH, 3, generator=draw, dtype=torch.float64)
    y = 5.0 * torch.randn(STEPS, BATCH, 1, generator=draw, dtype=torch.float64)
    for place in PLANTED:
        y[place] *= math.sqrt(1000.0)
    own = x.reshape(-1, 3), y.reshape(-1, 1)
    return rg.Workload(model=lambda: nn.Linear(3, 1).double(), train=own, val=own, loss=nn.MSELoss())


REGIME = rg.Regime(optimizer=rg.SGD(lr=1e-5), batch_size=BATCH, budget=f"{STEPS} steps", sampler=rg.Sequential())
PROBE = rg.LossSpikes(every="1 steps")


@pytest.mark.exact("LossSpikes")
def test_planted_spikes_are_counted_at_their_steps():
    records = list(rg.stream(workload(), REGIME, probes=[PROBE]))
    losses = [record.loss for record in records]
    for step, record in enumerate(records):
        spikes = [place for place in PLANTED if place <= step]
        assert record.signals["loss_spikes/count"] == len(spikes)
        assert record.signals.get("loss_spikes/step") == (spikes[-1] if spikes else None)
    before = sorted(losses[:50])
    m = (before[24] + before[25]) / 2
    distances = sorted(abs(loss - m) for loss in before)
    height = (losses[50] - m) / (1.4826 * (distances[24] + distances[25]) / 2 + 1e-6)
    assert records[-1].signals["loss_spikes/height"] == pytest.approx(height, rel=1e-12)


@pytest.mark.exact("LossSpikes")
def test_a_seldom_one_has_heard_every_step():
    (last,) = [
        r
        for r in rg.stream(workload(), REGIME, probes=[rg.LossSpikes(every="100%")])
        if "loss_spikes/count" in r.signals
    ]
    assert last.signals["loss_spikes/count"] == 2.0


@pytest.mark.exact("LossSpikes")
def test_skipped_steps_have_no_loss_and_so_no_spike():
    guarded = REGIME.but(grad_transforms=[rg.SkipSpikes()])
    *_, last = rg.stream(workload(), guarded, probes=[PROBE])
    assert last.signals["loss_spikes/count"] == 0.0
    state = PROBE.init()
    assert PROBE.observe(state, {"skipped": "loss"}, Progress()) == state


@pytest.mark.exact("LossSpikes")
@pytest.mark.parametrize("stop", [34, 35, 42, 55])
def test_a_run_that_is_left_and_resumed_writes_the_same_records(tmp_path, stop):
    probes = [rg.LossSpikes(every="5 steps"), rg.LossSpikes(rg.ZScore(), every="1 steps")]
    rg.run(workload(), REGIME, out=tmp_path / "whole", checkpoint="4 steps", probes=probes, progress=False)
    stream = rg.stream(workload(), REGIME, out=tmp_path / "left", checkpoint="4 steps", probes=probes)
    for _ in range(stop + 1):
        next(stream)
    stream.close()
    rg.run(workload(), REGIME, out=tmp_path / "left", checkpoint="4 steps", probes=probes, progress=False)
    left = (tmp_path / "left" / "records.jsonl").read_bytes()
    assert left == (tmp_path / "whole" / "records.jsonl").read_bytes()
    assert json.loads(left.splitlines()[-1])["loss_spikes/count"] == 2.0


def test_what_a_probe_remembers_is_apart_from_the_run():
    def trained(probes):
        options = {
            "out": None, "validate": None, "probes": probes, "checkpoint": "10%", "max_time": None, "give_up": 10,
            "reduce": "tree", "workload_spec": None,
        }  # fmt: skip
        session = Session(workload(), REGIME, 3, options)
        list(session.records())
        tree = trees.clone(session.run.tree())
        return tree, tree.pop("probes"), tree["work"].pop("observed_flops")

    (bare, nothing, _), (observed, remembered, _) = trained([]), trained([PROBE])
    assert trees.differences(bare, observed) == []
    assert nothing == {}
    assert list(remembered) == [repr(PROBE)]
    assert remembered[repr(PROBE)]["count"] == 2


def test_a_replay_looks_with_a_memory_of_its_own(tmp_path):
    """Beside the stored probe, which writes its own values again: the window begins with nothing remembered."""
    rg.run(workload(), REGIME, out=tmp_path / "run", checkpoint="5 steps", probes=[PROBE], progress=False)
    quick = rg.LossSpikes(rg.ModifiedZScore(window=5, warmup=5), every="1 steps")
    found = rg.replay(tmp_path / "run", (45, 55), [PROBE, quick], workload=workload())
    assert [row["probes"]["loss_spikes/count"] for row in found.rows] == [0.0] * 10
    assert [row["probes"]["loss_spikes_2/count"] for row in found.rows] == [0.0] * 5 + [1.0] * 5


def test_alone_it_has_heard_nothing():
    assert PROBE(nn.Linear(1, 1), lambda model, batch: model(batch).mean(), torch.ones(1, 1)) == {"count": 0.0}
