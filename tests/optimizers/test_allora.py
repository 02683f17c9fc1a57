"""Adapters and ALLoRA: closed forms, a plain twin, merging, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms.adapters import LoRALinear
from regimes.testing.conformance import tiny
from regimes.testing.resume import resume_chain

# -- LoRA ---------------------------------------------------------------------------------------------------


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)).double()


def adapted(random=True, **settings):
    transform, model = rg.LoRA(**settings), net()
    before = copy.deepcopy(model)
    model = transform.structure(model)
    result = transform.fill(model, before, iter(()), Streams(3))
    if random:
        g = torch.Generator().manual_seed(1)
        for name, p in model.named_parameters():
            if "lora" in name:
                p.data.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model, before, result


@pytest.mark.exact("LoRA")
def test_at_the_start_the_function_is_what_it_was_and_only_adapters_are_trained():
    model, before, result = adapted(random=False, patterns=("0", "2"), rank=2)
    x = torch.randn(7, 6, dtype=torch.float64)
    assert torch.equal(model(x), before(x))
    new = ["0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B"]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == new
    assert {name for name, old in result.names.items() if old is None} == set(new)
    assert all(old == name for name, old in result.names.items() if name not in new)
    for place, fan_in in (("0", 6), ("2", 8)):
        a = dict(model.named_parameters())[f"{place}.lora_A"]
        assert 0.5 * fan_in**-0.5 < a.abs().max() <= fan_in**-0.5


@pytest.mark.exact("LoRA")
def test_each_layer_draws_from_its_own_address():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    alone = copy.deepcopy(model)
    drawn = []
    for one, patterns in ((model, ("*",)), (alone, ("1",))):
        before = copy.deepcopy(one)
        rg.LoRA(patterns, rank=2).structure(one)
        rg.LoRA(patterns, rank=2).fill(one, before, iter(()), Streams(3))
        drawn.append(one[1].lora_A)
    assert torch.equal(*drawn)
    assert not torch.equal(model[0].lora_A, model[1].lora_A)


@pytest.mark.exact("LoRA")
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6.0, 2.0)])
def test_an_adapter_adds_the_scaled_product(alpha, scale):
    model, before, _ = adapted(rank=3, alpha=alpha)
    x = torch.randn(7, 6, dtype=torch.float64)
    h = x
    for place in (0, 2, 4):
        layer = model[place]
        h = h @ (before[place].weight + scale * layer.lora_B @ layer.lora_A).T
        h = h if layer.bias is None else h + before[place].bias
        h = torch.tanh(h) if place < 4 else h
    torch.testing.assert_close(model(x), h, rtol=0, atol=1e-12)


@pytest.mark.exact("MergeLoRA")
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_merged_layers_answer_as_adapted_ones(alpha):
    model, original, _ = adapted(rank=3, alpha=alpha, dropout=0.2)
    model.eval()
    before = copy.deepcopy(model)
    merged = rg.MergeLoRA().structure(model)
    rg.MergeLoRA().fill(merged, before, iter(()), Streams(0))
    x = torch.randn(7, 6, dtype=torch.float64)
    torch.testing.assert_close(merged(x), before(x), rtol=0, atol=1e-12)
    assert (merged(x) - original(x)).abs().max() > 0.1
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in original.named_parameters()]
    assert [type(module) for module in merged] == [type(module) for module in original]
    assert not any(p.requires_grad for p in merged.parameters())


@pytest.mark.exact("LoRA")
def test_dropout_takes_inputs_of_the_adapter_alone():
    model, before, _ = adapted(rank=2, dropout=0.5)
    model.train()
    layer, x = model[0], torch.ones(2000, 6, dtype=torch.float64)
    torch.manual_seed(0)
    mask = torch.nn.functional.dropout(x, 0.5)
    torch.manual_seed(0)
    expected = before[0](x) + mask @ layer.lora_A.T @ layer.lora_B.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    model.eval()
    assert torch.equal(layer(x)[0], layer(x)[1])


def test_adapt_then_merge_through_a_run_and_resume():
    phases = [
        rg.Phase("whole", budget="4 steps"),
        rg.Phase("adapted", budget="4 steps", on_entry=[rg.LoRA("0", rank=2), rg.Unfreeze("4.*")]),
        rg.Phase("merged", budget="4 steps", on_entry=[rg.MergeLoRA(), rg.Unfreeze()]),
    ]
    regime = rg.Regime(phases=phases, optimizer=rg.AdamW(lr=0.05), batch_size=6)
    run = Run(tiny.workload("classes"), regime, seed=2)
    for _ in range(4):
        run.step()
    weight = run.model[0].weight.detach().clone()
    for _ in range(3):
        run.step()
    assert isinstance(run.model[0], LoRALinear)
    assert torch.equal(run.model[0].weight, weight)
    assert set(run.states["optimizer"]["slots"]) == {"0.lora_A", "0.lora_B", "4.weight", "4.bias"}
    run.step()
    assert type(run.model[0]) is nn.Linear
    assert not torch.equal(run.model[0].weight, weight)
    assert resume_chain(lambda: Run(tiny.workload("classes"), regime, seed=2), steps=12) == []


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.head.weight = self.wte.weight


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.LoRA(()), "patterns: got no pattern"),
        (lambda: rg.LoRA("head").structure(net()), "patterns.0: got 'head', which matches no linear layer"),
        (lambda: rg.LoRA().structure(rg.LoRA().structure(net())), "patterns: got '0', .*: it has one already"),
        (lambda: rg.LoRA().structure(Tied()), "patterns: got 'head', .*: it shares its weight with another module"),
        (
            lambda: rg.LoRA().structure(nn.ModuleList([nn.MultiheadAttention(4, 2)])),
            "patterns: got '0.out_proj', to which no adapter can be added",
        ),
        (
            lambda: rg.LoRA().structure(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))),
            "to which no adapter can be added: it is a kind of its own",
        ),
        (lambda: rg.MergeLoRA().structure(net()), "the model has no adapter to merge"),
    ],
)
def test_what_cannot_be_adapted_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()


# -- ALLoRA -------------------------------------------------------------------------------------------------

SHAPES = {"0.lora_A": (2, 6), "0.lora_B": (5, 2), "1.weight": (4, 5)}
BASES = [
    rg.SGD(lr=0.05),
    rg.SGD(lr=0.05, momentum=0.9, weight_decay=0.1),
    rg.AdamW(lr=0.02, weight_decay=0.1),
    rg.Lion(lr=0.01),
]


def given(steps, seed=0, zero=True):
    g = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=g, dtype=torch.float64)  # noqa: E731
    parameters = {name: nn.Parameter(draw(shape)) for name, shape in SHAPES.items()}
    if zero:
        parameters["0.lora_B"].data.zero_()
    return parameters, [tuple(draw(shape) for shape in SHAPES.values()) for _ in range(steps)]


@pytest.mark.exact("ALLoRA")
@pytest.mark.parametrize("base", BASES, ids=repr)
def test_a_plain_twin_makes_the_same_steps(hand, base):
    """100 steps: the base rule by itself on a copy, its step of each row of B multiplied by the formula."""
    parameters, gradients = given(100)
    twin = {name: p.detach().clone() for name, p in parameters.items()}
    slots, eta = {name: base.slots(p) for name, p in twin.items()}, 1.7
    for t, one in enumerate(gradients, start=1):
        moved = {name: p.clone() for name, p in twin.items()}
        for (name, p), g in zip(moved.items(), one):
            base.update(p, g, slots[name], t)
        product = twin["0.lora_B"] @ twin["0.lora_A"]
        for i in range(5):
            length = math.sqrt(sum(float(v) ** 2 for v in product[i]))
            f = 1.0 / math.sqrt(length + 1.0 / eta**2)
            moved["0.lora_B"][i] = twin["0.lora_B"][i] + f * (moved["0.lora_B"][i] - twin["0.lora_B"][i])
        twin = moved
    hand.drive(rg.ALLoRA(base, eta=eta), parameters, gradients)
    assert max((parameters[name] - p).abs().max().item() for name, p in twin.items()) < 1e-10


@pytest.mark.exact("ALLoRA")
@pytest.mark.parametrize("eta", [0.01, 0.3, 1.0, 2.0, 7.0])
def test_at_zero_the_factor_is_eta_to_the_bit(eta):
    factors = rg.ALLoRA(rg.SGD(), eta=eta).factors(torch.randn(2, 6, dtype=torch.float64), torch.zeros(5, 2).double())
    assert factors.flatten().tolist() == [eta] * 5


@pytest.mark.exact("ALLoRA")
def test_the_factor_falls_as_the_inverse_root_of_the_rows_length():
    lengths = [0.0, *[10.0**k for k in range(-6, 13)]]
    a, b = torch.tensor([[0.6, 0.8]], dtype=torch.float64), torch.tensor(lengths, dtype=torch.float64)[:, None]
    factors = rg.ALLoRA(rg.SGD(), eta=2.0).factors(a, b).flatten()
    assert (factors.diff() < 0).all()
    assert factors.tolist() == pytest.approx([(length + 0.25) ** -0.5 for length in lengths], rel=1e-14)
    assert factors[-1] * 1e6 == pytest.approx(1.0, rel=1e-12)


@pytest.mark.exact("ALLoRA")
def test_a_small_eta_is_a_constant_rate_for_b(hand):
    """eta -> 0: B moves at eta times the rate, to eta^2 |B A| / 2; with plain descent that is SGD at rate eta lr."""
    for eta in (1e-3, 1e-5):
        parameters, gradients = given(20)
        alone = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
        hand.drive(rg.ALLoRA(rg.SGD(lr=0.1), eta=eta), parameters, gradients)
        groups = {"0.lora_B": rg.SGD(lr=0.1 * eta), "0.lora_A": rg.SGD(lr=0.1), "1.weight": rg.SGD(lr=0.1)}
        for place, (name, rule) in enumerate((name, groups[name]) for name in SHAPES):
            hand.drive(rule, {name: alone[name]}, [(one[place],) for one in gradients])
        assert torch.equal(parameters["0.lora_A"], alone["0.lora_A"])
        b = parameters["0.lora_B"]
        apart = ((b - alone["0.lora_B"]).abs().max() / b.abs().max()).item()
        assert 0.0 < apart < eta**2 * (b @ parameters["0.lora_A"]).norm(dim=1).max().item()


@pytest.mark.exact("ALLoRA")
def test_adam_does_not_cancel_it():
    """First step of Adam: every entry of B moves by eta lr, not by lr."""
    parameters, gradients = given(1)

    class Evaluate:
        compiled = False

        def __call__(self):
            return type("Evaluation", (), {"gradients": gradients[0]})()

    rule = rg.ALLoRA(rg.AdamW(lr=0.01, eps=0.0, weight_decay=0.0), eta=2.0)
    rule.step(rule.init(parameters), parameters, Evaluate())
    moved = parameters["0.lora_B"].detach().abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.02), rtol=1e-12, atol=0)


def test_in_a_group_beside_other_rules():
    regime = rg.Regime(
        optimizer=rg.Groups([rg.Group("*.lora_*", rg.ALLoRA(rg.AdamW(lr=0.05))), rg.Group("*", rg.SGD(lr=0.05))]),
        batch_size=6,
        budget="6 steps",
    )
    run = Run(tiny.workload("adapted"), regime, seed=1)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    list(run)
    moved = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before) - {"0.weight"}


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.ALLoRA(rg.MeZO()), "base: got MeZO.*, which makes no gradient"),
        (
            lambda: rg.ALLoRA(rg.ScheduleFreeAdamW()),
            "base: got ScheduleFreeAdamW.*, which evaluates at weights of its own",
        ),
        (lambda: rg.ALLoRA(rg.SGD(), eta=0.0), "eta: got 0"),
        (lambda: rg.ALLoRA(rg.SGD()).init({"weight": torch.zeros(2)}), "none of the parameters is an adapter's"),
        (lambda: rg.ALLoRA(rg.SGD()).init({"0.lora_B": torch.zeros(2, 1)}), "'0.lora_B' is here and its lora_A is not"),
    ],
)
def test_what_it_cannot_scale_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()
