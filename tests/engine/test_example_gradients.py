"""Gradients of single examples: against one backward each, and their mean against the step's own gradient."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.core.kinds import Controller
from regimes.engine.evaluator import Evaluator
from regimes.engine.run import Run

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 5, generator=G).double(), torch.randint(0, 3, (24,), generator=G)
TOKENS = torch.randint(0, 7, (16, 9), generator=G)
TARGETS = TOKENS.roll(-1, 1).masked_fill(torch.arange(9) >= torch.randint(3, 9, (16, 1), generator=G), -100)


def net():
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3)).double()


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(7, 8), nn.Linear(8, 24), nn.Linear(8, 7)

    def forward(self, tokens):
        q, k, v = self.mix(self.embed(tokens)).chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])


def evaluator(work, **fields):
    run = Run(work, rg.Regime(optimizer=rg.SGD(lr=0.1), budget="4 steps", **{"batch_size": 8} | fields), seed=1)
    return run, Evaluator(run, run.phase.declaration, run.frame.plans[0])


def classes():
    return rg.Workload(model=net, train=(X, Y), loss=nn.CrossEntropyLoss())


def tokens():
    return rg.Workload(model=lambda: Attentive().double(), train=(TOKENS, TARGETS), loss=rg.NextToken())


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("work", [classes, tokens])
def test_their_mean_is_the_gradient_of_the_step(work, micro_batch):
    run, evaluate = evaluator(work(), micro_batch=micro_batch)
    found = evaluate(examples=True)
    for name, gradient in zip(run.parameters, found.gradients):
        rows = found.captured["example_gradients"][name]
        assert rows.shape == (8, *gradient.shape)
        torch.testing.assert_close(rows.mean(0), gradient, rtol=1e-10, atol=1e-13)


def test_weighted_examples_and_selected_ones():
    fields = {"sampler": rg.LossWeighted(initial=2.0), "selector": rg.HighLoss(0.5)}
    run, evaluate = evaluator(classes(), **fields)
    found = evaluate(examples=True)
    rows = found.captured["example_gradients"]
    for name, gradient in zip(run.parameters, found.gradients):
        torch.testing.assert_close(rows[name].mean(0), gradient, rtol=1e-10, atol=1e-13)
    silent = [i for i in range(8) if all(float(part[i].abs().max()) == 0.0 for part in rows.values())]
    assert len(silent) == 4


def test_each_is_what_one_backward_of_its_own_gives():
    run, evaluate = evaluator(rg.Workload(model=lambda: net().eval(), train=(X, Y), loss=nn.CrossEntropyLoss()))
    run.model.eval()
    rows = evaluate(examples=True).captured["example_gradients"]
    for place, example in enumerate(run.frame.plans[0].indices):
        loss = functional.cross_entropy(run.model(X[example][None]), Y[example][None])
        for name, wanted in zip(run.parameters, torch.autograd.grad(loss, run.trained)):
            torch.testing.assert_close(rows[name][place], wanted, rtol=1e-12, atol=1e-14)


class Unreached(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = net(), nn.Linear(4, 2).double()

    def forward(self, x):
        return self.used(x)


def test_of_what_the_loss_does_not_reach_they_are_zero_for_every_example():
    """A block that another loss trains: adaptive batches read one row of every parameter for each example."""
    data = rg.Workload(model=Unreached, train=(X, Y), loss=nn.CrossEntropyLoss())
    _, evaluate = evaluator(data, micro_batch=3)
    rows = evaluate(examples=True).captured["example_gradients"]
    assert torch.equal(rows["idle.weight"], torch.zeros(8, 2, 4).double())
    assert torch.equal(rows["idle.bias"], torch.zeros(8, 2).double())
    declared = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=rg.AdaptiveBatch(3, 12), budget="4 steps")
    assert rg.run(data, declared).steps == 4


class Sees(Controller):
    """Keeps the trace of the examples' gradients that it was shown."""

    needs = ("example_gradients",)

    def init(self):
        return {"trace": 0.0, "mean": 0.0}

    def value(self, state, at):
        return 0.1

    def observe(self, state, signals, at):
        rows = signals["example_gradients"]
        trace = sum(float((r - r.mean(0)).square().sum()) / (len(r) - 1) for r in rows.values())
        return {"trace": trace, "mean": sum(float(r.mean(0).square().sum()) for r in rows.values())}


def test_as_a_signal_it_is_of_the_weights_before_the_step_and_changes_nothing():
    def run_of(lr):
        return Run(classes(), rg.Regime(optimizer=rg.SGD(lr=lr), batch_size=8, budget="6 steps"), seed=1)

    watched, plain = run_of(Sees()), run_of(0.1)
    for _ in range(6):
        before = Evaluator(plain, plain.phase.declaration, plain.frame.plans[0])(examples=True)
        record, wanted = watched.step(), plain.step()
        assert record.loss == wanted.loss
        assert "example_gradients" not in record.signals
        rows = before.captured["example_gradients"]
        trace = sum(float((r - r.mean(0)).square().sum()) / 7 for r in rows.values())
        assert watched.states["knobs"]["optimizer.lr"]["trace"] == pytest.approx(trace, rel=1e-12)
    assert watched.work.flops == plain.work.flops / 2  # this test evaluates once more before each step of the other
    assert watched.work.side_flops > watched.work.flops
    with pytest.raises(rg.DeclarationError, match="MeZO makes no gradient, but 'example_gradients' wants one"):
        Run(classes(), rg.Regime(optimizer=rg.MeZO(lr=Sees()), batch_size=8, budget="6 steps"), seed=1)
