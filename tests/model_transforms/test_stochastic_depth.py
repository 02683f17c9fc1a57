"""Branches that survive at random: against torch's dropout draws, closed forms, resume, micro-batches and stacks."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.engine.run import Run
from regimes.engine.together import Together
from regimes.model_transforms.stochastic_depth import survived
from regimes.testing.resume import resume_chain
from regimes.workloads.residual import ResidualMLP


def net(blocks=4):
    return ResidualMLP(6, 8, blocks, 3).double()


def workload():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 6, generator=draw, dtype=torch.float64), torch.randint(0, 3, (24,), generator=draw)
    return rg.Workload(model=net, train=(x, y), val=(x[:8], y[:8]), loss=nn.CrossEntropyLoss())


def regime(*transforms, steps=6, **more):
    settings = {"optimizer": rg.SGD(lr=0.1, momentum=0.9), "batch_size": 8} | more
    return rg.Regime(budget=f"{steps} steps", on_entry=list(transforms), **settings)


def inputs(n=10):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.exact("StochasticDepth")
def test_survival_is_linear_in_the_number_of_the_branch():
    model = rg.StochasticDepth(0.6, "blocks.*").structure(net(5))
    assert [block.branch_survival for block in model.blocks] == pytest.approx([0.92, 0.84, 0.76, 0.68, 0.6])
    assert not any(hasattr(part, "branch_survival") for block in model.blocks for part in block.children())


@pytest.mark.exact("StochasticDepth", "InputDropout")
def test_survival_of_one_and_dropout_of_none_are_the_identity():
    torch.manual_seed(0)
    plain = net()
    model = rg.InputDropout(0.0).structure(rg.StochasticDepth(1.0, "blocks.*").structure(copy.deepcopy(plain)))
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert torch.equal(model.train()(inputs()), plain(inputs()))
    before = torch.get_rng_state()
    model(inputs())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.exact("StochasticDepth")
@pytest.mark.parametrize("scaled", ["training", "evaluation"])
def test_training_keeps_or_drops_whole_branches_by_the_masks_that_dropout_draws(scaled):
    torch.manual_seed(0)
    model = rg.StochasticDepth(0.5, "blocks.*", scaled).structure(net()).train()
    torch.manual_seed(7)
    found = model(inputs())
    torch.manual_seed(7)
    x, kept = model.stem(inputs()), []
    for number, block in enumerate(model.blocks, start=1):
        p = 1 - number / 4 * 0.5
        b = (functional.dropout(torch.ones(10, 1, dtype=torch.float64), 1 - p) != 0).double()
        kept.append(b)
        x = x + b / (p if scaled == "training" else 1.0) * block.down(functional.relu(block.up(block.norm(x))))
    wanted = model.head(functional.relu(x))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    assert 0 < torch.cat(kept).mean() < 1
    # The gradient of a branch comes from the examples that keep it.
    (g,) = torch.autograd.grad(found.sum(), model.blocks[3].down.bias)
    (h,) = torch.autograd.grad(wanted.sum(), model.blocks[3].down.bias)
    torch.testing.assert_close(g, h, rtol=1e-12, atol=1e-12)


@pytest.mark.exact("StochasticDepth")
def test_evaluation_is_the_plain_network_or_every_branch_times_its_survival():
    torch.manual_seed(0)
    plain = net()
    for scaled in ("training", "evaluation"):
        model = rg.StochasticDepth(0.5, "blocks.*", scaled).structure(copy.deepcopy(plain)).eval()
        x = plain.stem(inputs())
        for number, block in enumerate(plain.blocks, start=1):
            x = x + (1 if scaled == "training" else 1 - number / 8) * block(x)
        torch.testing.assert_close(model(inputs()), plain.head(functional.relu(x)), rtol=1e-14, atol=1e-14)


@pytest.mark.exact("StochasticDepth")
@pytest.mark.parametrize("scaled", ["training", "evaluation"])
def test_the_mean_over_all_draws_is_evaluation(scaled):
    """The share that survives is within four standard errors of p, and what survives is x / p, or x."""
    p, n = 0.7, 20_000
    torch.manual_seed(0)
    x = torch.full((n, 2, 3), 2.0, dtype=torch.float64)
    found = survived(x, p, True, scaled)
    each = found.view(n, 6)
    assert (each == each[:, :1]).all()  # whole examples
    values = sorted(each[:, 0].unique().tolist())
    assert values == pytest.approx([0.0, 2.0 / p if scaled == "training" else 2.0], rel=1e-14)
    share = (each[:, 0] != 0).double().mean().item()
    assert abs(share - p) < 4 * (p * (1 - p) / n) ** 0.5
    assert survived(x, p, False, scaled).unique().item() == (2.0 if scaled == "training" else 2.0 * p)


@pytest.mark.exact("InputDropout")
def test_input_dropout_is_torchs_before_the_layer():
    torch.manual_seed(0)
    plain = net()
    model = rg.InputDropout(0.3).structure(copy.deepcopy(plain)).train()
    wanted = copy.deepcopy(plain)
    wanted.head = nn.Sequential(nn.Dropout(0.3), wanted.head)
    for seed in range(3):
        torch.manual_seed(seed)
        found = model(inputs())
        torch.manual_seed(seed)
        assert torch.equal(found, wanted(inputs()))
    assert torch.equal(model.eval()(inputs()), plain(inputs()))


def test_names_stay_copies_and_pickles_are_the_same_network():
    torch.manual_seed(0)
    plain = net()
    both = rg.InputDropout(0.3, ["head", "blocks.1"]).structure(
        rg.StochasticDepth(0.5, "blocks.*").structure(copy.deepcopy(plain))
    )
    assert list(both.state_dict()) == list(plain.state_dict())
    for other in (copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        assert str(other) == str(both)
        assert [type(m) for m in other.modules()] == [type(m) for m in both.modules()]
        torch.manual_seed(3)
        found = other(inputs())
        torch.manual_seed(3)
        assert torch.equal(found, both(inputs()))
        assert all(isinstance(m, nn.Module) for m in other.modules())
    assert isinstance(both.head, nn.Linear)
    assert "ResidualBranch(\n" in str(both).replace("DroppedInput", "").replace("StochasticBranch", "")
    torch.manual_seed(3)
    x = functional.dropout(inputs()[:, :1].expand(10, 8).contiguous(), 0.3)
    wanted = survived(plain.blocks[1](x), 0.75, True)
    torch.manual_seed(3)
    assert torch.equal(both.blocks[1](inputs()[:, :1].expand(10, 8).contiguous()), wanted)
    # Each may go without the other.
    alone = rg.StochasticDepth(1.0, "blocks.*").structure(copy.deepcopy(both))
    torch.manual_seed(3)
    found = alone(inputs())
    torch.manual_seed(3)
    wanted = rg.InputDropout(0.3, ["head", "blocks.1"]).structure(copy.deepcopy(plain))
    assert torch.equal(found, wanted(inputs()))
    assert not hasattr(alone.blocks[0], "branch_survival")


def test_a_later_phase_puts_another_survival_or_none():
    phases = [
        rg.Phase("mild", budget="2 steps", on_entry=[rg.StochasticDepth(0.9, "blocks.*")]),
        rg.Phase("same", budget="2 steps"),
        rg.Phase("strong", budget="2 steps", on_entry=[rg.StochasticDepth(0.5, "blocks.[23]", "evaluation")]),
        rg.Phase("none", budget="2 steps", on_entry=[rg.StochasticDepth(1.0, "blocks.*")]),
    ]
    run = Run(workload(), rg.Regime(phases=phases, optimizer=rg.SGD(lr=0.1), batch_size=8), seed=0)
    seen = []
    for _ in range(8):
        seen.append([getattr(block, "branch_survival", None) for block in run.model.blocks])
        run.step()
    none = [None] * 4
    assert seen[0::2] == [pytest.approx([0.975, 0.95, 0.925, 0.9])] * 2 + [[None, None, 0.75, 0.5], none]


@pytest.mark.exact("StochasticDepth", "InputDropout")
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_resume_is_exact_and_masks_hang_on_the_micro_batch_alone(micro_batch):
    both = regime(rg.StochasticDepth(0.5, "blocks.*"), rg.InputDropout(0.5), micro_batch=micro_batch)
    assert resume_chain(lambda: Run(workload(), both, seed=4), steps=6) == []


@pytest.mark.exact("StochasticDepth")
def test_micro_batches_have_masks_of_their_own():
    """A step of two micro-batches is the mean of the two forwards, each at its own address."""
    declared = regime(rg.StochasticDepth(0.5, "blocks.*"), micro_batch=4, steps=1, optimizer=rg.SGD(lr=1.0))
    run = Run(workload(), declared, seed=4)
    x, y = run.read(run.frame.plans[0])
    before = {name: p.detach().clone() for name, p in run.parameters.items()}
    seeds = [run.streams.seed32("forward", 0, number) for number in range(2)]
    model = copy.deepcopy(run.model).train()
    wanted = []
    for seed, rows in zip(seeds, (slice(0, 4), slice(4, 8))):
        torch.manual_seed(seed)
        loss = functional.cross_entropy(model(x[rows]), y[rows])
        wanted.append(torch.autograd.grad(loss, list(model.parameters())))
    run.step()
    for (name, p), a, b in zip(run.parameters.items(), *wanted):
        torch.testing.assert_close(before[name] - p, (a + b) / 2, rtol=1e-12, atol=1e-14)


@pytest.mark.exact("StochasticDepth", "InputDropout")
def test_stacked_runs_drop_what_they_drop_alone():
    both = regime(rg.StochasticDepth(0.5, "blocks.*"), rg.InputDropout(0.5))

    def runs():
        return [Run(workload_, both, seed, count_flops=False) for seed in range(3)]

    workload_ = workload()
    together, alone = runs(), runs()
    stepping = Together(together)
    while stepping.running:
        assert not [made for _, made in stepping.steps() if isinstance(made, Exception)]
        assert stepping.alone == stepping.reasons == []
    for one, other in zip(together, alone):
        list(other)
        for name, p in one.parameters.items():
            torch.testing.assert_close(p, other.parameters[name], rtol=1e-9, atol=1e-12)


def test_runs_of_another_survival_are_of_another_form():
    from regimes.engine.stackable import form

    work = workload()
    a, b, c = (
        form(Run(work, regime(rg.StochasticDepth(p, "blocks.*")), 0, count_flops=False)) for p in (0.5, 0.5, 0.6)
    )
    assert a == b != c


def test_patterns_that_match_nothing_and_branches_that_are_no_tensors_are_refused():
    with pytest.raises(rg.DeclarationError, match="got 'block.0', which matches no module; did you mean 'blocks.0'"):
        rg.StochasticDepth(0.5, "block.0").structure(net())
    for transform in (rg.StochasticDepth, rg.InputDropout):
        with pytest.raises(rg.DeclarationError, match="patterns: got no pattern"):
            transform(0.5, [])
    with pytest.raises(
        rg.DeclarationError, match="patterns: got a tuple from a LSTM; allowed: modules that return a tensor"
    ):
        rg.StochasticDepth(0.5, "0").structure(nn.Sequential(nn.LSTM(3, 3)))(torch.zeros(2, 1, 3))


def test_whole_numbers_are_not_dropped():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    with pytest.raises(rg.DeclarationError, match="patterns: got '0', an Embedding, whose input is whole numbers"):
        rg.InputDropout(0.2, ["*"]).structure(model)
    rg.InputDropout(0.2, ["1"]).structure(model)
