"""Groups: who owns what, presets, roles of tied and missing heads, the table."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.groups import groups_table
from regimes.optimizers.groups import Group, Groups, roles_of


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.mix, self.out = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.out(torch.relu(self.mix(self.norm(x))))


class Lm(nn.Module):
    """A toy language model; `head` is own, tied, tied-first (registered before the embedding) or functional."""

    def __init__(self, head="own"):
        super().__init__()
        if head == "tied-first":
            self.head = nn.Linear(4, 7, bias=False)
        self.wte, self.pos = nn.Embedding(7, 4), nn.Parameter(torch.zeros(1, 5, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.blocks = nn.ModuleList(Block(4) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        if head in ("own", "tied"):
            self.head = nn.Linear(4, 7, bias=False)
        if head.startswith("tied"):
            self.wte.weight = self.head.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.pos[:, : tokens.shape[1]] + self.pos_embed[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        weight = self.head.weight if hasattr(self, "head") else self.wte.weight
        return nn.functional.linear(self.norm(x), weight)


@pytest.mark.parametrize(
    ("head", "embeddings", "heads"),
    [
        ("own", {"wte.weight", "pos_embed"}, {"head.weight"}),
        ("tied", {"wte.weight", "pos_embed"}, {"wte.weight"}),
        ("tied-first", {"head.weight", "pos_embed"}, {"head.weight"}),
        ("functional", {"wte.weight", "pos_embed"}, set()),
    ],
)
def test_roles_of_tied_and_missing_heads(head, embeddings, heads):
    roles = roles_of(Lm(head))
    assert {name for name, role in roles.items() if "embedding" in role} == embeddings
    assert {name for name, role in roles.items() if "head" in role} == heads
    assert {name for name, role in roles.items() if "norm" in role} == {
        f"{place}.{leaf}" for place in ("blocks.0.norm", "blocks.1.norm", "norm") for leaf in ("weight", "bias")
    }


def test_head_of_a_plain_network_is_its_last_layer_even_among_equals():
    assert roles_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))) == {"2.weight": "head"}


def test_weight_under_a_parametrization_has_no_role():
    net = nn.Sequential(nn.Linear(4, 4), torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    assert roles_of(net) == {}


def test_muon_preset_routes_by_role():
    owned = rg.groups.muon(rg.Muon(), rest=rg.AdamW()).assign(dict(Lm("own").named_parameters()), roles_of(Lm("own")))
    assert set(owned[0]) == {"pos", *(f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("mix", "out"))}
    assert {"wte.weight", "pos_embed", "head.weight", "norm.weight"} <= set(owned[1])


def test_muon_preset_with_groups_for_the_rest_keeps_roles():
    rule = rg.groups.muon(rg.Muon(), rest=rg.groups.no_decay(rg.AdamW(weight_decay=0.1)))
    table = groups_table(rule, Lm("own"))
    assert [(row.pattern, row.tensors) for row in table] == [
        ("@matrices", 5),
        ("* > @vectors|@norms|@embeddings", 12),
        ("* > *", 1),
    ]
    assert table[2].examples == ("head.weight",)
    state = rule.init(_parameters(Lm("own")))
    assert list(state["1"]["1"]["slots"]) == ["head.weight"]


def _parameters(model):
    from regimes.engine.seam import trained_parameters

    return trained_parameters(model, ())


def test_no_decay_shrinks_matrices_only():
    """Gradients zero: AdamW moves nothing but what decays."""
    net = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(3, 2))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    rule, parameters = rg.groups.no_decay(rg.AdamW(lr=0.5, weight_decay=0.1)), _parameters(net)

    class Evaluation(tuple):
        gradients = tuple(torch.zeros_like(p) for p in parameters.values())

        def _replace(self, gradients):
            made = Evaluation()
            made.gradients = gradients
            return made

    def evaluate(**kwargs):
        return Evaluation()

    evaluate.compiled = False
    rule.step(rule.init(parameters), parameters, evaluate)
    for name, p in net.named_parameters():
        factor = 0.95 if name in ("2.weight", "3.weight") else 1.0
        torch.testing.assert_close(p.detach(), factor * before[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rg.groups.no_decay(rg.MeZO()), "MeZO evaluates more than once"),
        (lambda: rg.groups.no_decay(rg.SAM(rg.AdamW())), "which has no weight_decay; call no_decay on the rule inside"),
        (lambda: rg.groups.layerwise(rg.AdamW(), 1.5, ["*"]), "decay: got 1.5; allowed: a number > 0 and <= 1"),
        (lambda: rg.groups.layerwise(rg.AdamW(), 0.5, []), "layers: got no layer"),
        (lambda: rg.groups.layerwise(rg.AdamW(), 0.5, "b.{3..1}.*"), "allowed: a range from the bottom to the top"),
        (lambda: rg.Group("@matrix", rg.SGD()), "match: got '@matrix'; did you mean '@matrices'"),
        (lambda: rg.Groups([]), "groups: got no group"),
        (lambda: rg.Groups([rg.Group("*", rg.SAM(rg.SGD()))]), "groups.0.rule: SAM evaluates more than once"),
    ],
)
def test_bad_groups_are_refused(make, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([("@head", "SGD"), ("*", "SGD")], "groups.0.match: got '@head', which owns no parameter: nothing matches"),
        (
            [("blocks.*", "SGD"), ("block.*", "SGD"), ("*", "SGD")],
            "groups.1.match: got 'block.*'.*did you mean 'blocks",
        ),
        ([("*", "SGD"), ("*.bias", "SGD")], r"groups.1.match: got '\*.bias'.*earlier groups took all"),
        ([("blocks.*", "SGD")], "groups: parameter 'wte.weight'.*is in no group"),
    ],
)
def test_groups_that_do_not_fit_the_model_are_refused(groups, sentence):
    rule = rg.Groups([rg.Group(match, getattr(rg, name)()) for match, name in groups])
    parameters = _parameters(Lm("functional"))
    parameters.pop("pos"), parameters.pop("pos_embed")
    with pytest.raises(rg.DeclarationError, match=sentence):
        rule.init(parameters)


def test_layerwise_multiplies_the_schedule(hand):
    """Each layer's rate is the schedule times decay^depth, as used and as logged."""
    lr = rg.Cosine(0.1, warmup="20%")
    rule = rg.groups.layerwise(rg.SGD(lr=lr), 0.5, ["0.*", "{2..2}.*"])
    run = Run(hand.workload(), rg.Regime(optimizer=rule, batch_size=16, budget="10 steps"))
    for number, record in enumerate(run):
        assert record.knobs["optimizer.groups.1.rule.lr"] == lr(number / 10)
        assert record.knobs["optimizer.groups.0.rule.lr"] == pytest.approx(0.5 * lr(number / 10), rel=1e-15)


def test_layerwise_of_a_controlled_or_plain_rate():
    rule = rg.groups.layerwise(rg.SGD(lr=0.8), 0.5, ["a.*", "b.{0..2}.*", "*"])
    assert [(g.match, g.rule.lr) for g in rule.groups] == [
        ("a.*", 0.05), ("b.0.*", 0.1), ("b.1.*", 0.2), ("b.2.*", 0.4), ("*", 0.8),
    ]  # fmt: skip


def test_table_counts_tied_weights_once_and_frozen_ones_not():
    model = Lm("tied")
    model.pos.requires_grad_(False)
    table = groups_table(rg.groups.muon(rg.Muon(), rest=rg.AdamW(lr=1e-4)), model)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(row.tensors for row in table) == len(trained)
    assert sum(row.parameters for row in table) == sum(p.numel() for p in trained)
    assert table[0].examples == ("blocks.0.mix.weight", "blocks.0.out.weight")
    assert "AdamW(lr=0.0001)" in str(table).splitlines()[2]


def test_table_looks_through_wrappers_and_takes_plain_rules():
    inside = rg.groups.muon(rg.Muon(), rest=rg.AdamW())
    assert groups_table(rg.SAM(inside), Lm()) == groups_table(inside, Lm())
    (row,) = groups_table(rg.AdamW(), Lm())
    assert (row.pattern, row.tensors) == ("*", len(list(Lm().parameters())))
    around = rg.Groups([rg.Group("*", rg.LANTON(rg.SGD(lr=0.1)))])
    assert [row.rule for row in groups_table(around, Lm())] == ["LANTON(SGD(lr=0.1))"]


def test_groups_share_one_evaluation_and_own_randomness(hand):
    """A rule inside cannot ask for more, and two of a kind draw different numbers."""
    seen = []

    class Draws(rg.SGD):
        def step(self, state, parameters, evaluate):
            seen.append(evaluate.rng("x").initial_seed())
            return super().step(state, parameters, evaluate)

    class Greedy(rg.SGD):
        def step(self, state, parameters, evaluate):
            evaluate(capture=["input:0"])

    regime = rg.Regime(
        optimizer=rg.Groups([rg.Group("0.*", Draws()), rg.Group("*", Draws())]), batch_size=8, budget="3 steps"
    )
    Run(hand.workload(), regime).step()
    assert len(set(seen)) == len(seen) == 2
    greedy = regime.but(optimizer=rg.Groups([rg.Group("0.*", rg.SGD()), rg.Group("*", Greedy())]))
    with pytest.raises(rg.DeclarationError, match=r"groups\.1\.rule: the rule asks for more than the gradient"):
        Run(hand.workload(), greedy).step()


def test_layer_norms_are_some_of_the_norms():
    net = nn.Sequential(nn.LayerNorm(3), nn.RMSNorm(3), nn.GroupNorm(1, 3), nn.Linear(3, 3, bias=False))
    rule = rg.SGD(lr=0.1)
    groups = Groups([Group("@layer_norms", rule), Group("@norms", rule), Group("*", rule)])
    owned = groups.assign(dict(net.named_parameters()), roles_of(net))
    assert [list(own) for own in owned] == [
        ["0.weight", "0.bias"],
        ["1.weight", "2.weight", "2.bias"],
        ["3.weight"],
    ]
