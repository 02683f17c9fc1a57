"""SGD-SaI against its formula, closed forms of its ratio, and pytorch_optimizer."""

import math
import statistics
import warnings

import pytest
import torch
from torch import nn

import regimes as rg
from regimes import optim
from regimes.engine.run import Run
from regimes.optimizers.tensorwise.gradient_snr import gradient_snr

SHAPES = [(4, 3), (5,), (2, 3, 2, 2)]


def plain_ratio(g, eps=0.0):
    values = g.flatten().tolist()
    return math.sqrt(sum(v * v for v in values)) / (statistics.stdev(values) + eps)


def copies(parameters):
    return {name: p.detach().clone() for name, p in parameters.items()}


def close(one, other, tolerance=1e-10):
    for name, p in one.items():
        torch.testing.assert_close(p.detach(), other[name].detach(), rtol=0, atol=tolerance)


def factors(state):
    return [slot["factor"] for slot in state["slots"].values()]


@pytest.mark.exact("SGDSaI")
@pytest.mark.parametrize("normalize", ["max", "none"])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_plain_twin_makes_the_same_steps(hand, normalize, momentum):
    parameters, gradients = hand.given(SHAPES, 100)
    weights, lr = copies(parameters), 0.05
    ratios = [plain_ratio(g, 1e-3) for g in gradients[0]]
    largest = max(ratios) if normalize == "max" else 1.0
    buffers = [g.clone() for g in gradients[0]]
    for t, given in enumerate(gradients):
        for place, (name, w) in enumerate(weights.items()):
            if t > 0:
                buffers[place] = momentum * buffers[place] + (1 - momentum) * given[place]
            weights[name] = (1 - lr * 0.1) * w - lr * ratios[place] / largest * buffers[place]
    rule = rg.SGDSaI(lr=lr, momentum=momentum, eps=1e-3, weight_decay=0.1, normalize=normalize)
    state = hand.drive(rule, parameters, gradients)
    close(parameters, weights)
    assert factors(state) == pytest.approx([ratio / largest for ratio in ratios], rel=1e-12)


@pytest.mark.exact("SGDSaI", "GradientSNR")
@pytest.mark.parametrize("shape", [(2,), (7,), (30, 40)])
def test_the_ratio_in_closed_form(shape):
    draw = torch.Generator().manual_seed(1)
    g = torch.randn(shape, generator=draw, dtype=torch.float64) + 0.3
    n, m, s = g.numel(), g.mean().item(), g.std().item()
    assert gradient_snr(g).item() == pytest.approx(math.sqrt(n * m**2 / s**2 + n - 1), rel=1e-12)
    assert gradient_snr(g - g.mean()).item() == pytest.approx(math.sqrt(n - 1), rel=1e-12)
    assert gradient_snr(1e6 * g).item() == pytest.approx(gradient_snr(g).item(), rel=1e-12)


@pytest.mark.exact("SGDSaI", "GradientSNR")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_spread_it_is_the_root_of_the_size_and_of_nothing_it_is_zero(dtype):
    """0.1 has no exact form: equal entries have a deviation of rounding, over which the length would be 1e8."""
    for value in (0.1, -3.0, 1e-12):
        assert gradient_snr(torch.full((9, 111), value, dtype=dtype)).item() == pytest.approx(math.sqrt(999))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch's, where it is asked for the deviation of one number
            assert gradient_snr(torch.tensor(value, dtype=dtype)).item() == 1.0
    assert gradient_snr(torch.zeros(4, 3, dtype=dtype)).item() == 0.0
    assert gradient_snr(torch.zeros((), dtype=dtype)).item() == 0.0


@pytest.mark.exact("SGDSaI")
def test_rescaling_the_loss_changes_no_factor(hand):
    (one, gradients), (other, _) = hand.given(SHAPES, 5), hand.given(SHAPES, 5)
    rule = rg.SGDSaI(lr=0.1, eps=0.0, weight_decay=0.0)
    before = copies(one)
    small = hand.drive(rule, one, gradients)
    large = hand.drive(rule, other, [tuple(8.0 * g for g in given) for given in gradients])
    assert factors(small) == pytest.approx(factors(large), rel=1e-14)
    close({n: 8.0 * (p - before[n]) for n, p in one.items()}, {n: p - before[n] for n, p in other.items()}, 1e-12)


@pytest.mark.exact("SGDSaI")
def test_with_equal_ratios_it_is_momentum_with_decoupled_decay(hand):
    """The first gradients are one another's entries in another order: every factor is 1."""
    parameters, gradients = hand.given([(4, 3), (12,), (2, 6)], 40)
    first = gradients[0][0].flatten()
    gradients[0] = (first.view(4, 3), first.flip(0), first.roll(5).view(2, 6))
    weights, lr, buffers = copies(parameters), 0.1, list(gradients[0])
    for t, given in enumerate(gradients):
        for place, name in enumerate(weights):
            buffers[place] = 0.9 * buffers[place] + 0.1 * given[place] if t else given[place]
            weights[name] = (1 - lr * 0.2) * weights[name] - lr * buffers[place]
    state = hand.drive(rg.SGDSaI(lr=lr, weight_decay=0.2), parameters, gradients)
    assert factors(state) == pytest.approx([1.0, 1.0, 1.0], rel=1e-12)
    close(parameters, weights, 1e-12)


@pytest.mark.exact("SGDSaI")
def test_a_scalar_does_not_starve_the_others(hand):
    """The authors' code gives one entry a deviation of 0, and |g| / eps as its ratio: here about 1e8."""
    parameters, gradients = hand.given([*SHAPES, ()], 3)
    alone = hand.drive(rg.SGDSaI(), *hand.given(SHAPES, 3))
    state = hand.drive(rg.SGDSaI(), parameters, gradients)
    ratios = [plain_ratio(g, 1e-8) for g in gradients[0][:3]]
    assert factors(state)[:3] == pytest.approx([ratio / max(ratios) for ratio in ratios])
    assert factors(state)[3] == pytest.approx(1.0 / max(ratios))
    assert len(factors(alone)) == 3


@pytest.mark.exact("SGDSaI")
def test_a_tensor_whose_gradient_is_zero_gets_its_factor_later_and_moves_no_other(hand):
    """In the first step that is both."""
    parameters, gradients = hand.given([(4, 3), (30, 2)], 6)
    for place in range(3):
        gradients[place] = (min(place, 1) * gradients[place][0], torch.zeros(30, 2, dtype=torch.float64))
    rule = rg.SGDSaI(lr=0.1, weight_decay=0.0)
    before, state, seen = parameters["p1"].detach().clone(), rule.init(parameters), []
    for given in gradients:
        state = rule.step(state, parameters, hand.Stub(given))
        seen.append(factors(state))
        if len(seen) == 3:
            assert torch.equal(parameters["p1"].detach(), before)
    assert seen[:3] == [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    # Its own ratio is the largest by then; that of the first tensor was fixed before.
    assert plain_ratio(gradients[3][1]) > plain_ratio(gradients[1][0])
    assert seen[3:] == [[1.0, 1.0]] * 3


@pytest.mark.exact("SGDSaI")
def test_a_tensor_that_joins_late_is_divided_by_the_largest_known_then(hand):
    rule = rg.SGDSaI(lr=0.1)
    parameters, gradients = hand.given([(30, 2), (4, 3)], 5)
    first, both = {"p0": parameters["p0"]}, parameters
    state = rule.init(first)
    for given in gradients[:3]:
        state = rule.step(state, first, hand.Stub(given[:1]))
    state["slots"] |= rule.init({"p1": parameters["p1"]})["slots"]
    for given in gradients[3:]:
        state = rule.step(state, both, hand.Stub(given))
    expected = plain_ratio(gradients[3][1], 1e-8) / plain_ratio(gradients[0][0], 1e-8)
    assert expected < 1.0
    assert factors(state) == pytest.approx([1.0, expected], rel=1e-12)
    assert [slot["step"] for slot in state["slots"].values()] == [5, 2]


@pytest.mark.exact("SGDSaI")
def test_in_a_loop_of_ones_own_a_tensor_without_gradient_waits_and_groups_stand_alone(hand):
    parameters, (given, later) = hand.given([(4, 3), (30, 2), (6, 6)], 2)
    one, two, three = parameters.values()
    optimizer = optim.SGDSaI([{"params": [one, two]}, {"params": [three], "lr": 0.2}], lr=0.1)
    one.grad, three.grad = given[0].clone(), given[2].clone()
    optimizer.step()
    assert [optimizer.state[p].get("factor") for p in (one, two, three)] == [1.0, None, 1.0]
    two.grad = later[1].clone()
    optimizer.step()
    assert optimizer.state[one]["factor"] == 1.0
    assert optimizer.state[two]["factor"] == 1.0  # the largest by then
    assert optimizer.state[two]["largest"] == pytest.approx(plain_ratio(later[1], 1e-8), rel=1e-12)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_factors_of_the_first_step_stay_for_the_run(hand, compiled):
    """In the engine, over weights and biases together, under a schedule, compiled or not."""
    regime = rg.Regime(optimizer=rg.SGDSaI(lr=rg.Cosine(0.5)), batch_size=16, budget="9 steps", compile=compiled)
    run = Run(hand.workload(), regime, seed=5)
    ratios = rg.GradientSNR()(run.model, *first_batch(hand, run))
    run.step()
    first = factors(run.states["optimizer"])
    largest = max(ratios.values())
    assert first == pytest.approx([ratio / largest for ratio in ratios.values()], rel=1e-5)
    assert len(set(first)) == 4
    list(run)
    assert factors(run.states["optimizer"]) == first


def first_batch(hand, run):
    (x, y), indices = hand.data(), torch.from_numpy(run.frame.plans[0].indices)
    return lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]), (x[indices], y[indices])


@pytest.mark.exact("SGDSaI")
def test_sgd_sai_of_pytorch_optimizer(hand):
    """Theirs has no largest ratio, a buffer that begins at zero, and of vectors the length in place of the ratio."""
    reference = pytest.importorskip("pytorch_optimizer").SGDSaI
    shapes, options = [(4, 3), (6, 5)], {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}
    parameters, gradients = hand.given(shapes, 40)
    expected = hand.drive_torch(lambda ps: reference(ps, momentum=0.0, **options), parameters, gradients)
    ours = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    hand.drive(rg.SGDSaI(momentum=0.0, normalize="none", **options), ours, gradients)
    close(ours, expected, 1e-12)

    made = []
    hand.drive_torch(lambda ps: made.append(reference(ps, momentum=0.8, **options)) or made[0], parameters, gradients)
    state = hand.drive(rg.SGDSaI(momentum=0.8, normalize="none", **options), parameters, gradients)
    theirs = [slot["momentum_buffer"] for slot in made[0].state.values()]
    for slot, other, first in zip(state["slots"].values(), theirs, gradients[0], strict=True):
        torch.testing.assert_close(slot["momentum_buffer"] - other, 0.8**40 * first, rtol=0, atol=1e-15)

    parameters, gradients = hand.given([(5,)], 1)
    hand.drive_torch(lambda ps: made.append(reference(ps)) or made[1], parameters, gradients)
    (slot,) = made[1].state.values()
    assert slot["gsnr"].item() == pytest.approx(gradients[0][0].norm().item())
