"""SPAM and Stable-SPAM against their formulas, AdamW, closed forms and pytorch_optimizer."""

import math

import pytest
import torch
from torch import nn

import regimes as rg

SHAPES = [(4, 3), (5,), ()]
#: Nothing is clipped, nothing reset.
IDLE = {"threshold": 1e30, "reset_interval": 10**6}


def copies(parameters):
    return {name: p.detach().clone() for name, p in parameters.items()}


def close(one, other, tolerance=1e-10):
    for name, p in one.items():
        torch.testing.assert_close(p.detach(), other[name].detach(), rtol=0, atol=tolerance)


def spiky(hand, shapes, steps, every=7):
    """Gradients of which every seventh has an entry a thousand times as large."""
    parameters, gradients = hand.given(shapes, steps)
    for number in range(3, steps, every):
        for g in gradients[number]:
            g.view(-1)[number % g.numel()] *= 1000.0
    return parameters, gradients


def spam(parameters, gradients, lr, betas, eps, decay, threshold, interval, warmup, clip_after):
    """The rule, written plainly; also how many entries were clipped."""
    weights, clipped = copies(parameters), 0
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    for t, given in enumerate(gradients, start=1):
        since, scale = t % interval, 1.0
        if t >= interval and since < warmup:
            scale = 1 - 0.99 * (1 + math.cos(math.pi * since / (warmup + 1))) / 2
        for (name, w), g in zip(weights.items(), given):
            g = g.clone()
            if since == 0:
                m[name], v[name] = torch.zeros_like(w), torch.zeros_like(w)
            if since >= clip_after:
                for place in range(g.numel()):
                    was, bound = g.view(-1)[place].item(), threshold * v[name].view(-1)[place].item()
                    if was**2 > bound > 0:
                        g.view(-1)[place] = math.copysign(math.sqrt(bound), was)
                        clipped += 1
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g**2
            step = m[name] / (1 - betas[0] ** t) / ((v[name] / (1 - betas[1] ** t)).sqrt() + eps)
            weights[name] = (1 - lr * decay) * w - lr * scale * step
    return weights, clipped


def stable_spam(parameters, gradients, lr, betas, gammas, theta, eps, decay, interval):
    weights = copies(parameters)
    state = {name: [torch.zeros_like(w), torch.zeros_like(w), 0.0, 0.0, 0.0] for name, w in weights.items()}
    for t, given in enumerate(gradients, start=1):
        k = t if t < interval else t % interval + 1
        for (name, w), g in zip(weights.items(), given):
            m, v, c, a, q = state[name]
            w = (1 - lr * decay) * w
            if t % interval == 0:
                m, v = torch.zeros_like(w), torch.zeros_like(w)
            peak = g.abs().max().item()
            c = theta * c + (1 - theta) * peak
            bound = c / (1 - theta**t)
            entries = [x * bound / peak if abs(x) > bound else x for x in g.flatten().tolist()]
            g = torch.tensor(entries, dtype=g.dtype).view_as(g)
            n = math.sqrt(sum(x * x for x in g.flatten().tolist()))
            if n > 0:
                a, q = gammas[0] * a + (1 - gammas[0]) * n, gammas[1] * q + (1 - gammas[1]) * n * n
                g = g / n * (a / (1 - gammas[0] ** t)) / (math.sqrt(q / (1 - gammas[1] ** t)) + eps)
                m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
                w = w - lr * m / (1 - betas[0] ** k) / ((v / (1 - betas[1] ** k)).sqrt() + eps)
            weights[name], state[name] = w, [m, v, c, a, q]
    return weights


@pytest.mark.exact("SPAM")
def test_a_plain_twin_of_spam_makes_the_same_steps(hand):
    parameters, gradients = spiky(hand, SHAPES, 100)
    expected, clipped = spam(parameters, gradients, 0.05, (0.8, 0.95), 1e-3, 0.1, 30.0, 30, 10, 5)
    rule = rg.SPAM(
        lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, threshold=30.0, reset_interval=30, warmup_steps=10,
        clip_after=5,
    )  # fmt: skip
    hand.drive(rule, parameters, gradients)
    close(parameters, expected)
    assert clipped > 20


@pytest.mark.exact("StableSPAM")
def test_a_plain_twin_of_stable_spam_makes_the_same_steps(hand):
    parameters, gradients = spiky(hand, SHAPES, 100)
    gradients[40] = tuple(torch.zeros_like(g) for g in gradients[40])
    options = {"lr": 0.05, "betas": (0.8, 0.95), "gammas": (0.6, 0.85), "theta": 0.97, "eps": 1e-3}
    expected = stable_spam(parameters, gradients, decay=0.1, interval=30, **options)
    hand.drive(rg.StableSPAM(weight_decay=0.1, reset_interval=30, **options), parameters, gradients)
    close(parameters, expected)


@pytest.mark.exact("SPAM")
def test_spam_without_guards_is_adamw(hand):
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}
    parameters, gradients = hand.given(SHAPES, 60)
    expected = hand.drive_torch(lambda ps: torch.optim.AdamW(ps, foreach=False, **options), parameters, gradients)
    hand.drive(rg.SPAM(**IDLE, **options), parameters, gradients)
    close(parameters, expected, 1e-12)


@pytest.mark.exact("StableSPAM")
def test_stable_spam_is_adamw_where_its_guards_have_nothing_to_do(hand):
    """Gradients of one length, 1, and one maximum: the same entries in another order, with other signs."""
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.0, "weight_decay": 0.2}
    parameters, gradients = hand.given(SHAPES, 60)
    first = [g / g.norm() for g in gradients[0]]
    gradients = [
        tuple((one.flatten().roll(t) * g.flatten().sign()).view_as(g) for one, g in zip(first, given))
        for t, given in enumerate(gradients)
    ]
    expected = hand.drive_torch(lambda ps: torch.optim.AdamW(ps, foreach=False, **options), parameters, gradients)
    hand.drive(rg.StableSPAM(reset_interval=10**6, **options), parameters, gradients)
    close(parameters, expected, 1e-12)


@pytest.mark.exact("StableSPAM")
def test_rescaling_all_gradients_of_a_run_changes_no_update(hand):
    (one, gradients), (other, _) = spiky(hand, SHAPES, 50), hand.given(SHAPES, 50)
    rule = rg.StableSPAM(lr=0.1, eps=0.0, reset_interval=20)
    hand.drive(rule, one, gradients)
    hand.drive(rule, other, [tuple(1e-3 * g for g in given) for given in gradients])
    close(one, other, 1e-11)


@pytest.mark.exact("SPAM", "StableSPAM")
@pytest.mark.parametrize("interval", [4, 7])
def test_the_step_of_a_reset_is_the_sign_of_its_gradient(hand, interval):
    """Stable-SPAM's is lr long, as Adam's first; SPAM's is of the sign too, by its uncorrected moments and a warm-up."""
    for rule, size in (
        (rg.StableSPAM(lr=0.1, eps=0.0, reset_interval=interval), 0.1),
        (
            rg.SPAM(lr=0.1, eps=0.0, reset_interval=interval),
            0.1 * 0.01 * 0.1 / (1 - 0.9**interval) / math.sqrt(0.001 / (1 - 0.999**interval)),
        ),
    ):
        parameters, gradients = hand.given(SHAPES, interval)
        state = rule.init(parameters)
        for given in gradients:
            before = copies(parameters)
            state = rule.step(state, parameters, hand.Stub(given))
        for (name, p), g in zip(parameters.items(), gradients[-1]):
            torch.testing.assert_close(p.detach() - before[name], -size * g.sign(), rtol=0, atol=1e-14)


@pytest.mark.exact("StableSPAM")
def test_a_spike_after_a_reset_meets_the_bound_of_before(hand):
    """The authors' code begins its bias corrections anew there, with the old averages: c / (1 - theta^2) for c."""
    rule = rg.StableSPAM(theta=0.9, reset_interval=50)
    p, unit = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    slot = rule.slots(p)
    for t in range(1, 52):
        rule.update(p, unit, slot, t)
    assert slot["norm_avg"].item() == pytest.approx(1.5, rel=1e-6)
    rule.update(p, unit * torch.tensor([1.0, 1.0, 200.0]), slot, 52)
    # The bound is 0.9 + 0.1 * 100 = 10.9, corrected by the 52 gradients so far.
    bound = (0.9 * (1 - 0.9**51) + 0.1 * 100.0) / (1 - 0.9**52)
    length = math.sqrt(2 + bound**2)
    assert slot["norm_avg"].item() == pytest.approx(0.7 * 1.5 * (1 - 0.7**51) + 0.3 * length, rel=1e-12)


@pytest.mark.exact("SPAM", "StableSPAM")
def test_gradients_are_not_written_to(hand):
    """The authors' code and pytorch_optimizer clip in the caller's own."""
    for rule in (rg.SPAM(threshold=2.0, clip_after=0), rg.StableSPAM(theta=0.5)):
        parameters, gradients = spiky(hand, SHAPES, 20)
        slots = [rule.slots(p) for p in parameters.values()]
        with torch.no_grad():
            for t, given in enumerate(gradients, start=1):
                for p, g, slot in zip(parameters.values(), given, slots):
                    before = g.clone()
                    rule.update(p, g, slot, t)
                    assert torch.equal(g, before)


@pytest.mark.exact("StableSPAM")
def test_stable_spam_of_pytorch_optimizer(hand):
    """On spikes, through resets, and past gradients of zero."""
    reference = pytest.importorskip("pytorch_optimizer").StableSPAM
    options = {"lr": 0.02, "betas": (0.8, 0.95), "theta": 0.97, "eps": 1e-4, "weight_decay": 0.1}
    parameters, gradients = spiky(hand, SHAPES, 100)
    for number in (20, 31):
        gradients[number] = (torch.zeros_like(gradients[number][0]), *gradients[number][1:])
    make = lambda ps: reference(ps, gamma1=0.6, gamma2=0.85, update_proj_gap=30, **options)  # noqa: E731
    expected = hand.drive_torch(make, parameters, gradients)
    hand.drive(rg.StableSPAM(gammas=(0.6, 0.85), reset_interval=30, **options), parameters, gradients)
    close(parameters, expected)


def of_pytorch_optimizer(warmup):
    reference = pytest.importorskip("pytorch_optimizer").SPAM
    options = {"threshold": 30, "update_proj_gap": 30, "grad_accu_steps": 5, "warmup_epoch": warmup}
    return lambda ps: reference(ps, lr=0.02, betas=(0.8, 0.95), eps=0.0, **options)


SAME = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 0.0, "threshold": 30.0, "reset_interval": 30, "clip_after": 5}


@pytest.mark.exact("SPAM")
def test_spam_of_pytorch_optimizer(hand):
    """Without a warm-up after resets; theirs is a step ahead (below), adds eps before the bias correction, decays last."""
    parameters, gradients = spiky(hand, SHAPES, 100)
    expected = hand.drive_torch(of_pytorch_optimizer(0), parameters, gradients)
    hand.drive(rg.SPAM(warmup_steps=0, **SAME), parameters, gradients)
    close(parameters, expected)


@pytest.mark.exact("SPAM")
def test_the_warm_up_of_pytorch_optimizer_is_a_step_ahead(hand):
    """The authors' code is at 0.01 in the update of a reset; theirs moves the cosine on before it is read."""
    parameters, gradients = hand.given([(4, 3)], 45)
    places, rule = [], rg.SPAM(warmup_steps=10, **SAME)
    before = lambda optimizer, number: places.append(optimizer.param_groups[0]["params"][0].detach().clone())  # noqa: E731
    hand.drive_torch(of_pytorch_optimizer(10), parameters, gradients, before)
    state, ours = rule.init(parameters), []
    for given in gradients:
        ours.append(parameters["p0"].detach().clone())
        state = rule.step(state, parameters, hand.Stub(given))
    scale = [1 - 0.99 * (1 + math.cos(math.pi * c / 11)) / 2 for c in range(11)]
    for c in range(9):
        number = 29 + c  # the update of the reset is the thirtieth
        one, other = ours[number + 1] - ours[number], places[number + 1] - places[number]
        torch.testing.assert_close(one * scale[c + 1], other * scale[c], rtol=1e-9, atol=0)
    assert scale[0] == pytest.approx(0.01)


@pytest.mark.exact("SPAM")
def test_an_entry_that_wakes_up_is_not_clipped_to_nothing(hand):
    """A row of an embedding, say, first met after the twentieth step: in pytorch_optimizer it waits for the reset."""
    waking = torch.ones(4, 3, dtype=torch.float64)
    asleep = waking.clone()
    asleep[0] = 0.0
    gradients = [(asleep.clone(),)] * 10 + [(waking.clone(),)] * 10
    parameters = {"w": nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))}
    options = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-8}
    peer = pytest.importorskip("pytorch_optimizer").SPAM
    make = lambda ps: peer(ps, threshold=30, grad_accu_steps=5, warmup_epoch=0, **options)  # noqa: E731
    theirs = hand.drive_torch(make, parameters, gradients)
    hand.drive(rg.SPAM(threshold=30.0, clip_after=5, **options), parameters, gradients)
    assert torch.equal(theirs["w"][0], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(parameters["w"].detach()[1:], theirs["w"].detach()[1:], rtol=1e-5, atol=0)
    assert (parameters["w"][0] < -0.05).all()


@pytest.mark.exact("StableSPAM")
def test_a_gradient_of_zero_lowers_the_maximum_and_counts_but_moves_nothing_else():
    """c halves with theta = 0.5, the lengths' means and both moments stay, the weights only decay."""
    rule, p = rg.StableSPAM(lr=0.5, theta=0.5, weight_decay=0.5), torch.tensor([1.0, -2.0])
    slot = rule.fresh(p)
    rule.advance((p,), (torch.tensor([4.0, -3.0]),), (slot,))
    before, kept = p.clone(), {name: slot[name].clone() for name in slot if name not in ("step", "largest")}
    for step, largest in ((2, 1.0), (3, 0.5)):
        rule.advance((p,), (torch.zeros(2),), (slot,))
        before *= 0.75
        assert (slot["step"], slot["largest"].item()) == (step, largest)
        assert torch.equal(p, before)
        assert all(torch.equal(slot[name], value) for name, value in kept.items())
