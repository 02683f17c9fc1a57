"""Freezing and fresh values, through runs of several phases."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.testing.resume import resume_chain


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))


def workload(model=net):
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 4, generator=draw), torch.randint(0, 3, (48,), generator=draw)
    return rg.Workload(model=model, train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss())


def two(on_entry, carry=("model", "optimizer"), optimizer=None, before=()):
    return rg.Regime(
        phases=[
            rg.Phase("first", budget="50%", on_entry=list(before)),
            rg.Phase("second", budget="50%", on_entry=list(on_entry), carry=list(carry)),
        ],
        optimizer=optimizer or rg.AdamW(lr=0.05, weight_decay=0.1),
        batch_size=8,
        budget="8 steps",
    )


def halfway(regime, seed=0, model=net):
    """The run after its first phase (4 steps), the seam passed, and its weights before the seam."""
    run = Run(workload(model), regime, seed=seed)
    for _ in range(3):
        run.step()
    kept = {}
    original = run.enter

    def entering(first):
        kept.update({name: p.detach().clone() for name, p in run.model.named_parameters()})
        original(first)

    run.enter = entering
    run.step()
    assert kept
    return run, kept


def test_frozen_parameters_keep_their_bits_and_are_in_no_optimizer():
    run, before = halfway(two([rg.Freeze(["0.*", "3.bias"])]))
    list(run)
    after = dict(run.model.named_parameters())
    frozen = {"0.weight", "0.bias", "3.bias"}
    assert {name for name in after if torch.equal(after[name], before[name])} == frozen
    assert set(run.states["optimizer"]["slots"]) == set(after) - frozen
    assert all(p.grad is None for p in after.values())


def test_carried_state_of_what_trains_on_goes_on():
    """Freezing part of a network does not disturb the moments of the rest."""
    run, _ = halfway(two([rg.Freeze("0.*")]))
    slot = run.states["optimizer"]["slots"]["4.weight"]
    assert slot["step"] == 4
    assert slot["exp_avg"].abs().sum() > 0
    fresh, _ = halfway(two([rg.Freeze("0.*")], carry=("model",)))
    assert fresh.states["optimizer"]["slots"]["4.weight"]["step"] == 0


def test_unfrozen_parameters_join_with_their_own_count():
    """Adam's first step is lr sign(g) whenever it comes; with the carried count of others it would be 1.5 lr here."""
    optimizer = rg.AdamW(lr=0.05, weight_decay=0.0, eps=0.0)
    run, before = halfway(two([rg.Unfreeze()], optimizer=optimizer, before=[rg.Freeze("0.*")]))
    run.step()
    moved = (run.model[0].weight - before["0.weight"]).detach().abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05), rtol=1e-4, atol=0)
    assert run.states["optimizer"]["slots"]["0.weight"]["step"] == 1
    assert run.states["optimizer"]["slots"]["4.weight"]["step"] == 5


def test_unfreezing_by_pattern_leaves_the_rest_frozen():
    run, _ = halfway(two([rg.Unfreeze("3.*")], before=[rg.Freeze(["0.*", "3.*"])]))
    assert [name for name, p in run.model.named_parameters() if not p.requires_grad] == ["0.weight", "0.bias"]


def test_tied_weight_is_frozen_under_any_of_its_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.head = nn.Embedding(3, 4), nn.Linear(4, 3)
            self.head.weight = self.wte.weight

    model = rg.Freeze("head.weight").structure(Tied())
    assert not model.wte.weight.requires_grad
    assert model.head.bias.requires_grad


def test_reinitialised_layers_are_as_new_and_the_rest_as_before():
    run, before = halfway(two([rg.Reinitialise(["3.*", "4.bias"])]))
    after = {name: p.detach() for name, p in run.model.named_parameters()}
    assert {name for name in after if torch.equal(after[name], before[name])} == set(after) - {
        "3.weight",
        "3.bias",
        "4.bias",
    }
    slots = run.states["optimizer"]["slots"]
    assert {name for name, slot in slots.items() if slot["step"] == 0} == {"3.weight", "3.bias", "4.bias"}
    assert slots["3.weight"]["exp_avg"].abs().sum() == 0
    assert slots["4.weight"]["exp_avg"].abs().sum() > 0


def test_fresh_values_are_those_of_reset_parameters_at_their_address():
    streams, model = Streams(7, "second"), net()
    result = rg.Reinitialise(["3.*", "4.*"]).fill(model, model, iter(()), streams)
    for place in ("3", "4"):
        twin = copy.deepcopy(model[int(place)])
        torch.manual_seed(streams.seed32("reinitialise", place))
        twin.reset_parameters()
        assert torch.equal(model[int(place)].weight, twin.weight)
        assert torch.equal(model[int(place)].bias, twin.bias)
    assert {name for name, old in result.names.items() if old is None} == {
        f"{p}.{n}" for p in "34" for n in ("weight", "bias")
    }


def test_fresh_values_depend_on_the_seed_and_not_on_other_patterns_or_the_callers_generator():
    def value(patterns, seed=0):
        return halfway(two([rg.Reinitialise(patterns)]), seed=seed)[0].model[4].weight.detach().clone()

    torch.manual_seed(1)
    one = value("4.*")
    state = torch.random.get_rng_state()
    other = value(["4.*", "0.*"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, other)
    assert not torch.equal(one, value("4.*", seed=1))


def test_statistics_of_a_reset_norm_start_anew():
    model = net()
    model[1].running_mean.fill_(3.0)
    rg.Reinitialise("1.*").fill(model, model, iter(()), Streams(0))
    assert model[1].running_mean.abs().sum() == 0


def test_attention_is_reset_as_it_is_built():
    """The outer reset comes after the inner one, as on construction: out_proj.bias ends at 0."""
    model = nn.ModuleDict({"mix": nn.MultiheadAttention(4, 2)})
    with torch.no_grad():
        [p.fill_(9.0) for p in model.parameters()]
    rg.Reinitialise("mix.*").fill(model, model, iter(()), Streams(0))
    assert model["mix"].out_proj.bias.abs().sum() == 0
    assert (model["mix"].in_proj_weight.abs() < 1.0).all()
    assert (model["mix"].out_proj.weight.abs() <= 0.5).all()


@pytest.mark.parametrize(
    "regime",
    [
        two([rg.Freeze("0.*"), rg.Reinitialise("4.*")]),
        two([rg.Unfreeze(), rg.Reinitialise("3.weight")], before=[rg.Freeze(["0.*", "3.*"])]),
    ],
)
def test_seams_resume_in_the_same_bits(regime):
    assert resume_chain(lambda: Run(workload(), regime, seed=3), steps=8) == []


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.body = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.body(self.scale * x)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.Freeze([]), "patterns: got no pattern"),
        (lambda: rg.Freeze("9.*").structure(net()), r"patterns.0: got '9\.\*', which matches no parameter"),
        (lambda: rg.Freeze(["0.*", "bod.*"]).structure(Raw()), "patterns.0: got '0"),
        (lambda: rg.Unfreeze("bodi.*").structure(Raw()), r"did you mean 'body\.\*'"),
        (lambda: rg.Reinitialise("scale").structure(Raw()), r"module '' \(Raw\) holds .* no reset_parameters\(\)"),
        (lambda: list(Run(workload(), two([rg.Freeze("*")]))), "trainable: no parameter is trainable"),
    ],
)
def test_what_fits_nothing_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()
