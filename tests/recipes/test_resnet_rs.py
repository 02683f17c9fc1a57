"""The recipe is the declaration that the paper writes down, part by part; its parts by their closed forms."""

from pathlib import Path

import pytest
import torch

import regimes as rg
from regimes.core.progress import Progress
from regimes.core.regime import Phase
from regimes.recipes.resnet_rs import regularizers
from regimes.study import files

EXAMPLE = Path(__file__).parents[2] / "examples" / "regimes" / "resnet_rs.yaml"


@pytest.mark.exact("resnet_rs")
def test_it_is_what_the_paper_writes_down():
    found = rg.resnet_rs(augment=rg.AddNoise(), branches="layers.*", head="fc")
    assert found == rg.Regime(
        optimizer=rg.SGD(lr=rg.Cosine(1.6, warmup="5 epochs"), momentum=0.9, weight_decay=4e-5),
        batch_size=4096,
        budget="350 epochs",
        average=rg.EMA(0.9999),
        loss=rg.CrossEntropy(label_smoothing=0.1),
        augment=[rg.AddNoise()],
        on_entry=[rg.StochasticDepth(0.8, "layers.*"), rg.InputDropout(0.25, "fc")],
    )


@pytest.mark.exact("resnet_rs")
def test_parts_are_added_one_after_the_other():
    arms = rg.resnet_rs_ablation(epochs=20, batch_size=64, short=9, warmup=1, lr=0.2, augment=rg.AddNoise())
    changes = [
        sorted(change.path.split(".")[0] for change in before.diff(after))
        for before, after in zip(arms.values(), list(arms.values())[1:])
    ]
    assert dict(zip(list(arms)[1:], map(set, changes))) == {
        "cosine": {"optimizer"},
        "long": {"budget"},
        "average": {"average"},
        "label smoothing": {"loss"},
        "stochastic depth": {"on_entry"},
        "augmentation": {"augment"},
        "dropout": {"on_entry"},
        "less decay": {"optimizer"},
    }
    lr = arms["step decay"].phases[0].optimizer.lr
    wanted = {0.5: 0.1, 1: 0.2, 2.9: 0.2, 3.1: 0.02, 6.1: 0.002, 7.9: 0.002, 8.1: 0.0002}
    assert [_at(lr, epoch, 9) for epoch in wanted] == pytest.approx(list(wanted.values()))
    assert list(arms.values())[-1] == rg.resnet_rs(20, 64, warmup=1, lr=0.2, augment=rg.AddNoise())


def _at(schedule, epoch, epochs):
    """Value at an epoch of a run of so many, by the records of a run of 100 examples in batches of one."""
    work = rg.Workload(model=torch.nn.Linear(1, 1), train=(torch.zeros(100, 1), torch.zeros(100, 1)), loss=rg.MSE())
    regime = rg.Regime(optimizer=rg.SGD(lr=schedule), batch_size=1, budget=f"{epochs} epochs")
    run = rg.Run(work, regime, 0, count_flops=False)
    share = epoch / epochs
    at = Progress(samples=round(100 * epoch), fraction=share, run_fraction=share)
    return run.phase.step_knobs.values(run.states["knobs"], at)["optimizer.lr"]


@pytest.mark.exact("resnet_rs")
def test_the_rise_is_linear_to_the_peak_and_the_cosine_ends_at_zero():
    lr = rg.resnet_rs(100, 512).phases[0].optimizer.lr
    assert _at(lr, 0, 100) == 0.0
    assert _at(lr, 2.5, 100) == pytest.approx(0.1, rel=1e-12)
    assert _at(lr, 5, 100) == pytest.approx(0.2, rel=1e-12)
    assert _at(lr, 52.5, 100) == pytest.approx(0.1, rel=1e-12)
    assert _at(lr, 100, 100) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.exact("resnet_rs")
def test_label_smoothing_is_the_closed_form():
    """(1 - e) CE + e times the mean of -log p, and the gradient p - (1 - e) onehot - e / K."""
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = torch.arange(7) % 5
    loss = rg.resnet_rs().phases[0].loss
    found = loss.per_unit(z, y).values
    logs = z.log_softmax(1)
    plain = rg.CrossEntropy().per_unit(z, y).values
    torch.testing.assert_close(found, 0.9 * plain - 0.1 * logs.mean(1), rtol=1e-13, atol=1e-13)
    (g,) = torch.autograd.grad(found.sum(), z)
    wanted = logs.exp() - 0.9 * torch.nn.functional.one_hot(y, 5).double() - 0.1 / 5
    torch.testing.assert_close(g, wanted.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.exact("resnet_rs")
def test_an_average_of_weights_that_stay_is_them_and_of_zeros_and_a_jump_what_the_decay_leaves():
    average = rg.resnet_rs().phases[0].average
    w = torch.tensor([3.0], dtype=torch.float64)
    state = average.init({"w": w})
    for _ in range(50):
        state = average.observe(state, {"weights": {"w": w}}, Progress())
    assert torch.equal(average.average(state)["w"], w)
    state = average.init({"w": w})
    state = average.observe(state, {"weights": {"w": torch.zeros_like(w)}}, Progress())
    for _ in range(1000):
        state = average.observe(state, {"weights": {"w": w}}, Progress())
    assert average.average(state)["w"].item() == pytest.approx(3.0 * (1 - 0.9999**1000), rel=1e-10)


# -- decay given regularizers ---------------------------------------------------------------------------------------

PARTS = {
    "label smoothing": {"loss": rg.CrossEntropy(label_smoothing=rg.Cosine(0.1))},
    "stochastic depth": {"on_entry": [rg.StochasticDepth(0.9)]},
    "augmentation": {"augment": [rg.AddNoise()]},
}
BASE = rg.Regime(optimizer=rg.SGD(lr=0.1, weight_decay=1e-4), batch_size=32, budget="10 epochs")


@pytest.mark.exact("regularized_decay")
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_three_regularizers_call_for_less(number):
    names = list(PARTS)[:number]
    regime = BASE.but(**{key: value for name in names for key, value in PARTS[name].items()})
    assert regularizers(regime.phases[0], regime.phases[0].on_entry) == names
    found = rg.regularized_decay(regime)
    if number < 3:
        assert found == regime
    else:
        assert {(c.path, c.old, c.new) for c in regime.diff(found)} == {("optimizer.weight_decay", "0.0001", "4e-05")}


@pytest.mark.exact("regularized_decay")
def test_phases_transforms_groups_and_schedules_are_seen():
    smooth = {"loss": rg.CrossEntropy(label_smoothing=0.1)}
    phases = [
        Phase("plain", budget="50%", on_entry=[rg.StochasticDepth(0.8), rg.InputDropout(0.25)]),
        Phase("smooth", budget="25%", **smooth),
        Phase("ended", budget="25%", on_entry=[rg.InputDropout(0.0)], **smooth),
    ]
    rule = rg.groups.no_decay(rg.AdamW(lr=1e-3, weight_decay=rg.Linear(0.2, 0.1)))
    regime = rg.Regime(phases=phases, optimizer=rule, batch_size=8, budget="4 epochs")
    found = rg.regularized_decay(regime)
    decays = [[group.rule.weight_decay for group in phase.optimizer.groups] for phase in found.phases]
    plain = [0.0, rg.Linear(0.2, 0.1)]
    assert decays == [plain, [0.0, 0.4 * rg.Linear(0.2, 0.1)], plain]


def test_a_warm_up_that_is_not_shorter_is_refused():
    with pytest.raises(rg.DeclarationError, match="warmup: got 5; allowed: below 5"):
        rg.resnet_rs(5, 32)
    assert rg.resnet_rs(10, 32, augment=()).phases[0].augment == ()


def test_the_example_is_what_its_first_line_says():
    made = rg.resnet_rs(80, 32, lr=0.1, branches="blocks.*", augment=rg.AddNoise(0.2)).but({"average.decay": 0.99})
    assert files.read(str(EXAMPLE), ()).regime == made
