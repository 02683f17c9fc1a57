"""Projection against twins by hand, the equivalence of rates that it rests on, and what the probe says of it."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.optimizers.layers import layers_of


def scale_free(seed=0, norm=nn.LayerNorm):
    """Two layers before norms, and a head."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), norm(8, eps=0.0), nn.Tanh(),
        nn.Linear(8, 5, bias=False), norm(5, eps=0.0), nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip


WEIGHTS = ("0.weight", "3.weight")


def data():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(32, 6, generator=draw, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


class Parameters(dict):
    """What a rule is given: parameters by name, and the model's layers."""

    def __init__(self, model, names=None):
        named = dict(model.named_parameters())
        super().__init__({name: named[name] for name in names or named})
        self.layers = layers_of(model)


class Gradient:
    """An evaluate of the mean cross-entropy on the data."""

    compiled = False

    def __init__(self, model, parameters):
        self.model, self.parameters = model, parameters

    def __call__(self, **kwargs):
        x, y = data()
        loss = nn.functional.cross_entropy(self.model(x), y)
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        return Answer(gradients)


class Answer:
    loss, captured, mass = 0.0, {}, 1.0

    def __init__(self, gradients):
        self.gradients = gradients


def trained(model, rule, steps, names=None, live=lambda rule, parameters: rule):
    """Weights by step, the first ones included."""
    parameters = Parameters(model, names)
    state, seen = rule.init(parameters), []
    for _ in range(steps):
        seen.append({name: p.detach().clone() for name, p in parameters.items()})
        state = live(rule, parameters).step(state, parameters, Gradient(model, parameters))
    return [*seen, {name: p.detach().clone() for name, p in parameters.items()}]


def close(a, b, most=1e-10):
    assert (a - b).abs().max().item() <= most


@pytest.mark.exact("NormalizeAndProject")
@pytest.mark.parametrize(
    ("base", "torch_rule"),
    [
        (rg.SGD(lr=0.03, momentum=0.9), lambda ps: torch.optim.SGD(ps, lr=0.03, momentum=0.9)),
        (rg.AdamW(lr=0.02, weight_decay=0.1), lambda ps: torch.optim.AdamW(ps, lr=0.02, weight_decay=0.1)),
    ],
)
@pytest.mark.parametrize("skip", [(), ("6.weight",)])
def test_it_is_torchs_step_and_then_a_division(base, torch_rule, skip):
    """A hundred steps; biases and what is skipped are the base rule's."""
    seen = trained(scale_free(), rg.NormalizeAndProject(base, skip=skip), 100)
    twin = scale_free()
    named = dict(twin.named_parameters())
    projected = [named[name] for name in (*WEIGHTS, "6.weight") if name not in skip]
    lengths = [p.detach().pow(2).sum().sqrt() for p in projected]
    optimizer = torch_rule(list(twin.parameters()))
    x, y = data()
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for p, length in zip(projected, lengths):
                p.copy_(length * p / p.pow(2).sum().sqrt())
    for name, p in named.items():
        close(seen[-1][name], p.detach())


@pytest.mark.exact("NormalizeAndProject")
def test_every_length_is_the_first_after_every_step():
    seen = trained(scale_free(), rg.NormalizeAndProject(rg.SGD(lr=5.0)), 30)
    for name in (*WEIGHTS, "6.weight"):
        assert [step[name].norm().item() for step in seen] == pytest.approx(
            [seen[0][name].norm().item()] * 31, rel=1e-14
        )
    free = trained(scale_free(), rg.SGD(lr=5.0), 30)
    assert free[-1]["0.weight"].norm() > 1.5 * free[0]["0.weight"].norm()


def test_the_gradient_of_what_stands_before_a_norm_is_orthogonal_and_inverse_to_its_length():
    """What the method rests on, with both norms of torch."""
    for norm in (nn.LayerNorm, nn.RMSNorm):
        model = scale_free(norm=norm)
        parameters = Parameters(model, WEIGHTS)
        before = Gradient(model, parameters)().gradients
        for p, g in zip(parameters.values(), before):
            assert abs((p.detach() * g).sum().item()) <= 1e-15
        with torch.no_grad():
            parameters["0.weight"].mul_(4.0)
        after = Gradient(model, parameters)().gradients
        close(after[0], before[0] / 4.0, 1e-15)
        close(after[1], before[1], 1e-15)


@pytest.mark.exact("NormalizeAndProject")
def test_the_effective_rate_of_a_free_run_gives_its_directions():
    """SGD on one layer: the projected run at lr rho^2 / ||W_t||^2 turns as the free run at lr."""
    names, lr = ["0.weight"], 4.0
    free = [step["0.weight"] for step in trained(scale_free(), rg.SGD(lr=lr), 100, names)]
    assert free[-1].norm() > 1.5 * free[0].norm()
    rho, rates = free[0].norm().item(), iter(lr * free[0].norm().item() ** 2 / w.norm().item() ** 2 for w in free)

    def live(rule, parameters):
        return rg.NormalizeAndProject(rg.SGD(lr=next(rates)))

    projected = trained(scale_free(), rg.NormalizeAndProject(rg.SGD(lr=lr)), 100, names, live)
    for w, p in zip(free, projected):
        close(p["0.weight"] / rho, w / w.norm())


@pytest.mark.exact("NormalizeAndProject")
def test_weights_of_zeros_stay_and_only_trained_layers_are_projected():
    model = scale_free()
    with torch.no_grad():
        model[6].weight.zero_()
    for lr in (0.5, 0.0):
        seen = trained(model, rg.NormalizeAndProject(rg.SGD(lr=lr)), 5, ["0.weight", "6.weight"])
        assert torch.equal(seen[-1]["6.weight"], torch.zeros(3, 5, dtype=torch.float64))
    state = rg.NormalizeAndProject(rg.SGD()).init(Parameters(model, ["0.weight", "6.bias"]))
    assert list(state["slots"]) == ["0.weight"]


@pytest.mark.exact("NormalizeAndProject")
def test_in_a_run_around_groups_and_another_wrapper(hand):
    """Groups inside; SAM inside, whose two evaluations are its own."""
    groups = rg.Groups([rg.Group("*.weight", rg.AdamW(lr=0.05)), rg.Group("*", rg.SGD(lr=0.5))])
    for base in (groups, rg.SAM(rg.SGD(lr=0.5))):
        regime = rg.Regime(optimizer=rg.NormalizeAndProject(base), batch_size=16, budget="12 steps")
        run = Run(hand.workload(), regime, seed=5)
        before = {name: p.detach().clone() for name, p in run.parameters.items()}
        list(run)
        for name, p in run.parameters.items():
            assert not torch.equal(p, before[name])
            if p.ndim == 2:
                assert p.norm().item() == pytest.approx(before[name].norm().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.NormalizeAndProject(rg.MeZO()), "base: got MeZO.*which makes no gradient"),
        (lambda: rg.NormalizeAndProject(rg.ScheduleFreeSGD()), "which evaluates at weights of its own"),
        (
            lambda: rg.NormalizeAndProject(rg.SGD(), skip="7.weight").init(Parameters(scale_free())),
            "skip.0: got '7.weight', which matches no layer's weight",
        ),
        (lambda: rg.NormalizeAndProject(rg.SGD(), skip="*").init(Parameters(scale_free())), "none is left here"),
    ],
)
def test_what_fits_nothing_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()


# -- the probe --------------------------------------------------------------------------------------------------


@pytest.mark.exact("EffectiveLearningRate")
@pytest.mark.parametrize("power", [1, 2])
def test_the_probe_says_powers_of_ratios_of_lengths(power):
    model = scale_free()
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model[0].weight.mul_(4.0)
        model[3].weight.mul_(0.5)
    found = rg.EffectiveLearningRate(power=power)(model, None, None, initial=initial)
    assert found == {
        "": pytest.approx(0.5 ** (power / 3), rel=1e-12),
        "0.weight": pytest.approx(0.25**power, rel=1e-12),
        "3.weight": pytest.approx(2.0**power, rel=1e-12),
        "6.weight": 1.0,
    }


@pytest.mark.exact("EffectiveLearningRate")
def test_in_a_run_it_is_one_where_weights_are_projected_and_falls_where_they_grow(hand):
    probe = rg.EffectiveLearningRate(every="1 steps")
    for rule, constant in ((rg.NormalizeAndProject(rg.AdamW(lr=0.05)), True), (rg.AdamW(lr=0.05), False)):
        regime = rg.Regime(optimizer=rule, batch_size=16, budget="20 steps")
        last = [r.signals["effective_learning_rate"] for r in rg.stream(hand.workload(), regime, probes=[probe])][-1]
        assert abs(last - 1.0) <= 1e-6 if constant else last < 0.9


@pytest.mark.exact("EffectiveLearningRate")
def test_weights_that_are_or_were_zero():
    one, none = {"weight": torch.ones(1, 1)}, {"weight": torch.zeros(1, 1)}
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    assert rg.EffectiveLearningRate()(model, None, None, initial=one) == {"": math.inf, "weight": math.inf}
    assert math.isnan(rg.EffectiveLearningRate()(model, None, None, initial=none)[""])
    nn.init.ones_(model.weight)
    assert rg.EffectiveLearningRate()(model, None, None, initial=none) == {"": 0.0, "weight": 0.0}


def test_without_the_first_weights_or_layers_the_probe_refuses():
    with pytest.raises(rg.DeclarationError, match="initial: needs a value"):
        rg.EffectiveLearningRate()(nn.Linear(1, 1), None, None)
    with pytest.raises(rg.DeclarationError, match="initial: got weights without a 'weight' of the shape"):
        rg.EffectiveLearningRate()(nn.Linear(1, 1), None, None, initial={"weight": torch.ones(2, 1)})
    with pytest.raises(rg.DeclarationError, match="none is trained here"):
        rg.EffectiveLearningRate()(nn.LayerNorm(2), None, None, initial={})
