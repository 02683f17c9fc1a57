"""A run with weights of fixed length and the replayed rates computes what the free run did, after every step."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run

WEIGHTS, STEPS, HEAD = ("0.weight", "3.weight"), 40, "6.*"


def net():
    """Two layers before norms without gains, and a head that is not trained by either."""
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.LayerNorm(8, eps=0.0, elementwise_affine=False), nn.Tanh(),
        nn.Linear(8, 5, bias=False), nn.LayerNorm(5, eps=0.0, elementwise_affine=False), nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip


def data():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(64, 6, generator=draw, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def work():
    return rg.Workload(model=net, train=data(), val=data(), loss=nn.CrossEntropyLoss())


def regime(optimizer, steps=STEPS):
    return rg.Regime(optimizer=optimizer, batch_size=16, budget=f"{steps} steps")


FREE = regime(rg.SGD(lr=rg.Cosine(3.0, final=0.5)))
PROBE = rg.EffectiveLearningRate(power=2, every="1 steps")


def outputs(declared):
    """What the network computes at the beginning and after each step."""
    run, x = Run(work(), declared, seed=5), data()[0]
    found = [run.model(x).detach()]
    for _ in run:
        found.append(run.model(x).detach())
    return found, run


@pytest.mark.exact("effective_schedule", "NormalizeAndProject", "EffectiveLearningRate")
def test_the_projected_run_computes_the_same_after_every_step():
    """Each layer at its own schedule, the head at the declared one; in float64 under SGD without momentum."""
    free = rg.run(work(), FREE, seed=5, probes=[PROBE], progress=False)
    assert free.records[-1]["effective_learning_rate/0.weight"] < 0.5
    groups = [rg.Group(name, rg.SGD(lr=rg.effective_schedule(free, name))) for name in WEIGHTS]
    rule = rg.Groups([*groups, rg.Group("*", FREE.optimizer)])
    (expected, _), (found, run) = outputs(FREE), outputs(regime(rg.NormalizeAndProject(rule, skip="6.weight")))
    assert len(found) == STEPS + 1
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max().item() <= 1e-10
    start = net_at(5)
    for name in WEIGHTS:
        assert run.parameters[name].norm().item() == pytest.approx(start[name].norm().item(), rel=1e-12)
    unreplayed = outputs(regime(rg.NormalizeAndProject(FREE.optimizer, skip="6.weight")))[0]
    assert (unreplayed[-1] - expected[-1]).abs().max().item() > 1e-2


def net_at(seed):
    return dict(Run(work(), FREE, seed=seed).model.named_parameters())


@pytest.mark.exact("effective_schedule")
def test_its_values_are_the_rates_times_the_ratios_of_lengths():
    """Of a folder as of a result; the rate of step t at the weight with which it begins."""
    run, lengths, rates = Run(work(), FREE, seed=5), [], []
    for _ in range(STEPS):
        lengths.append({name: p.detach().norm().item() for name, p in run.parameters.items()})
        rates.append(run.step().knobs["optimizer.lr"])
    free = rg.run(work(), FREE, seed=5, probes=[PROBE], progress=False)
    for name in WEIGHTS:
        schedule = rg.effective_schedule(free, name)
        for t, (rate, length) in enumerate(zip(rates, lengths)):
            expected = rate * (lengths[0][name] / length[name]) ** 2
            assert schedule(t / STEPS, steps=STEPS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.exact("effective_schedule")
def test_all_layers_together_and_a_constant_rate_in_a_folder(tmp_path):
    constant = regime(rg.AdamW(lr=0.01, weight_decay=0.0))
    probe = rg.EffectiveLearningRate(every="10 steps")
    rg.run(work(), constant, seed=5, probes=[probe], out=tmp_path / "run", progress=False)
    rows = rg.run(work(), constant, seed=5, probes=[probe], progress=False).records
    measured = {row["step"] + 1: row["effective_learning_rate"] for row in rows if "effective_learning_rate" in row}
    assert list(measured) == [10, 20, 30, 40]
    schedule = rg.effective_schedule(tmp_path / "run")
    assert schedule(0.0, steps=STEPS) == 0.01
    assert schedule(5 / STEPS, steps=STEPS) == pytest.approx(0.01 * (1 + measured[10]) / 2, rel=1e-12)
    assert schedule(20 / STEPS, steps=STEPS) == pytest.approx(0.01 * measured[20], rel=1e-12)
    assert schedule(39 / STEPS, steps=STEPS) == pytest.approx(
        0.01 * (0.1 * measured[30] + 0.9 * measured[40]), rel=1e-12
    )


def test_runs_without_what_is_asked_for_are_refused():
    free = rg.run(work(), regime(FREE.optimizer, 4), probes=[PROBE], progress=False)
    with pytest.raises(
        rg.DeclarationError, match="weight: the run has no 'effective_learning_rate/1.weight'.*did you mean"
    ):
        rg.effective_schedule(free, "1.weight")
    with pytest.raises(rg.DeclarationError, match="rate: got 'optimizer', where SGD"):
        rg.effective_schedule(free, rate="optimizer")
    bare = rg.run(work(), regime(FREE.optimizer, 4), progress=False)
    with pytest.raises(rg.DeclarationError, match="probe: .*allowed: a run with probes="):
        rg.effective_schedule(bare)
    phases = [rg.Phase("a", budget="50%"), rg.Phase("b", budget="50%")]
    two = rg.Regime(phases=phases, optimizer=rg.SGD(lr=0.1), batch_size=16, budget="4 steps")
    with pytest.raises(rg.DeclarationError, match="run: got a run of 2 phases"):
        rg.effective_schedule(rg.run(work(), two, probes=[PROBE], progress=False))
