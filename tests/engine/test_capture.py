"""What an evaluation captures, against hooks by hand on a twin."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.core.kinds import Optimizer
from regimes.core.unit_losses import UnitLosses
from regimes.engine.run import Run


class Shared(nn.Module):
    """One layer that is called twice, one that a later call changes in place, one called by keyword, one not at all."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.relu, self.idle = nn.ReLU(inplace=True), nn.Linear(2, 2)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = torch.tanh(self.middle(torch.tanh(self.middle(x))))
        return self.last(input=x)


LAYERS = ("first", "relu", "middle", "last", "idle")
WANTED = tuple(f"{what}:{name}" for name in LAYERS for what in ("input", "output", "output_gradient"))
OF_BATCH = ("target", "weight")
seen = []


class Captures(Optimizer):
    """Moves nothing and keeps what it captured; evaluates twice, to see that captures do not pile up."""

    single_evaluation = False

    def step(self, state, parameters, evaluate):
        evaluate(final=False, capture=WANTED)
        seen.append(evaluate(capture=WANTED).captured)
        return state


def data():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(24, 6, generator=draw), torch.randint(0, 3, (24,), generator=draw)


def workload(model=Shared, loss=None):
    return rg.Workload(model=model, train=data(), val=data(), loss=loss or nn.CrossEntropyLoss())


def captured(optimizer=None, *, steps=2, model=Shared, loss=None, **fields):
    """The run at its start, the batches of its steps, and what each captured."""
    seen.clear()
    regime = rg.Regime(optimizer=optimizer or Captures(), batch_size=12, budget=f"{steps} steps", **fields)
    run = Run(workload(model, loss), regime, seed=3)
    twin, batches = copy.deepcopy(run.model), []
    while not run.finished:
        batches.append(torch.from_numpy(run.frame.plans[0].indices))
        run.step()
    return twin, batches, list(seen)


def by_hand(twin, indices, sizes, weights=None):
    """The same by tensors that keep their own gradients, one micro-batch after the other."""
    found = {item: [] for item in WANTED}
    x, y = data()
    for part in indices.split(sizes):
        calls, handles = [], []
        for name in LAYERS:

            def after(module, args, kwargs, out, name=name, calls=calls):
                given = (args or tuple(kwargs.values()))[0].detach().clone()
                value = out.detach().clone()
                calls.append((name, given, value, out))

            handles.append(getattr(twin, name).register_forward_hook(after, with_kwargs=True))
        twin.relu.inplace = False  # autograd could not be asked for what it overwrites
        logits = twin(x[part])
        losses = functional.cross_entropy(logits, y[part], reduction="none")
        total = losses.sum() if weights is None else (losses * weights[part]).sum()
        gradients = torch.autograd.grad(total, [out for *_, out in calls])
        for (name, given, value, _), g in zip(calls, gradients):
            found[f"input:{name}"].append(given)
            found[f"output:{name}"].append(value)
            found[f"output_gradient:{name}"].append(g)
        for handle in handles:
            handle.remove()
    return found


@pytest.mark.parametrize("micro", [None, 5])
def test_captures_equal_hooks_by_hand(micro):
    """Also in the first step, where operations are counted by a forward more, and for a layer called twice."""
    twin, batches, found = captured(micro_batch=micro)
    sizes = [12] if micro is None else [5, 5, 2]
    for indices, one in zip(batches, found, strict=True):
        expected = by_hand(twin, indices, sizes)
        assert set(one) == set(WANTED)
        assert [len(one[f"input:{name}"]) for name in LAYERS] == [n * len(sizes) for n in (1, 1, 2, 1, 0)]
        for item in WANTED:
            assert len(one[item]) == len(expected[item])
            assert all(torch.equal(a, b) for a, b in zip(one[item], expected[item])), item


def test_output_gradients_are_each_units_own_and_padding_has_none():
    """Of the weighted sum, undivided: unit weights multiply rows, and a unit of weight 0 leaves a row of zeros."""
    weights = torch.tensor([0.0, 1.0, 2.0] * 8)

    class Weighted(rg.CrossEntropy):
        def per_unit(self, output, target):
            own = weights[torch.cat([torch.where((data()[0] == x).all(1))[0] for x in inputs])]
            return UnitLosses(functional.cross_entropy(output, target, reduction="none"), own)

    inputs = []

    class Watching(Shared):
        def forward(self, x):
            inputs[:] = list(x)
            return super().forward(x)

    twin, batches, found = captured(model=Watching, loss=Weighted(), steps=1, micro_batch=4)
    expected = by_hand(twin, batches[0], [4, 4, 4], weights)
    assert all(torch.equal(a, b) for a, b in zip(found[0]["output_gradient:last"], expected["output_gradient:last"]))
    rows = torch.cat(found[0]["output_gradient:last"])
    assert torch.equal(rows.abs().sum(1) == 0, weights[batches[0]] == 0)


def test_a_selectors_scoring_pass_is_not_captured():
    _, _, found = captured(steps=1, selector=rg.HighLoss(0.5))
    assert [len(found[0][f"input:{name}"]) for name in LAYERS] == [1, 1, 2, 1, 0]
    kept = found[0]["output_gradient:last"][0].abs().sum(1) > 0
    assert int(kept.sum()) == 6


def test_gradients_are_captured_where_the_layers_input_needs_none():
    """Only the last layer trains: the gradient of its input is never made, that of its output is."""
    twin, batches, found = captured(steps=1, trainable=["last.*"])
    expected = by_hand(twin, batches[0], [12])
    assert torch.equal(found[0]["output_gradient:last"][0], expected["output_gradient:last"][0])
    assert found[0]["output_gradient:first"][0].abs().sum() == 0


class OfBatch(Optimizer):
    """Moves nothing and keeps what it captured of the batch, without gradients too."""

    single_evaluation = False

    def step(self, state, parameters, evaluate):
        seen.append(evaluate(grad=False, capture=OF_BATCH).captured)
        evaluate()
        return state


class Weighing(rg.Reshuffle):
    """Gives every example an importance weight of its own."""

    is_default = False

    def draw(self, state, cursor, n, ctx):
        found = super().draw(state, cursor, n, ctx)
        return found._replace(weights=1.0 + found.indices % 5)


@pytest.mark.parametrize(("micro", "sizes"), [(None, [12]), (5, [5, 5, 2])])
def test_targets_and_weights_of_the_batch(micro, sizes):
    """One tensor per micro-batch; a weight is what the unit's loss counts in the gradient."""
    _, batches, found = captured(OfBatch(), micro_batch=micro, sampler=Weighing(), selector=rg.HighLoss(0.5))
    twin, _, gradients = captured(micro_batch=micro, sampler=Weighing(), selector=rg.HighLoss(0.5))
    x, y = data()
    for indices, one in zip(batches, found, strict=True):
        assert [len(part) for part in one["target"]] == [len(part) for part in one["weight"]] == sizes
        assert torch.equal(torch.cat(one["target"]), y[indices])
        losses = functional.cross_entropy(twin(x[indices]), y[indices], reduction="none")
        chosen = torch.zeros(12).index_fill(0, losses.topk(6).indices, 1.0)
        assert torch.equal(torch.cat(one["weight"]), chosen * (1.0 + indices % 5))
    weight, rows = torch.cat(found[0]["weight"]), torch.cat(gradients[0]["output_gradient:last"])
    probabilities = twin(x[batches[0]]).softmax(1) - functional.one_hot(y[batches[0]], 3)
    torch.testing.assert_close(rows, weight[:, None] * probabilities, rtol=1e-5, atol=1e-6)


def test_a_target_is_the_batchs_own_part_and_nothing_weighs_one():
    named = dict(zip(("x", "label"), data()))

    work = rg.Workload(model=Shared, train=named, val=named, loss=nn.CrossEntropyLoss())
    seen.clear()
    run = Run(work, rg.Regime(optimizer=OfBatch(), batch_size=12, budget="1 steps"), seed=3)
    indices = torch.from_numpy(run.frame.plans[0].indices)
    run.step()
    assert torch.equal(seen[0]["target"][0], named["label"][indices])
    assert torch.equal(seen[0]["weight"][0], torch.ones(12))


@pytest.mark.parametrize(
    ("capture", "grad", "sentence"),
    [
        ("input:frist", True, "there is no module 'frist' to capture; did you mean 'first'"),
        ("inputs:first", True, "got 'inputs:first' to capture; "),
        ("output_gradient:first", False, "got 'output_gradient:first' to capture from an evaluation without gradients"),
        ("output:pair", True, "'output:pair' cannot be captured: it is tuple; allowed: a tensor"),
    ],
)
def test_what_cannot_be_captured_is_refused(capture, grad, sentence):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Net(Shared):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return super().forward(self.pair(x)[0])

    class Asks(Captures):
        def step(self, state, parameters, evaluate):
            evaluate(grad=grad, capture=[capture])

    with pytest.raises(rg.UserCodeError) as why:
        captured(Asks(), model=Net)
    assert sentence in str(why.value)
