"""Conda against its formulas, AdamW, closed forms and pytorch_optimizer."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.optimizers.orthogonal.frames import into_frame, out_of_frame, smaller_basis
from regimes.testing.conformance import tiny

SHAPES = [(8, 5), (5, 8), (6, 6), (1, 7), (7, 1), (6, 2, 2, 3), (2, 3, 2, 2), (5,), ()]


def conda(parameters, gradients, lr, betas, eps, decay, every, scale):
    """The rule as the authors' code has it, with V from the right or U from the left."""
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    bases = {}
    for t, given in enumerate(gradients):
        for (name, w), g in zip(weights.items(), given):
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            left = right = None
            if w.ndim >= 2:
                rows, columns = w.reshape(len(w), -1).shape
                if t % every == 0:
                    bases[name] = torch.linalg.svd(m[name].reshape(rows, columns), full_matrices=False)
                u, _, vh = bases[name]
                left, right = (
                    (torch.eye(rows, dtype=w.dtype), vh.T) if rows >= columns else (u, torch.eye(columns).to(w))
                )
            turned = [x if left is None else (left.T @ x.reshape(rows, columns) @ right) for x in (g, m[name])]
            v[name] = betas[1] * v[name].reshape(turned[0].shape) + (1 - betas[1]) * turned[0] ** 2
            n = turned[1] / (v[name].sqrt() + eps)
            n = n if left is None else (left @ n @ right.T).reshape(w.shape) * scale
            weights[name] = w - lr * math.sqrt(1 - betas[1] ** (t + 1)) / (1 - betas[0] ** (t + 1)) * n
            weights[name] = weights[name] - lr * decay * weights[name]
    return weights


def farthest(parameters, expected):
    return max((p.detach() - expected[name]).abs().max().item() for name, p in parameters.items())


def like(parameters):
    return {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}


@pytest.mark.exact("Conda")
@pytest.mark.parametrize("every", [1, 7, 2000])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_plain_twin_makes_the_same_steps(hand, every, scale):
    """100 steps in float64."""
    parameters, gradients = hand.given(SHAPES, 100)
    expected = conda(parameters, gradients, 0.05, (0.8, 0.95), 1e-4, 0.1, every, scale)
    rule = rg.Conda(lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1, every=every, scale=scale)
    hand.drive(rule, parameters, gradients)
    assert farthest(parameters, expected) < 1e-10


def adam(parameters, gradients, lr, betas, eps, decay):
    """AdamW whose epsilon no correction touches, and whose decay comes after the step."""
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    for t, given in enumerate(gradients, start=1):
        for (name, w), g in zip(weights.items(), given):
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g**2
            step = m[name] / (1 - betas[0] ** t) * math.sqrt(1 - betas[1] ** t) / (v[name].sqrt() + eps)
            weights[name] = (w - lr * step) * (1 - lr * decay)
    return weights


@pytest.mark.exact("Conda")
def test_in_the_frame_of_the_axes_it_is_adamw(hand, monkeypatch):
    identity = lambda matrix: torch.eye(min(matrix.shape), dtype=matrix.dtype)  # noqa: E731
    monkeypatch.setattr("regimes.optimizers.orthogonal.conda.smaller_basis", identity)
    parameters, gradients = hand.given(SHAPES, 50)
    expected = adam(parameters, gradients, 0.05, (0.8, 0.95), 1e-2, 0.1)
    hand.drive(rg.Conda(lr=0.05, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.1), parameters, gradients)
    assert farthest(parameters, expected) < 1e-12


@pytest.mark.exact("Conda")
@pytest.mark.parametrize("shape", [(5,), (), (1, 7), (7, 1), (6, 1, 1, 1)])
def test_what_has_one_side_only_is_torchs_adamw(hand, shape):
    """A frame of one axis is a sign, which cancels. Where epsilon counts for nothing the corrections are torch's."""
    parameters, gradients = hand.given([shape], 50)
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-30, "weight_decay": 0.0}
    expected = hand.drive_torch(lambda ps: torch.optim.AdamW(ps, **options), parameters, gradients)
    hand.drive(rg.Conda(every=3, **options), parameters, gradients)
    assert farthest(parameters, expected) < 1e-12


@pytest.mark.exact("Conda")
@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
def test_the_momentum_is_orthogonal_in_a_new_frame(hand, shape):
    """Its columns, or rows, are as long as its singular values; some updates later they are not."""
    parameters, gradients = hand.given([shape], 12)
    rule, seen = rg.Conda(lr=0.05, every=5), []
    state = rule.init(parameters)
    for given in gradients:
        state = rule.step(state, parameters, hand.Stub(given))
        slot = state["slots"]["p0"]
        turned, m = into_frame(slot["exp_avg"], slot["frame"]["basis"]), slot["exp_avg"]
        gram = turned.T @ turned if shape[0] >= shape[1] else turned @ turned.T
        wanted = torch.linalg.svdvals(m).square().diag()
        seen.append(torch.allclose(gram, wanted, rtol=0, atol=1e-12))
    assert seen == [True, False, False, False, False] * 2 + [True, False]


@pytest.mark.exact("Conda")
@pytest.mark.parametrize("shape", [(8, 5), (3, 7), (1, 4)])
def test_the_matrix_on_its_side_moves_on_its_side(hand, shape):
    """Where it is not square: there the frame is from the right both times."""
    parameters, gradients = hand.given([shape], 30)
    turned = {"p0": nn.Parameter(parameters["p0"].detach().T.contiguous())}
    rule = rg.Conda(lr=0.05, every=4, weight_decay=0.1)
    hand.drive(rule, parameters, gradients)
    hand.drive(rule, turned, [(g.T.contiguous(),) for (g,) in gradients])
    assert (turned["p0"].T - parameters["p0"]).abs().max() < 1e-10


@pytest.mark.exact("Conda")
@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6), (1, 7)])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 1e-6)])
def test_into_a_frame_and_out_again(shape, dtype, rounding):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    basis = smaller_basis(matrix)
    assert basis.shape == (min(shape), min(shape))
    back = out_of_frame(into_frame(matrix.to(basis.dtype), basis), basis)
    assert (back - matrix).abs().max() < 4 * rounding
    assert (basis.T @ basis - torch.eye(len(basis))).abs().max() < 4 * rounding


@pytest.mark.exact("Conda")
@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_part_of_a_frame_is_a_projection(shape):
    """What rules of low rank do with it."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = into_frame(matrix, smaller_basis(matrix)[:, :2])
    assert inside.shape == ((8, 2) if shape[0] == 8 else (2, 8))
    best = u[:, :2] * s[:2] @ v[:2]
    torch.testing.assert_close(out_of_frame(inside, smaller_basis(matrix)[:, :2]), best, rtol=0, atol=1e-12)


@pytest.mark.exact("Conda")
def test_a_new_frame_leaves_the_second_moment_where_it_is(hand):
    """Known of the authors' code: v is not turned into the new frame."""
    parameters, gradients = hand.given([(6, 4)], 5)
    rule = rg.Conda(lr=0.05, every=5, betas=(0.9, 0.5))
    state = hand.drive(rule, parameters, gradients)
    slot = state["slots"]["p0"]
    v, basis = slot["exp_avg_sq"].clone(), slot["frame"]["basis"]
    rule.step(state, parameters, hand.Stub((torch.zeros(6, 4, dtype=torch.float64),)))
    assert torch.equal(slot["exp_avg_sq"], 0.5 * v)
    assert not torch.allclose(slot["frame"]["basis"].abs(), basis.abs(), atol=1e-3)


@pytest.mark.exact("Conda")
def test_scale_is_of_matrices_alone(hand):
    parameters, gradients = hand.given([(6, 4), (5,)], 1)
    steps = []
    for scale in (1.0, 0.25):
        copied = like(parameters)
        hand.drive(rg.Conda(lr=0.05, scale=scale), copied, gradients)
        steps.append([p.detach() - parameters[name].detach() for name, p in copied.items()])
    torch.testing.assert_close(steps[1][0], 0.25 * steps[0][0], rtol=0, atol=1e-14)
    assert torch.equal(steps[1][1], steps[0][1])


def test_a_gradient_of_zero_moves_nothing(hand):
    parameters, _ = hand.given([(4, 3), (3,)], 1)
    before = like(parameters)
    hand.drive(rg.Conda(lr=0.1, every=1), parameters, [tuple(torch.zeros_like(p) for p in parameters.values())] * 3)
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())


@pytest.mark.exact("Conda")
def test_weights_of_half_precision_have_moments_and_frame_of_more(hand):
    """As the same weights in float32 move, to what eight bits hold of it."""
    parameters, gradients = hand.given([(6, 4)], 3, torch.bfloat16)
    more = {"p0": nn.Parameter(parameters["p0"].detach().float())}
    state = hand.drive(rg.Conda(lr=0.01, every=2), parameters, gradients)
    hand.drive(rg.Conda(lr=0.01, every=2), more, [(g.float(),) for (g,) in gradients])
    slot = state["slots"]["p0"]
    assert slot["frame"]["basis"].dtype == slot["exp_avg_sq"].dtype == torch.float32
    assert (parameters["p0"].float() - more["p0"]).abs().max() < 0.02


@pytest.mark.exact("Conda")
def test_it_is_that_of_pytorch_optimizer(hand):
    """With one frame for all updates: theirs makes a new one on updates 1, gap, 2 gap ..., the authors' on 1, gap + 1.

    Kernels of convolutions are left out, which theirs gives to plain Adam. Both decompose in float32.
    """
    reference = pytest.importorskip("pytorch_optimizer").Conda
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1, "scale": 0.5}
    parameters, gradients = hand.given([(8, 5), (5, 8), (6, 6), (5,)], 100, torch.float32)
    expected = hand.drive_torch(lambda ps: reference(ps, update_proj_gap=2000, **options), parameters, gradients)
    hand.drive(rg.Conda(every=2000, **options), parameters, gradients)
    assert farthest(parameters, expected) < 1e-6


def test_carried_into_a_wider_network_the_frame_is_made_anew():
    """Rows of an orthogonal matrix, repeated, would be no frame."""
    rule = rg.groups.muon(rg.Conda(lr=0.01), rest=rg.AdamW(lr=0.01))
    phases = [rg.Phase("small"), rg.Phase("large", on_entry=rg.GrowWidth(16), carry=["model", "optimizer"])]
    phases = [phase.replace("budget", "50%") for phase in phases]
    run = rg.Run(tiny.workload("transformer"), rg.Regime(phases, optimizer=rule, batch_size=6, budget="8 steps"))
    list(run)
    for name, slot in run.states["optimizer"]["0"]["slots"].items():
        basis = slot["frame"]["basis"]
        assert slot["step"] == 8
        assert basis.shape == (16, 16), name
        torch.testing.assert_close(basis.T @ basis, torch.eye(16), rtol=0, atol=1e-5)
