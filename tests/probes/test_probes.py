"""The simple probes against hand calculation, alone and in a run; what a view makes of losses and batches."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.kinds import Loss
from regimes.core.unit_losses import UnitLosses
from regimes.probes.view import View, length, piece, undisturbed


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)).double()


def batch_of(n=10):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=g, dtype=torch.float64), torch.randint(0, 2, (n,), generator=g)


def mean_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def example_losses(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def gradients_by_hand(model, batch):
    torch.manual_seed(0)
    mean_loss(model, batch).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
def test_norms_equal_those_of_backward_in_the_mode_of_the_model(training):
    model, batch = net().train(training), batch_of()
    found, norm = rg.LayerNorms()(model, mean_loss, batch), rg.GradientNorm()(model, mean_loss, batch)
    by_hand = gradients_by_hand(model, batch)
    for name in ("0", "1", "4"):
        own = torch.cat([by_hand[f"{name}.weight"].view(-1), by_hand[f"{name}.bias"]])
        weights = torch.cat([p.view(-1) for p in model[int(name)].parameters()])
        assert found[f"gradient/{name}"] == pytest.approx(own.norm().item(), rel=1e-12)
        assert found[f"weight/{name}"] == pytest.approx(weights.norm().item(), rel=1e-12)
    assert len(found) == 6
    assert norm[""] == pytest.approx(torch.cat([g.view(-1) for g in by_hand.values()]).norm().item(), rel=1e-12)


def test_mode_matters_where_the_model_says_so():
    model, batch = net(), batch_of()
    training = rg.GradientNorm()(model, mean_loss, batch)
    assert training != rg.GradientNorm()(model.eval(), mean_loss, batch)
    assert training == rg.GradientNorm()(model.train(), mean_loss, batch)


@pytest.mark.parametrize("loss_fn", [mean_loss, example_losses, rg.CrossEntropy()])
def test_a_mean_losses_per_example_and_a_loss_of_ours_are_the_same_loss(loss_fn):
    model, batch = net(), batch_of()
    assert rg.GradientNorm()(model, loss_fn, batch) == rg.GradientNorm()(model, mean_loss, batch)


def test_padding_counts_as_nothing_even_where_its_loss_is_not_finite():
    values = torch.tensor([1.0, torch.inf, 3.0, torch.nan, 8.0], dtype=torch.float64, requires_grad=True)
    units = UnitLosses(values, torch.tensor([1.0, 0.0, 3.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1, 3]))
    view = View(nn.Identity(), lambda model, batch: units, None)
    assert view.loss().item() == (1.0 + 9.0 + 8.0) / 5.0
    assert torch.autograd.grad(view.loss(), values)[0].tolist() == [0.2, 0.0, pytest.approx(0.6), 0.0, 0.2]
    assert view.example_losses().tolist() == [2.5, 8.0]
    assert rg.ExampleLoss(quantiles=[0.5], hardest=5)(nn.Identity(), lambda model, batch: units, None) == {
        "q50": 5.25,
        "hardest_1": 8.0,
        "hardest_2": 2.5,
    }
    numbered = View(nn.Identity(), lambda model, batch: units, None, numbers=[40, 41, 42, 43], sources=[0, 0, 0, 1])
    assert rg.ExampleLoss(quantiles=[], hardest=2).measure(numbered) == {
        "hardest_1": 8.0,
        "hardest_1_example": 43.0,
        "hardest_1_source": 1.0,
        "hardest_2": 2.5,
        "hardest_2_example": 40.0,
        "hardest_2_source": 0.0,
    }


def test_example_loss_equals_torch_quantiles_of_the_same_forward():
    model, batch = net().eval(), batch_of()
    losses = example_losses(model, batch).detach()
    found = rg.ExampleLoss(quantiles=[0.0, 0.25, 1.0], hardest=2)(model, rg.CrossEntropy(), batch)
    ordered = losses.sort(descending=True).values.tolist()
    assert found == {
        "q0": ordered[-1],
        "q25": torch.quantile(losses, 0.25).item(),
        "q100": ordered[0],
        "hardest_1": ordered[0],
        "hardest_2": ordered[1],
    }


def test_example_loss_refuses_a_reduced_loss():
    with pytest.raises(rg.DeclarationError, match=r"loss_fn: got one number for the whole batch; allowed: losses per"):
        rg.ExampleLoss()(net(), mean_loss, batch_of())


def test_update_ratio_by_group_and_at_zero():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        model.bias.fill_(12.0)
    previous = {"weight": torch.tensor([[3.0, 1.0]]), "bias": torch.tensor([12.0])}
    groups = {"@vectors": ["bias"], "*": ["weight"]}
    found = rg.UpdateRatio()(model, None, None, previous=previous, groups=groups)
    assert found == {"": pytest.approx(3 / math.sqrt(154)), "@vectors": 0.0, "*": pytest.approx(3 / math.sqrt(10))}
    zero = {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}
    assert rg.UpdateRatio()(model, None, None, previous=zero) == {"": math.inf}
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    assert rg.UpdateRatio()(model, None, None, previous=zero) == {"": 0.0}
    with pytest.raises(rg.DeclarationError, match="previous: needs a value"):
        rg.UpdateRatio()(model, None, None)


def test_only_trained_parameters_count():
    model = net()
    model[0].requires_grad_(False)
    layers = rg.WeightNorm(layers=True)(model, None, None)
    assert set(layers) == {"", "1", "4"}
    assert layers[""] == pytest.approx(math.hypot(layers["1"], layers["4"]), rel=1e-12)


# -- in a run --------------------------------------------------------------------------------------------


def data(n=40):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    return x, (x[:, 0] > 0).long()


def workload():
    return rg.Workload(model=net, train=data(), loss=nn.CrossEntropyLoss())


def test_in_a_run_the_update_is_the_steps_own():
    rule = rg.Groups([rg.Group("*bias", rg.SGD(lr=0.1)), rg.Group("*", rg.SGD(lr=0.2))])
    regime = rg.Regime(optimizer=rg.SAM(rule), batch_size=8, budget="4 steps", lag=1)
    run, seen = rg.Run(workload(), regime, seed=2), []
    weights = [{n: p.detach().clone() for n, p in run.parameters.items()}]
    for _ in range(4):
        run.step()
        weights.append({n: p.detach().clone() for n, p in run.parameters.items()})
    for before, after in itertools.pairwise(weights):
        for names in (list(before), [n for n in before if n.endswith("bias")], [n for n in before if "bias" not in n]):
            moved = torch.cat([(after[n] - before[n]).view(-1) for n in names]).norm()
            seen.append((moved / torch.cat([before[n].view(-1) for n in names]).norm()).item())
    records = list(rg.stream(workload(), regime, seed=2, probes=[rg.UpdateRatio(every="1 steps")]))
    found = [r.signals[f"update_ratio{g}"] for r in records for g in ("", "/*bias", "/*")]
    assert found == pytest.approx(seen, rel=1e-12)


class Temperature(Loss):
    """Scaled by a knob: shows whether a probe sees the number of the step or the schedule."""

    scale: object = rg.core.component.knob(1.0)

    def units(self, state, model, batch):
        return UnitLosses(self.scale * example_losses(model, batch))


def test_in_a_run_the_loss_is_that_of_the_step():
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=40, budget="4 steps", sampler=rg.Reshuffle())
    probe = rg.ExampleLoss(quantiles=[0.5], hardest=0, every="1 steps")
    plain = [r.signals["example_loss/q50"] for r in rg.stream(workload(), regime, probes=[probe])]
    scaled = regime.but(loss=Temperature(rg.Linear(4.0, 2.0)))
    found = [r.signals["example_loss/q50"] for r in rg.stream(workload(), scaled, probes=[probe])]
    assert found == pytest.approx([scale * q for scale, q in zip((4.0, 3.5, 3.0, 2.5), plain)], rel=1e-12)


# -- pieces and the guard ----------------------------------------------------------------------------------


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize("make", [lambda x, y: (x, y), lambda x, y: {"x": x, "y": y}, Pair, lambda x, y: [x, (y, x)]])
def test_pieces_keep_the_form_of_the_batch(make):
    x, y = torch.arange(12).view(6, 2), torch.arange(6)
    assert length(make(x, y)) == 6
    got, wanted = piece(make(x, y), 2, 5), make(x[2:5], y[2:5])
    assert type(got) is type(wanted)
    assert repr(got) == repr(wanted)


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(rg.DeclarationError, match="batch: got a batch of type str, which cannot be cut"):
        piece(("a", "b"), 0, 1)


def state_of(model):
    import random

    import numpy as np

    tensors = {name: t.clone() for name, t in model.state_dict().items()}
    return (
        {name: t.tolist() for name, t in tensors.items()},
        {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        [p.requires_grad for p in model.parameters()],
        [id(p) for p in model.parameters()],
        [p.data_ptr() for p in model.parameters()],
        [id(b) for b in model.buffers()],
        [m.training for m in model.modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
    )


def vandal(model):
    import random

    import numpy as np

    model.eval()
    model[1].train()
    mean_loss(model.train(), batch_of()).backward()  # adds to gradients in place, moves running statistics
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2).requires_grad_(False)
            p.data = torch.zeros(5)
        model[0].weight.grad = None
        model[1].running_mean = torch.ones(4)
        model[1].running_var.zero_()
    torch.randn(3), random.random(), np.random.rand()


@pytest.mark.parametrize("fails", [False, True])
def test_whatever_happens_inside_is_undone(fails):
    model = net()
    mean_loss(model, batch_of()).backward()
    model[4].bias.grad = None
    model[3].eval()
    before = state_of(model)
    try:
        with undisturbed(model):
            vandal(model)
            assert state_of(model) != before
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert state_of(model) == before


def test_measurements_of_one_moment_are_equal():
    """Random streams begin at a fixed place, whatever was drawn before."""
    model, batch = net(), batch_of()
    probe = rg.GradientNoiseScale(small=2)
    first = probe(model, mean_loss, batch)
    torch.randn(7)
    assert repr(probe(model, mean_loss, batch)) == repr(first)
