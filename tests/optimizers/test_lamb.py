"""LAMB and LARS against their formulas, AdamW, closed forms and pytorch_optimizer."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.optimizers.tensorwise.trust_ratio import trust_ratio

SHAPES = [(4, 3), (5,), (2, 3, 2, 2), ()]


def close(one, other, tolerance=1e-10):
    for name, p in one.items():
        torch.testing.assert_close(p.detach(), other[name].detach(), rtol=0, atol=tolerance)


def copies(parameters):
    return {name: p.detach().clone() for name, p in parameters.items()}


def length(x):
    return sum(v * v for v in x.flatten().tolist()) ** 0.5


def ratio(w, u, clamp, adapted):
    if not adapted or length(w) == 0.0 or length(u) == 0.0:
        return 1.0
    return (length(w) if clamp is None else min(max(length(w), clamp[0]), clamp[1])) / length(u)


def lamb(parameters, gradients, lr, betas, eps, decay, clamp=None, correct=True, vectors=False):
    """The rule as the paper prints it."""
    weights = copies(parameters)
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    for t, given in enumerate(gradients, start=1):
        for (name, w), g in zip(weights.items(), given):
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g**2
            mh, vh = (m[name] / (1 - betas[0] ** t), v[name] / (1 - betas[1] ** t)) if correct else (m[name], v[name])
            u = mh / (vh.sqrt() + eps) + decay * w
            weights[name] = w - lr * ratio(w, u, clamp, vectors or w.ndim >= 2) * u
    return weights


def lars(parameters, gradients, lr, momentum, decay, clamp=None, vectors=False):
    weights = copies(parameters)
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    for given in gradients:
        for (name, w), g in zip(weights.items(), given):
            m[name] = momentum * m[name] + (1 - momentum) * (g + decay * w)
            weights[name] = w - lr * ratio(w, m[name], clamp, vectors or w.ndim >= 2) * m[name]
    return weights


@pytest.mark.exact("LAMB")
@pytest.mark.parametrize("clamp", [None, (2.0, 3.0)])
@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_plain_twin_of_lamb_makes_the_same_steps(hand, clamp, correct, vectors):
    parameters, gradients = hand.given(SHAPES, 100)
    expected = lamb(parameters, gradients, 0.05, (0.8, 0.95), 1e-3, 0.1, clamp, correct, vectors)
    rule = rg.LAMB(
        lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, clamp=clamp, bias_correction=correct,
        adapt_vectors=vectors,
    )  # fmt: skip
    hand.drive(rule, parameters, gradients)
    close(parameters, expected)


@pytest.mark.exact("LARS")
@pytest.mark.parametrize("clamp", [None, (2.0, 3.0)])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_plain_twin_of_lars_makes_the_same_steps(hand, clamp, vectors):
    parameters, gradients = hand.given(SHAPES, 100)
    expected = lars(parameters, gradients, 0.05, 0.8, 0.1, clamp, vectors)
    hand.drive(
        rg.LARS(lr=0.05, momentum=0.8, weight_decay=0.1, clamp=clamp, adapt_vectors=vectors), parameters, gradients
    )
    close(parameters, expected)


@pytest.mark.exact("LAMB", "LARS")
@pytest.mark.parametrize("rule", [rg.LAMB, rg.LARS])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("clamp", [None, (0.5, 2.0)])
def test_every_adapted_step_is_as_long_as_phi_of_the_weights(hand, rule, decay, clamp):
    parameters, gradients = hand.given([(4, 3), (2, 3, 2, 2)], 10)
    live, state = rule(lr=0.1, weight_decay=decay, clamp=clamp), None
    for given in gradients:
        state = live.init(parameters) if state is None else state
        before = copies(parameters)
        state = live.step(state, parameters, hand.Stub(given))
        for name, p in parameters.items():
            wanted = length(before[name]) if clamp is None else 2.0  # all are longer than 2
            assert length(p.detach() - before[name]) == pytest.approx(0.1 * wanted, rel=1e-12)


@pytest.mark.exact("LAMB", "LARS")
@pytest.mark.parametrize("rule", [rg.LAMB(lr=0.1, eps=0.0, weight_decay=0.0), rg.LARS(lr=0.1)])
def test_without_decay_rescaling_the_loss_changes_nothing(hand, rule):
    (one, gradients), (other, _) = hand.given([(4, 3), (2, 3, 2, 2)], 30), hand.given([(4, 3), (2, 3, 2, 2)], 30)
    hand.drive(rule, one, gradients)
    hand.drive(rule, other, [tuple(1000.0 * g for g in given) for given in gradients])
    close(one, other, 1e-12)


@pytest.mark.exact("LAMB")
def test_where_the_ratio_is_one_it_is_adamw(hand):
    """Vectors are not adapted unless that is declared."""
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}
    parameters, gradients = hand.given([(7,), ()], 50)
    expected = hand.drive_torch(lambda ps: torch.optim.AdamW(ps, foreach=False, **options), parameters, gradients)
    hand.drive(rg.LAMB(**options), parameters, gradients)
    close(parameters, expected, 1e-13)


@pytest.mark.exact("LAMB")
def test_the_first_step_is_along_the_signs_and_the_weights(hand):
    parameters, gradients = hand.given([(4, 3)], 1)
    w, (g,) = parameters["p0"].detach().clone(), gradients[0]
    u = g.sign() + 0.3 * w
    hand.drive(rg.LAMB(lr=0.1, eps=0.0, weight_decay=0.3), parameters, gradients)
    close(parameters, {"p0": w - 0.1 * length(w) / length(u) * u}, 1e-14)


@pytest.mark.exact("LAMB", "LARS")
def test_where_a_length_is_zero_the_ratio_is_one(hand):
    """Weights that begin at zero move as under Adam, and a gradient of zero moves nothing, to no NaN."""
    g = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for rule, step in (
        (rg.LAMB(lr=0.1, eps=0.0, weight_decay=0.0), g.sign()),
        (rg.LARS(lr=0.1, momentum=0.5), 0.5 * g),
        (rg.LAMB(lr=0.1, eps=0.0, weight_decay=0.0, clamp=(1.0, 2.0)), g.sign()),
    ):
        parameters = {"w": nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))}
        hand.drive(rule, parameters, [(g,)])
        close(parameters, {"w": -0.1 * step}, 1e-14)
    for rule in (rg.LAMB(weight_decay=0.0), rg.LARS()):
        parameters = {"w": nn.Parameter(torch.ones(4, 3, dtype=torch.float64))}
        hand.drive(rule, parameters, [(torch.zeros_like(g),)])
        assert torch.equal(parameters["w"].detach(), torch.ones(4, 3, dtype=torch.float64))


@pytest.mark.exact("LAMB")
def test_lengths_of_half_precision_are_taken_in_single():
    """300 entries of 2: the square of 1024 bfloat16s sums to 4096 exactly in single precision."""
    w = torch.full((32, 32), 2.0, dtype=torch.bfloat16)
    found = trust_ratio(w, torch.full_like(w, 0.5))
    assert found.dtype == torch.float32
    assert found.item() == 4.0


@pytest.mark.exact("LAMB")
def test_lamb_of_pytorch_optimizer(hand):
    """Without bias correction, phi clamped at 10, vectors adapted, decay within the update.

    They depart by eps in the ratio's denominator; by default also by a rate over 1 - beta_1^t, so that the first steps
    are longer than lr phi (``adam_debias``), and by decay before the update (``weight_decouple``), which then has no part
    in its length.
    """
    reference = pytest.importorskip("pytorch_optimizer").Lamb
    options = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 0.0}
    parameters, gradients = hand.given([(4, 3), (5,), (40, 30)], 100)
    before, plain = copies(parameters), {"weight_decouple": False, "adam_debias": True}
    expected = hand.drive_torch(lambda ps: reference(ps, **plain, **options), parameters, gradients)
    first = hand.drive_torch(lambda ps: reference(ps, **options | {"weight_decay": 0.0}), parameters, gradients[:1])
    rule = rg.LAMB(clamp=(0.0, 10.0), bias_correction=False, adapt_vectors=True, **options)
    hand.drive(rule, parameters, gradients)
    close(parameters, expected)
    assert length(first["p0"] - before["p0"]) == pytest.approx(0.02 / (1 - 0.8) * length(before["p0"]), rel=1e-12)


@pytest.mark.exact("LARS")
def test_lars_of_pytorch_optimizer(hand):
    """The rule of 2017: it is ours where the momentum does not reach back, and on vectors."""
    reference = pytest.importorskip("pytorch_optimizer").LARS
    parameters, gradients = hand.given([(4, 3), (5,)], 30)
    options = {"lr": 0.02, "trust_coefficient": 1.0, "weight_decay": 0.0}
    alone = hand.drive_torch(lambda ps: reference(ps, momentum=0.0, **options), parameters, gradients)
    ours = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    hand.drive(rg.LARS(lr=0.02, momentum=0.0), ours, gradients)
    close(ours, alone, 1e-12)
    damped = hand.drive_torch(lambda ps: reference(ps, momentum=0.8, dampening=0.8, **options), parameters, gradients)
    ours = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    hand.drive(rg.LARS(lr=0.02, momentum=0.8), ours, gradients)
    close({"p1": ours["p1"]}, damped, 1e-12)
    # A momentum of gradients of unit length is no longer of the weights' length: their steps are shorter.
    assert (ours["p0"] - damped["p0"]).abs().max() > 1e-2


@pytest.mark.parametrize("rule", [rg.LAMB, rg.LARS])
def test_bounds_out_of_order_are_refused(rule):
    with pytest.raises(rg.DeclarationError, match=r"clamp: got \(2.0, 1.0\); allowed: the lower bound first"):
        rule(clamp=(2.0, 1.0))


@pytest.mark.exact("TrustRatio")
def test_the_probe_says_by_what_lars_scales():
    """A step of LARS without momentum is lr times the probe's ratio times the gradient, tensor by tensor."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double(), torch.randn(8, 6).double()
    with torch.no_grad():
        model[2].weight.zero_()

    def loss(model, x):
        return model(x).square().sum() + model(x).sum()

    ratios = rg.TrustRatio()(model, loss, x)
    loss(model, x).backward()
    parameters = dict(model.named_parameters())
    gradients = {name: p.grad.clone() for name, p in parameters.items()}
    before, rule = copies(parameters), rg.LARS(lr=0.1, momentum=0.0, adapt_vectors=True)
    with torch.no_grad():
        for name, p in parameters.items():
            rule.update(p, gradients[name], rule.slots(p), 1)
    close(parameters, {name: before[name] - 0.1 * ratios[name] * gradients[name] for name in ratios}, 1e-14)
    assert ratios["2.weight"] == 1.0
    assert list(ratios) == list(parameters)
