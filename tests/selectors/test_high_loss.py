"""The scoring pass and its selection: reductions, an explicit twin, costs."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError, UserCodeError
from regimes.core.kinds import Selector

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(40, 5, generator=GENERATOR)
Y = torch.randint(0, 3, (40,), generator=GENERATOR)


def workload(layer=nn.Identity):
    return rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), layer(), nn.Linear(8, 3)),
        train=(X, Y),
        loss=nn.CrossEntropyLoss(),
    )


BASE = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="6 steps", sampler=rg.Sequential())


def trained(work, regime):
    run = rg.Run(work, regime, 0)
    losses = [record.loss for record in run]
    return run, losses, [p.detach().clone() for p in run.model.parameters()]


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("layer", [nn.Identity, lambda: nn.Dropout(0.4), lambda: nn.BatchNorm1d(8)])
def test_the_whole_share_is_training_without_a_selector_bitwise(layer, micro_batch):
    base = BASE.but(micro_batch=micro_batch)
    run, losses, weights = trained(workload(layer), base)
    other, theirs, others = trained(workload(layer), base.but(selector=rg.HighLoss(1.0)))
    assert losses == theirs
    assert all(torch.equal(a, b) for a, b in zip(weights, others))
    assert all(torch.equal(a, b) for a, b in zip(run.model.buffers(), other.model.buffers()))


def test_it_is_the_plain_loop_over_the_highest_losses():
    run, losses, _ = trained(workload(), BASE.but(selector=rg.HighLoss(0.25)))
    model = workload().build(rg.core.randomness.seed32(0, "init"))
    for step in range(6):
        rows = torch.arange(8 * step, 8 * step + 8) % 40
        values = nn.functional.cross_entropy(model(X[rows]), Y[rows], reduction="none")
        loss = values.topk(2).values.mean()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-6)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients):
                p -= 0.1 * g
    for ours, theirs in zip(run.model.parameters(), model.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_highest_are_those_of_the_batch_not_of_a_micro_batch():
    whole = trained(workload(), BASE.but(selector=rg.HighLoss(0.25)))[2]
    parts = trained(workload(), BASE.but(selector=rg.HighLoss(0.25), micro_batch=3))[2]
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_scoring_pass_is_charged_once_even_under_sam():
    plain, scored = (trained(workload(), regime)[0].work.spent for regime in (BASE, BASE.but(selector=rg.HighLoss())))
    sam = BASE.but(optimizer=rg.SAM(BASE.optimizer))
    twice, both = (trained(workload(), regime)[0].work.spent for regime in (sam, sam.but(selector=rg.HighLoss())))
    assert scored > plain
    assert both - twice == scored - plain


def test_what_cannot_be_scored_is_refused():
    work = rg.Workload(model=nn.Linear(5, 3), train=(X, Y), loss=lambda model, batch: model(batch[0]).square().mean())
    with pytest.raises(DeclarationError, match=r"loss: gave one number for 8 examples, but HighLoss"):
        rg.Run(work, BASE.but(selector=rg.HighLoss()), 0).step()


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (lambda units: torch.zeros_like(units.values), "all 0"),
        (lambda units: -units.values, "negative"),
        (lambda units: units.values[1:], r"\(7,\) for 8 units"),
    ],
)
def test_a_bad_selection_is_refused(chosen, sentence):
    class Bad(Selector):
        def select(self, state, units):
            return chosen(units)

    with pytest.raises(UserCodeError, match=sentence):
        rg.Run(workload(), BASE.but(selector=Bad()), 0).step()
