"""muP: factors by hand, the same network in other forms of the parametrization, coordinates over widths, refusals."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms.growth import first_values, growth
from regimes.optimizers.groups import roles_of
from regimes.scaling.families import option
from regimes.workloads.models import MLP, ModularMLP, TinyGPT

ROOT = math.sqrt(2.0)


def cnn(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, groups=1), nn.BatchNorm2d(2 * width),
        nn.Flatten(), nn.Linear(8 * width, width), nn.ReLU(), nn.Linear(width, 10),
    )  # fmt: skip


def seeded(make, *arguments, seed=0, **keywords):
    torch.manual_seed(seed)
    return make(*arguments, **keywords)


# -- factors -------------------------------------------------------------------------------------------------

MLP_ROWS = {
    # name: kind, sgd, adaptive, first values
    "layers.0.weight": ("input", 4.0, 1.0, 1.0),
    "layers.0.bias": ("input", 4.0, 1.0, 1.0),
    "layers.1.weight": ("hidden", 0.5, 0.25, 1.0),  # 64 -> 256 read, 32 -> 64 written
    "layers.1.bias": ("input", 2.0, 1.0, 2.0),
    "layers.2.weight": ("output", 0.5, 0.5, 1.0 / ROOT),
    "layers.2.bias": ("fixed", 1.0, 1.0, ROOT),
}
GPT_ROWS = {
    "embed.weight": ("input", 4.0, 1.0, 1.0),
    "head.weight": ("output", 0.25, 0.25, 0.5),
    **{
        f"blocks.{block}.{name}.weight": ("hidden", 1.0, 0.25, 1.0)
        for block in (0, 1)
        for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    },
}
CNN_ROWS = {
    "0.weight": ("input", 2.0, 1.0, 1.0),
    "0.bias": ("input", 2.0, 1.0, 1.0),
    "2.weight": ("hidden", 1.0, 0.5, 1.0),
    "2.bias": ("input", 2.0, 1.0, ROOT),
    "3.weight": ("input", 2.0, 1.0, 1.0),
    "3.bias": ("input", 2.0, 1.0, 1.0),
    "5.weight": ("hidden", 1.0, 0.5, 1.0),
    "5.bias": ("input", 2.0, 1.0, ROOT),
    "7.weight": ("output", 0.5, 0.5, 1.0 / ROOT),
    "7.bias": ("fixed", 1.0, 1.0, ROOT),
}
CASES = {
    "mlp": (lambda: MLP((5, 256, 64, 3)), lambda: MLP((5, 64, 32, 3)), MLP_ROWS),
    "gpt": (lambda: TinyGPT(vocab=7, width=32, heads=4), lambda: 8, GPT_ROWS),
    "cnn": (lambda: cnn(8), lambda: cnn(4), CNN_ROWS),
}


@pytest.mark.exact("MuPInit")
@pytest.mark.parametrize("case", CASES)
def test_factors_are_those_worked_out_by_hand(case):
    """Table 3 of the paper, relative to the base."""
    model, base, rows = CASES[case]
    table = rg.groups.mup_table(model(), base())
    assert {row.name: (row.kind, row.sgd, row.adaptive) for row in table} == {
        name: row[:3] for name, row in rows.items()
    }
    for row in table:
        assert row.first == pytest.approx(rows[row.name][3], rel=1e-15)
    assert [row.name for row in table] == [name for name, _ in model().named_parameters()]


@pytest.mark.exact("MuPInit")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rule", [rg.SGD(lr=0.1, weight_decay=0.01), rg.AdamW(lr=0.1, weight_decay=0.01)])
def test_each_parameter_is_in_a_group_with_its_rate_and_the_same_decay_a_step(case, rule):
    model, base, rows = CASES[case]
    model = model()
    groups = rg.groups.mup(rule, model, base())
    seen = {}
    for group, own in zip(groups.groups, groups.assign(dict(model.named_parameters()), roles_of(model))):
        assert group.rule.lr * group.rule.weight_decay == pytest.approx(0.1 * 0.01, rel=1e-15)
        seen |= dict.fromkeys(own, group.rule.lr)
    place = 1 if isinstance(rule, rg.SGD) else 2
    assert seen == pytest.approx({name: 0.1 * row[place] for name, row in rows.items()}, rel=1e-15)
    assert len(groups.groups) == len({row[place] for row in rows.values()})


def test_patterns_stand_for_the_same_place_in_all_blocks():
    groups = rg.groups.mup(rg.AdamW(lr=1e-2), TinyGPT(vocab=7, layers=3, width=32, heads=4), base=8)
    assert groups.groups[0].match == (
        "blocks.*.attention.qkv.weight|blocks.*.attention.out.weight|blocks.*.mlp.up.weight|blocks.*.mlp.down.weight|"
        "head.weight"
    )
    assert "AdamW(lr=0.0025, weight_decay=0.04)" in str(rg.groups.groups_table(groups, TinyGPT(vocab=7, width=32)))


def test_schedules_keep_their_shape():
    groups = rg.groups.mup(rg.AdamW(lr=rg.Cosine(0.1, warmup="10%"), weight_decay=0.0), MLP((5, 16, 16, 3)), base=4)
    assert repr(groups.groups[0].rule) == "AdamW(lr=Cosine(0.1, warmup='10%') * 0.25, weight_decay=0.0)"


def test_groups_are_parted_each_by_itself():
    """No decay stays no decay; every parameter has the factor that it has alone."""
    model = nn.Sequential(nn.Embedding(5, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 3))
    base = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 3))
    groups = rg.groups.mup(rg.groups.no_decay(rg.AdamW(lr=0.1, weight_decay=0.2)), model, base)
    named = dict(model.named_parameters())
    found = {
        name: (group.rule.lr, group.rule.weight_decay)
        for group, own in zip(groups.groups, groups.assign(named, roles_of(model)))
        for name in own
    }
    assert found == {name: (0.025, 0.8) if name in ("2.weight", "3.weight") else (0.1, 0.0) for name in named}
    assert [group.match for group in groups.groups] == ["@vectors|@norms|@embeddings", "*"]


@pytest.mark.exact("MuPInit")
def test_depth_multiplies_adams_rates_inside_the_branches():
    model = TinyGPT(vocab=7, width=32, heads=4)
    plain = rg.groups.mup(rg.AdamW(lr=0.1, weight_decay=0.0), model, 8)
    deep = rg.groups.mup(rg.AdamW(lr=0.1, weight_decay=0.0), model, 8, depth=4.0, blocks="blocks.*")
    assert [(group.match, group.rule.lr) for group in plain.groups] == [(plain.groups[0].match, 0.025), ("*", 0.1)]
    assert [group.rule.lr for group in deep.groups] == [0.025, 0.0125, 0.1]
    assert deep.groups[0].match == "head.weight"
    sgd = [rg.groups.mup(rg.SGD(lr=0.1), model, 8, **more) for more in ({}, {"depth": 4.0, "blocks": "blocks.*"})]
    assert sgd[0] == sgd[1]


# -- at the base's width, and in other forms -----------------------------------------------------------------


@pytest.mark.exact("MuPInit")
@pytest.mark.parametrize("rule", [rg.SGD(lr=0.1, momentum=0.9), rg.AdamW(lr=0.01)])
def test_at_the_bases_own_width_all_is_as_without_bitwise(rule):
    make = functools.partial(MLP, (6, 16, 16, 3))
    groups = rg.groups.mup(rule, make(), base=16)
    assert groups == rg.Groups([rg.Group("*", rule)])
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(32, 6, generator=draw), torch.randint(0, 3, (32,), generator=draw)
    work = rg.Workload(model=make, train=data, loss=nn.CrossEntropyLoss())
    plain = rg.Regime(optimizer=rule, batch_size=8, budget="12 steps")
    runs = [Run(work, regime, seed=3) for regime in (plain, plain.but(optimizer=groups, on_entry=[rg.MuPInit(16)]))]
    for _ in range(12):
        for run in runs:
            run.step()
        assert all(torch.equal(p, q) for p, q in zip(*(run.model.parameters() for run in runs)))


@pytest.mark.exact("MuPInit")
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_twin_in_the_form_of_table_8_makes_the_same_steps(name):
    """Output multiplier 1 / r instead of small first values: 100 steps in float64, every output the same."""
    r, lr = 4.0, 0.05 if name == "sgd" else 0.003
    model = seeded(MLP, (6, 32, 32, 3), "tanh").double()
    twin = copy.deepcopy(model)
    rg.MuPInit(8).fill(model, model, iter(()), Streams(0))
    weights = dict(twin.named_parameters())
    with torch.no_grad():
        weights["layers.1.bias"] *= math.sqrt(r)
        weights["layers.2.bias"] *= math.sqrt(r)
        weights["layers.2.weight"] *= math.sqrt(r)  # r^-1/2 of muP's, over the multiplier 1 / r
    rates = {"sgd": {"layers.0.weight": r, "layers.0.bias": r, "layers.1.bias": r, "layers.2.weight": r}}
    rates["adam"] = {"layers.1.weight": 1 / r}
    torchs = {"sgd": torch.optim.SGD, "adam": functools.partial(torch.optim.Adam, eps=0.0)}[name]
    optimizer = torchs([{"params": [p], "lr": lr * rates[name].get(n, 1.0)} for n, p in weights.items()])
    ours = rg.SGD(lr=lr) if name == "sgd" else rg.AdamW(lr=lr, eps=0.0, weight_decay=0.0)
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 6, generator=draw, dtype=torch.float64), torch.randint(0, 3, (16,), generator=draw)
    work = rg.Workload(model=lambda: model, train=(x, y), loss=nn.CrossEntropyLoss())
    regime = rg.Regime(
        optimizer=rg.groups.mup(ours, model, base=8), batch_size=16, sampler=rg.Sequential(), budget="100 steps"
    )
    run = Run(work, regime)

    def said(x):
        hidden = torch.tanh(twin.layers[1](torch.tanh(twin.layers[0](x))))
        return hidden @ twin.layers[2].weight.T / r + twin.layers[2].bias

    farthest, first = 0.0, model(x).detach()
    for _ in range(100):
        farthest = max(farthest, (said(x) - run.model(x)).abs().max().item())
        optimizer.zero_grad()
        nn.functional.cross_entropy(said(x), y).backward()
        optimizer.step()
        run.step()
    assert farthest < 1e-10
    assert (run.model(x) - first).abs().max() > 0.1


@pytest.mark.exact("MuPInit")
def test_a_twin_with_weights_of_variance_one_is_the_neural_tangent_parametrization():
    """W = w / sqrt(r) for what is read, one rate for all w: 100 steps in float64."""
    r, lr = 4.0, 0.1
    model = seeded(MLP, (6, 32, 32, 3), "tanh").double()
    weights = {
        n: nn.Parameter(p.detach() * (math.sqrt(r) if n in ("layers.1.weight", "layers.2.weight") else 1.0))
        for n, p in model.named_parameters()
    }
    optimizer = torch.optim.SGD(weights.values(), lr=lr)
    groups = rg.groups.mup(rg.SGD(lr=lr), model, 8, parametrization="ntk")
    named = dict(model.named_parameters())
    states = [(group.rule, own) for group, own in zip(groups.groups, groups.assign(named, roles_of(model)))]
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 6, generator=draw, dtype=torch.float64), torch.randint(0, 3, (16,), generator=draw)

    def said(x):
        for place in range(3):
            scale = 1.0 if place == 0 else 1.0 / math.sqrt(r)
            x = x @ weights[f"layers.{place}.weight"].T * scale + weights[f"layers.{place}.bias"]
            x = torch.tanh(x) if place < 2 else x
        return x

    for _ in range(100):
        assert (said(x) - model(x)).abs().max() < 1e-10
        optimizer.zero_grad()
        nn.functional.cross_entropy(said(x), y).backward()
        optimizer.step()
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), named.values())
        for rule, own in states:
            for name, g in zip(named, gradients):
                if name in own:
                    rule.update(named[name].data, g, rule.slots(named[name]), 1)


@pytest.mark.exact("MuPInit")
def test_first_values_of_the_output_shrink_once_more():
    """Standard deviations over widths: hidden n^(-1/2) as torch draws them, output n^-1, biases n^0."""
    widths = [64, 128, 256, 512]
    spread = {"layers.1.weight": [], "layers.1.bias": [], "layers.2.weight": []}
    for width in widths:
        model = seeded(MLP, (64, width, width, 10), seed=width)
        rg.MuPInit(64).fill(model, model, iter(()), Streams(0))
        for name, p in model.named_parameters():
            if name in spread:
                spread[name].append(p.detach().square().mean().sqrt().item())
    for name, exponent in (("layers.1.weight", -0.5), ("layers.1.bias", 0.0), ("layers.2.weight", -1.0)):
        assert slope(widths, spread[name]) == pytest.approx(exponent, abs=0.06), name


def slope(widths, sizes):
    """Of log size on log width."""
    return np.polyfit(np.log(widths), np.log(sizes), 1)[0]


# -- coordinates over widths ---------------------------------------------------------------------------------

WIDTHS = (64, 128, 256, 512, 1024)


def batch():
    draw = torch.Generator().manual_seed(7)
    return torch.randn(8, 16, generator=draw, dtype=torch.float64), torch.randint(0, 4, (8,), generator=draw)


def moved(width, rule, mup, steps, seed):
    """Root mean square of what the steps change in the second hidden layer's answer, before its activation."""
    x, y = batch()
    model = seeded(MLP, (16, width, width, 4), "tanh", seed=seed).double()
    if mup:
        rg.MuPInit(WIDTHS[0]).fill(model, model, iter(()), Streams(0))
        rule = rg.groups.mup(rule, model, WIDTHS[0])
    named, before = dict(model.named_parameters()), copy.deepcopy(model)
    groups = rule if isinstance(rule, rg.Groups) else rg.Groups([rg.Group("*", rule)])
    states = [
        (group.rule, own, {name: group.rule.slots(p) for name, p in own.items()})
        for group, own in zip(groups.groups, groups.assign(named, roles_of(model)))
    ]
    for t in range(1, steps + 1):
        gradients = dict(zip(named, torch.autograd.grad(nn.functional.cross_entropy(model(x), y), named.values())))
        for one, own, slots in states:
            for name in own:
                one.update(named[name].data, gradients[name], slots[name], t)
    return (hidden(model, x) - hidden(before, x)).square().mean().sqrt().item()


@torch.no_grad()
def hidden(model, x):
    return model.layers[1](torch.tanh(model.layers[0](x)))


@pytest.mark.exact("MuPInit")
@pytest.mark.parametrize(
    ("rule", "mup", "steps", "exponent"),
    [
        (rg.SGD(lr=0.05), True, 1, 0.0),
        (rg.SGD(lr=0.05), True, 4, 0.0),
        (rg.SGD(lr=1e-4), False, 1, 0.5),  # lr W_out h . h, with W_out ~ n^(-1/2)
        (rg.AdamW(lr=1e-3, eps=1e-30, weight_decay=0.0), True, 1, 0.0),
        (rg.AdamW(lr=1e-3, eps=1e-30, weight_decay=0.0), True, 4, 0.0),
        (rg.AdamW(lr=1e-6, eps=1e-30, weight_decay=0.0), False, 1, 1.0),  # lr sum |h|
    ],
)
def test_steps_change_hidden_activations_alike_at_every_width_under_mup_alone(rule, mup, steps, exponent):
    """The coordinate check, five seeds; rates of the standard arm so small that a step is its first order."""
    sizes = [np.mean([moved(width, rule, mup, steps, seed) for seed in range(5)]) for width in WIDTHS]
    assert slope(WIDTHS, sizes) == pytest.approx(exponent, abs=0.1)


@pytest.mark.exact("MuPInit")
def test_outputs_of_wide_networks_agree_to_the_inverse_root_of_the_width():
    """f of width n against that of 2 n, other draws, after 5 steps: root mean square over 16 seeds ~ n^(-1/2)."""
    x, y = batch()
    widths, found = (32, 64, 128, 256, 512), {}
    for width in widths:
        for seed in range(16):
            model = seeded(MLP, (16, width, width, 4), "tanh", seed=1000 * width + seed).double()
            nn.init.zeros_(model.layers[2].bias)  # four numbers, drawn alike at every width
            rg.MuPInit(32).fill(model, model, iter(()), Streams(0))
            table = rg.groups.mup_table(model, 32)
            for _ in range(5):
                gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
                for p, g, row in zip(model.parameters(), gradients, table):
                    p.data.add_(g, alpha=-0.1 * row.sgd)
            found[width, seed] = model(x).detach()
    apart = [
        math.sqrt(np.mean([(found[n, s] - found[2 * n, s]).square().mean().item() for s in range(16)]))
        for n in widths[:-1]
    ]
    assert slope(widths[:-1], apart) == pytest.approx(-0.5, abs=0.1)


# -- sharpness ----------------------------------------------------------------------------------------------


def least_squares():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = seeded(nn.Linear, 6, 1, bias=False).double()

    def loss(model, batch):
        return 0.5 * (model(batch[0]) - batch[1]).square().sum() / len(batch[0])

    return model, loss, (x, x.sum(1, keepdim=True)), torch.linalg.eigvalsh(x.T @ x / 40)[-1].item()


@pytest.mark.exact("Sharpness")
def test_sharpness_of_least_squares_is_the_top_eigenvalue():
    model, loss, data, top = least_squares()
    assert rg.Sharpness(iterations=6)(model, loss, data)[""] == pytest.approx(top, rel=1e-12)


@pytest.mark.exact("Sharpness")
@pytest.mark.parametrize(("share", "falls"), [(0.99, True), (1.01, False)])
def test_gradient_descent_diverges_above_two_over_the_sharpness_alone(share, falls):
    model, loss, data, _ = least_squares()
    lr, losses = share * 2.0 / rg.Sharpness(iterations=6)(model, loss, data)[""], []
    for _ in range(2_000):
        value = loss(model, data)
        losses.append(value.item())
        (g,) = torch.autograd.grad(value, list(model.parameters()))
        model.weight.data.sub_(g, alpha=lr)
    assert (losses[-1] < 1e-12) == falls
    assert (losses[-1] > 1e6) != falls


# -- what is refused ----------------------------------------------------------------------------------------


class ByHand(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(width, 2 * width))


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wte, self.head = nn.Embedding(5, width), nn.Linear(width, 5, bias=False)
        self.head.weight = self.wte.weight


NET, NARROW = MLP((5, 16, 16, 3)), MLP((5, 4, 4, 3))


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.groups.mup(rg.Sophia(), NET, 4), r"rule: got Sophia\(\), of whose steps nothing is known here"),
        (
            lambda: rg.groups.mup(rg.Muon(), NET, 4),
            r"rule: got Muon\(\), of the family 'orthogonal', whose steps follow",
        ),
        (lambda: rg.groups.mup(rg.LAMB(), NET, 4, like="adaptive"), "rule: got LAMB.*, of the family 'trust ratio'"),
        (
            lambda: rg.groups.mup(rg.Torch("Rprop"), NET, 4),
            r"rule: got Torch\('Rprop'\), of whose steps nothing is known",
        ),
        (
            lambda: rg.groups.mup(rg.Torch("Adam", weight_decay=0.1), NET, 4),
            r"rule: got Torch.*, whose decay is not the rate times weight_decay",
        ),
        (lambda: rg.groups.mup(rg.SAM(rg.SGD()), NET, 4), r"rule: got SAM.*allowed: the rule inside, with SAM around"),
        (lambda: rg.groups.mup(rg.SGD(), nn.Linear(4, 2), 2), "base: got 2, but Linear does not say how it changes"),
        (lambda: rg.groups.mup(rg.SGD(), TinyGPT(width=32, heads=2), 24), "base: width: got 24; allowed are multiples"),
        (lambda: rg.groups.mup(rg.SGD(), NET, MLP((5, 4, 3))), r"base: only one of .* a parameter 'layers.2.bias'"),
        (
            lambda: rg.groups.mup(rg.SGD(), ByHand(8), ByHand(4)),
            r"base: 'mix' has shape \(8, 16\), and \(4, 8\) in the",
        ),
        (lambda: rg.groups.mup(rg.SGD(), Tied(8), Tied(4)), "base: 'wte.weight' serves as embedding and as head"),
        (
            lambda: rg.groups.mup(rg.SGD(), nn.Conv2d(1, 4, 5), nn.Conv2d(1, 4, 3)),
            r"base: 'weight' has .*; allowed: a base that differs in what layers read and write",
        ),
        (lambda: rg.groups.mup(rg.SGD(), NET, 4, depth=2.0), "depth: got depth=2 and blocks=None; allowed: both"),
        (lambda: rg.groups.mup(rg.SGD(), NET, 4, blocks="*"), r"depth: got depth=1 and blocks='\*'"),
        (lambda: rg.groups.mup(rg.AdamW(), NET, 4, depth=2.0, blocks="x.*"), r"blocks: got 'x\.\*', which matches no"),
        (lambda: rg.groups.mup(rg.SGD(), NET, 4, parametrization="sp"), "parametrization: got 'sp'; allowed: 'mup' or"),
        (lambda: rg.groups.mup(rg.Sophia(), NET, 4, like="signs"), "like: got 'signs'; allowed: 'sgd' or 'adaptive'"),
        (lambda: rg.MuPInit(4).structure(nn.Linear(4, 2)), "base: got 4, but Linear does not say how it changes"),
        (
            lambda: rg.MuPInit(4).structure(nn.Linear(4, 2)),
            r"base: .* multiply is in groups.mup_table\(model, narrower\)",
        ),
        (lambda: rg.MuPInit(0), "base: got 0"),
    ],
)
def test_what_nothing_is_known_of_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()


def test_what_the_refusal_of_a_plain_model_sends_to_is_there():
    torch.manual_seed(0)
    wide, narrow = (nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2)) for width in (16, 4))
    assert [row.first for row in rg.groups.mup_table(wide, narrow)] == [1.0, 1.0, 0.5, 2.0]


def test_like_says_what_a_rule_is_not_known_for():
    rule = rg.groups.mup(rg.Sophia(lr=0.1, weight_decay=0.0), NET, NARROW, like="adaptive")
    assert [group.rule.lr for group in rule.groups] == [0.025, 0.1]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (rg.Torch("SGD", lr=0.1), rg.SGD(lr=0.1)),
        (rg.Torch("AdamW", lr=0.1, weight_decay=0.2), rg.AdamW(lr=0.1, weight_decay=0.2)),
        (rg.Torch("AdamW"), rg.AdamW()),
        (rg.PytorchOptimizer("Lion", lr=0.1), rg.Lion(lr=0.1)),
        (rg.Lion(lr=0.1), rg.AdamW(lr=0.1, weight_decay=0.0)),
    ],
    ids=repr,
)
def test_rules_of_other_packages_have_the_factors_of_their_family(theirs, ours):
    """Defaults of theirs count as if they were written."""
    one, other = (rg.groups.mup(rule, NET, NARROW).groups for rule in (theirs, ours))
    assert [group.match for group in one] == [group.match for group in other]
    for name in ("lr", "weight_decay"):
        assert [option(group.rule, name) for group in one] == [option(group.rule, name) for group in other]


def test_recurrent_and_attention_weights_have_axes():
    made = lambda width: nn.ModuleDict(  # noqa: E731
        {"lstm": nn.LSTM(3, width), "attention": nn.MultiheadAttention(width, 1), "up": nn.ConvTranspose1d(width, 2, 3)}
    )
    grown = growth(made(8), made(4))
    assert {name: grown[name] for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "attention.in_proj_weight")} == {
        "lstm.weight_ih_l0": (1.0, 2.0), "lstm.weight_hh_l0": (2.0, 2.0), "attention.in_proj_weight": (2.0, 2.0),
    }  # fmt: skip
    assert grown["up.weight"] == (2.0, 1.0)
    assert first_values(made(8), grown)["up.weight"] == pytest.approx(ROOT**-1)


def test_the_models_generator_stays_where_it_was():
    torch.manual_seed(5)
    model = MLP((5, 16, 16, 3))
    state = torch.random.get_rng_state()
    growth(model, 4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_that_starts_every_weight_by_the_width_is_told_by_its_kinds():
    """Quadratic networks have two tables and a head: inputs and an output, nothing hidden."""
    assert [row.kind for row in rg.groups.mup_table(ModularMLP(7, 16), ModularMLP(7, 4))] == [
        "input",
        "input",
        "output",
    ]
