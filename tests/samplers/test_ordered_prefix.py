"""A growing first part: every form of pacing, orders by loss, plain reshuffling at b = 1, resume inside a client."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.samplers.preview import draws, view_of
from regimes.testing.resume import resume_chain

PACINGS = {
    "linear": lambda x: x,
    "quadratic": lambda x: x * x,
    "root": math.sqrt,
    "log": lambda x: 1 + math.log(x + math.exp(-10)) / 10,
    "exponential": lambda x: (math.exp(10 * x) - 1) / (math.exp(10) - 1),
    "step": lambda x: float(x >= 1),
}
GENERATOR = torch.Generator().manual_seed(8)
X = torch.randn(60, 5, generator=GENERATOR)
Y = torch.randint(0, 3, (60,), generator=GENERATOR)


def workload():
    return rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
        train={"ann": (X[:25], Y[:25]), "bob": (X[25:], Y[25:])},
        loss=nn.CrossEntropyLoss(),
    )


def batches(optimizer, steps, **fields):
    """(source, examples) of every step of trials."""
    run = rg.Run(workload(), rg.Regime(optimizer=optimizer, batch_size=5, budget="1 steps", **fields), 0)
    first, found = copy.deepcopy(run.model), []
    plans = {}
    run.read = _Noting(run.read, plans)
    for _ in range(steps):
        if "trial" in run.step().signals:
            found.append((int(plans["last"].sources[0]), plans["last"].indices.tolist()))
    return first, found, run


class _Noting:
    """A reader that notes the plans that it reads."""

    def __init__(self, read, plans):
        self._read, self._plans = read, plans

    def __call__(self, plan, *rest):
        self._plans["last"] = plan
        return self._read(plan, *rest)

    def __getattr__(self, name):
        return getattr(self._read, name)


@pytest.mark.exact("OrderedPrefix")
@pytest.mark.parametrize("pacing", PACINGS)
@pytest.mark.parametrize("b", [0.2, 0.5, 1.0])
def test_the_part_grows_from_b_n_to_n_by_its_form(pacing, b):
    sampler = rg.OrderedPrefix("random", pacing, b)
    assert (sampler.size(0.0, 1000), sampler.size(1.0, 1000), sampler.size(1.7, 1000)) == (1000 * b, 1000, 1000)
    for x in np.linspace(0, 0.999, 50):
        exact = 1000 * (b + (1 - b) * PACINGS[pacing](x))
        assert exact - 1 < sampler.size(x, 1000) <= exact + 1e-6
    assert rg.OrderedPrefix("random", pacing, 0.01).size(0.0, 5) == 1


@pytest.mark.exact("OrderedPrefix")
@pytest.mark.parametrize("order", ["easy", "hard", "random"])
@pytest.mark.parametrize("n", [1, 7, 60, 77])
def test_all_from_the_beginning_is_reshuffling_batch_for_batch(order, n):
    view = view_of(60)
    ours = draws(rg.OrderedPrefix(order, start_share=1.0), view, n, seed=3, batches=9)
    theirs = draws(rg.Reshuffle(), view, n, seed=3, batches=9)
    assert [d.indices.tolist() for d in ours] == [d.indices.tolist() for d in theirs]


@pytest.mark.parametrize("over", ["2 epochs", "120 samples", "24 steps"])
def test_only_the_first_part_of_the_order_comes(over):
    sampler, view = rg.OrderedPrefix("random", "linear", 0.1, over), view_of(60)
    found = [set(d.indices.tolist()) for d in draws(sampler, view, 5, seed=0, batches=40)]
    seen = set()
    for step, batch in enumerate(found):
        seen |= batch
        assert len(seen) <= 6 + 54 * min(step * 5 / 120, 1)
    assert len(found[0] | found[1]) <= 8
    assert seen == set(range(60))


@pytest.mark.exact("OrderedPrefix")
@pytest.mark.parametrize("order", ["easy", "hard"])
def test_clients_begin_with_the_easy_or_hard_ones_under_the_incoming_model(order):
    rule = rg.FedAvg(rg.SGD(lr=0.5), "2 steps", rg.OrderedPrefix(order, "step", 0.2))
    first, found, run = batches(rule, 4)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(first.eval()(X), Y, reduction="none")
    sign = 1 if order == "easy" else -1
    for source, part in enumerate((losses[:25], losses[25:])):
        size = len(part) // 5
        expected = set(torch.argsort(sign * part)[:size].tolist())
        drawn = [rows for own, rows in found if own == source]
        assert len(drawn) == 2
        assert {row for rows in drawn for row in rows} == expected
    plain = batches(rg.FedAvg(rg.SGD(lr=0.5), "2 steps"), 4)[2]
    assert run.work.side_flops > plain.work.side_flops  # the looks are charged


@pytest.mark.exact("OrderedPrefix")
def test_alone_it_looks_once_at_the_weights_with_which_the_phase_begins():
    declared = rg.Regime(
        optimizer=rg.SGD(lr=0.5), sampler=rg.OrderedPrefix("easy", "step", 0.25), batch_size=5, budget="9 steps"
    )
    run = rg.Run(workload(), declared, 0)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(copy.deepcopy(run.model).eval()(X), Y, reduction="none")
    records = list(run)
    assert len(records) == 9
    assert not any("trial" in r.signals for r in records)
    assert run.states["sampler"]["ranks"].tolist() == torch.argsort(torch.argsort(losses.double())).tolist()


@pytest.mark.exact("FedAvg")
def test_all_from_the_beginning_is_ordinary_federated_averaging_bitwise():
    ends = []
    for sampler in (rg.Reshuffle(), rg.OrderedPrefix("easy", "root", 1.0)):
        rule = rg.FedAvg(rg.AdamW(lr=0.05), "2 epochs", sampler)
        run = rg.Run(workload(), rg.Regime(optimizer=rule, batch_size=5, budget="2 steps"), 0)
        list(run)
        ends.append(run.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_resume_inside_a_client_is_bitwise():
    rule = rg.FedAvg(rg.AdamW(lr=0.05), "1 epochs", rg.OrderedPrefix("easy", "linear", 0.2, "1 epochs"))
    declared = rg.Regime(optimizer=rule, batch_size=5, budget="2 steps")
    found = resume_chain(lambda: rg.Run(workload(), declared, 0), 24)
    assert not found, found


@pytest.mark.parametrize("over", ["0 steps", "50%", "9 tokens"])
def test_growth_is_an_amount_that_a_sampler_can_count(over):
    with pytest.raises(rg.DeclarationError, match=r"over: got .* allowed: more than nothing, in epochs"):
        rg.OrderedPrefix(over=over)
