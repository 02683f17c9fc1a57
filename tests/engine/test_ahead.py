"""What a later phase would refuse is refused before anything is spent, and looking ahead changes no bit."""

import time

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import UserCodeError
from regimes.engine import ahead
from regimes.sources import IterableSource
from regimes.testing.conformance import tiny
from regimes.workloads.models import MLP

G = torch.Generator().manual_seed(2)
X = torch.randn(40, 6, generator=G)
Y = (X[:, 0] > 0).long()
CARRY = ("model", "optimizer")


def work(model=lambda: MLP((6, 8, 8, 2)), **fields):
    return rg.Workload(**{"model": model, "train": (X, Y), "val": (X, Y), "loss": nn.CrossEntropyLoss(), **fields})


def two(**later):
    phases = [rg.Phase("a", budget="5 steps"), rg.Phase("b", budget="5 steps", **later)]
    return rg.Regime(optimizer=rg.SGD(lr=0.1, momentum=0.9), batch_size=8, phases=phases)


@pytest.fixture
def other(tmp_path):
    """The weights of a run of another model."""
    declared = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="2 steps")
    rg.run(work(lambda: nn.Linear(6, 2)), declared, out=tmp_path / "other")
    return rg.FromRun(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (lambda w: {"loss": rg.LoadBalance(rg.CrossEntropy())}, r"^b\.loss: the model has no layer of experts"),
        (lambda w: {"loss": rg.NoProp()}, r"^b\.loss: NoProp trains a stack of denoising blocks"),
        (lambda w: {"loss": rg.PolicyGradient()}, r"^b\.loss: PolicyGradient\(\) reads answers"),
        (lambda w: {"loss": rg.HybridPostTraining()}, r"^b\.loss: HybridPostTraining\(\) asks"),
        (lambda w: {"loss": rg.Distillation(w, ground_truth=0.5)}, r"^b\.loss\.teacher: got weights that do not fit"),
        (lambda w: {"on_entry": [rg.StartFrom(w)]}, r"^b\.on_entry\.0\.weights: .*, which does not fit"),
        (lambda w: {"augment": [rg.MaskWords(0.15)]}, r"(?s)^b\.augment: got .*allowed: a batch \(tokens"),
        (lambda w: {"on_entry": [rg.Freeze("0.*")]}, r"^b\.on_entry\.0\.patterns\.0: got '0\.\*'"),
    ],
)
def test_what_a_later_phase_cannot_evaluate_is_refused(other, later, said):
    with pytest.raises(rg.DeclarationError, match=said):
        rg.Run(work(), two(**later(other)), 0)


class Noisy(nn.Linear):
    """Dropout that no module shows."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


def test_so_is_a_rule_that_asks_for_what_a_batch_has_not_and_randomness_where_micro_batches_are_free():
    with pytest.raises(
        rg.DeclarationError, match=r"(?s)^b\.loss: got a batch Rollout.* in which no part is the target"
    ):
        rg.Run(tiny.workload("rollouts"), two(optimizer=rg.RecursiveRidge()), 0)
    with pytest.raises(rg.DeclarationError, match=r"^b\.micro_batch: got 'auto', but the forward draws random"):
        rg.Run(work(lambda: Noisy(6, 2)), two(micro_batch="auto"), 0)


def test_an_error_in_somebodys_loss_of_a_later_phase_comes_before_the_first_step():
    class Broken(rg.CrossEntropy):
        def units(self, state, model, batch):
            raise KeyError("labels")

    with pytest.raises(UserCodeError, match=r"failed at step 0 of phase 'b', micro-batch 0.*KeyError: 'labels'"):
        rg.Run(work(), two(loss=Broken()), 0)


LATER = {
    "plain": {},
    "trial, selector, lag and micro-batches": {
        "loss": rg.Distillation("self", 0.5), "selector": rg.HighLoss(0.5), "lag": 1, "micro_batch": 3,
    },
    "grown": {"on_entry": [rg.GrowWidth(16)], "sampler": rg.LossWeighted()},
    "bfloat16": {"precision": "bfloat16"},
    "a rule with several evaluations": {"optimizer": rg.SAM(rg.AdamW(0.01))},
    "a rule without gradients": {"optimizer": rg.MeZO(lr=0.01)},
    "a rule that captures layers": {"optimizer": rg.MKOR(rg.SGD(lr=0.1), every=2)},
}  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_looking_ahead_changes_no_bit(name, monkeypatch):
    """Dropout, running statistics and the global generators: the run, and the caller's, are the same without it."""
    model = lambda: MLP((6, 8, 8, 2))  # noqa: E731
    if name != "grown":
        model = lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))  # noqa: E731
    data = work(model)

    def ended():
        torch.manual_seed(7)
        run = rg.Run(data, two(**LATER[name]), 3)
        callers = torch.rand(1)
        records = [(record.at, record.signals) for record in run]
        return records, run.model.state_dict(), run.work, callers

    looked = ended()
    calls = []
    monkeypatch.setattr(ahead, "check_phases", lambda run, **how: calls.append(run))
    blind = ended()
    assert len(calls) == 1
    assert (looked[0], looked[2], looked[3]) == (blind[0], blind[2], blind[3])
    assert all(torch.equal(value, blind[1][key]) for key, value in looked[1].items())


def test_data_that_is_only_read_on_is_left_alone():
    class Lines(torch.utils.data.IterableDataset):
        read = 0

        def __iter__(self):
            for x, y in zip(X, Y):
                Lines.read += 1
                yield x, y

    declared = two().but({"*.budget": "2 steps"})
    rg.Run(work(train=IterableSource(Lines(), length=40), val=None), declared, 0)
    alone = Lines.read
    Lines.read = 0
    one = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="2 steps")
    rg.Run(work(train=IterableSource(Lines(), length=40), val=None), one, 0)
    assert alone == Lines.read


def test_it_costs_a_fraction_of_a_second():
    for name in ("digits_mlp", "char_lm"):
        data = rg.workloads.load(name)
        run = rg.Run(data, two(), 0)
        began = time.perf_counter()
        ahead.check_phases(run)
        assert time.perf_counter() - began < 0.5, name


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"on_entry": [rg.GrowWidth(16)], "optimizer": rg.ScheduleFreeSGD(lr=0.1)}, "ScheduleFreeSGD .*GrowWidth"),
        (
            {"on_entry": [rg.RoundToNearest("*.weight")], "optimizer": rg.SAM(rg.ScheduleFreeAdamW())},
            "FreeAdamW .*RoundToNearest",
        ),
        ({"on_entry": [rg.LowRankInit("layers.0.weight", rank=1)], "average": rg.EMA(0.9)}, "EMA .*LowRankInit"),
    ],
)
def test_weights_of_a_components_own_are_not_carried_past_a_change_of_values(later, said):
    carry = ["model", "average" if "average" in later else "optimizer"]
    first = {name: value for name, value in later.items() if name != "on_entry"}
    declared = rg.Regime(
        **{"optimizer": rg.SGD(lr=0.1), "batch_size": 8} | first,
        phases=[
            rg.Phase("a", budget="5 steps"),
            rg.Phase("b", budget="5 steps", carry=carry, on_entry=later["on_entry"]),
        ],
    )
    with pytest.raises(
        rg.DeclarationError, match=rf"^b\.carry: got '{carry[1]}', but .*{said} would leave as they were"
    ):
        rg.Run(work(), declared, 0)


@pytest.mark.parametrize(
    "entry", [rg.Freeze("layers.0.*"), rg.Reinitialise("layers.2.*"), rg.Upcycle("layers.1", experts=2)]
)
def test_they_are_where_old_parameters_keep_their_values(entry):
    declared = rg.Regime(
        optimizer=rg.ScheduleFreeSGD(lr=0.1), batch_size=8,
        phases=[rg.Phase("a", budget="5 steps"), rg.Phase("b", budget="5 steps", carry=CARRY, on_entry=[entry])],
    )  # fmt: skip
    run = rg.Run(work(), declared, 0)
    while run.frame.phase == 0:
        run.step()
    first = rg.Regime(optimizer=rg.ScheduleFreeSGD(lr=0.1), batch_size=8, phases=[rg.Phase("a", budget="5 steps")])
    alone = rg.run(work(), first, 0).model
    after, wanted = run.evaluation_weights(), alone.state_dict()
    kept = [name for name in after if name in wanted and "layers.2" not in name]
    assert kept
    for name in kept:
        torch.testing.assert_close(after[name], wanted[name])
