"""A graph of a stack's step finds the bits of the step; what a graph would freeze is not traced."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.engine.replicas import Stack
from regimes.engine.run import Run
from regimes.engine.traced import Worth
from regimes.testing.conformance.tiny import one_thread

STEPS = 24


@pytest.fixture(autouse=True)
def _one_thread():
    """On tensors this small several threads only wait for each other."""
    with one_thread():
        yield


def data(seed, n=96, ignored=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    y[:ignored] = -100
    return x, y


def plain():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def unbiased():
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False))


def norm_and_dropout():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 2))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.out = nn.Linear(6, 24), nn.Linear(8, 2)
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        q, k, v = self.inside(x).view(-1, 2, 2, 6).transpose(1, 2).split(2, -1)
        return self.out(functional.scaled_dot_product_attention(q, k, v).flatten(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.fixed = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.second.weight = self.first.weight
        self.fixed.weight.requires_grad_(False)

    def forward(self, x):
        return self.fixed(self.second(self.first(x).tanh()))


def hooked():
    model = plain()
    model[0].register_forward_hook(lambda module, inputs, output: output + 1.0)
    return model


BASE = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-2, warmup="5%")), batch_size=16, budget=f"{STEPS} steps")
REGIMES = (BASE, BASE.but({"optimizer.lr.peak": 3e-3}), BASE.but(optimizer=rg.SGD(lr=0.1)))


def trained(model, wanted, regimes=REGIMES, ignored=0, burst=1, loss=None):
    """Train a stack to its end; return it with every weight and buffer, and the losses."""
    work = rg.Workload(model=model, train=data(0, ignored=ignored), val=data(1), loss=loss or rg.CrossEntropy())
    stack, losses = Stack([Run(work, regime, seed) for seed, regime in enumerate(regimes)]), []
    stack.graphs.worth.wanted = wanted
    while not stack.runs[0].finished:
        found = stack.burst(burst, lambda run: False) if burst > 1 else [[]]
        losses += [[record.loss for record in records] for records in (found if found[0] else zip(stack.step()))]
    return stack, [tensor for run in stack.runs for tensor in run.model.state_dict().values()], losses


@pytest.mark.parametrize("burst", [1, 6])
@pytest.mark.parametrize("model", [plain, norm_and_dropout, Attending, Tied])
def test_the_bits_are_those_of_the_step(model, burst):
    graphed, weights, losses = trained(model, True, burst=burst)
    _, expected, others = trained(model, False, burst=burst)
    assert graphed.graphs.by_size[16] is not None
    assert losses == others
    assert all(map(torch.equal, weights, expected))


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_micro_batches_and_precision_are_traced_as_they_are(precision):
    regimes = [regime.but(precision=precision, micro_batch=6) for regime in REGIMES]
    graphed, weights, _ = trained(unbiased, True, regimes)
    assert set(graphed.graphs.by_size) == {6, 4}
    assert None not in graphed.graphs.by_size.values()
    assert all(map(torch.equal, weights, trained(unbiased, False, regimes)[1]))


def test_a_batch_of_which_something_is_ignored_is_no_step_of_the_graph():
    graphed, weights, _ = trained(plain, True, ignored=3)
    assert graphed.graphs.by_size[16] is not None
    assert all(map(torch.equal, weights, trained(plain, False, ignored=3)[1]))
    assert not all(map(torch.equal, weights, trained(plain, False)[1]))


def test_a_loss_whose_numbers_move_is_not_the_one_that_was_traced():
    loss = rg.CrossEntropy(label_smoothing=rg.Linear(0.3, final=0.0))
    regimes = [regime.but(loss=loss) for regime in REGIMES]
    assert all(map(torch.equal, trained(plain, True, regimes)[1], trained(plain, False, regimes)[1]))


def test_a_model_with_hooks_is_not_traced():
    graphed, weights, _ = trained(hooked, True)
    assert graphed.graphs.by_size == {}
    assert all(map(torch.equal, weights, trained(hooked, False)[1]))


def test_a_graph_is_wanted_where_much_is_left_and_kept_where_it_is_faster():
    long, short, slow = Worth(cost=1.0), Worth(cost=1.0), Worth(cost=1.0)
    for worth, left in ((long, 10_000), (short, 600), (slow, 10_000)):
        for seconds in (5.0, 0.01, 0.012, 0.01):
            assert not worth.wanted
            worth.note(seconds, left)
    assert (long.wanted, short.wanted, slow.wanted) == (True, False, True)
    for seconds in (1.5, 0.008, 0.5, 0.5):
        long.note(seconds, 10_000)
        slow.note(seconds + 0.01, 10_000)
        short.note(seconds, 10**9)  # decided once
    assert (long.wanted, short.wanted, slow.wanted) == (True, False, False)
