"""Muon against torch.optim.Muon, and its iteration against the singular values it must produce."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.optimizers.orthogonal.newton_schulz import newton_schulz

SHAPES = [(8, 5), (5, 8), (6, 6)]
OPTIONS = [
    {},
    {"adjust_lr": "match_rms_adamw", "weight_decay": 0.0},
    {"nesterov": False, "momentum": 0.8, "ns_steps": 3},
]


def torch_names(options):
    return {{"adjust_lr": "adjust_lr_fn"}.get(name, name): value for name, value in options.items()}


@pytest.mark.exact("Muon")
@pytest.mark.parametrize("options", OPTIONS)
def test_bfloat16_iteration_has_the_bits_of_torch(hand, options):
    parameters, gradients = hand.given(SHAPES, 12, torch.float32)
    expected = hand.drive_torch(lambda ps: torch.optim.Muon(ps, **torch_names(options)), parameters, gradients)
    hand.drive(rg.Muon(iteration_dtype="bfloat16", **options), parameters, gradients)
    for name, p in parameters.items():
        assert torch.equal(p, expected[name])


@pytest.mark.exact("Muon")
def test_float32_iteration_is_what_bfloat16_approximates(hand):
    """Both orthogonalize; 8 bits of mantissa leave about one percent."""
    matrix = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    fine, coarse = newton_schulz(matrix), newton_schulz(matrix, dtype=torch.bfloat16)
    assert 1e-4 < (fine - coarse.float()).abs().max() < 0.03


@pytest.mark.exact("Muon")
@pytest.mark.parametrize("shape", [*SHAPES, (1, 7)])
def test_iteration_moves_singular_values_by_its_polynomial(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    got = newton_schulz(matrix, dtype=torch.float64)
    torch.testing.assert_close(got, u @ torch.diag(s) @ v, rtol=1e-11, atol=1e-11)


@pytest.mark.exact("Muon")
@pytest.mark.parametrize("shape", [(48, 48), (32, 48), (24, 96), (96, 24)])
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4])
def test_float32_is_as_far_from_the_polar_factor_as_its_polynomial(shape, smallest):
    """Of U S V^T the iteration makes U p(S) V^T: max |p(s) - 1| from U V^T, whatever way the products are taken."""
    draw, rank = torch.Generator().manual_seed(2), min(shape)
    u, v = (torch.linalg.qr(torch.randn(n, rank, generator=draw, dtype=torch.float64))[0] for n in shape)
    s = torch.logspace(0, math.log10(smallest), rank, dtype=torch.float64)
    moved = s / s.norm()
    for _ in range(5):
        moved = 3.4445 * moved - 4.7750 * moved**3 + 2.0315 * moved**5
    got = newton_schulz((u * s @ v.T).float()).double()
    torch.testing.assert_close(got, u * moved @ v.T, rtol=0, atol=1e-5)
    distance = torch.linalg.matrix_norm(got - u @ v.T, 2)
    torch.testing.assert_close(distance, (moved - 1.0).abs().max(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("shape", [(5, 20), (20, 5)])
def test_products_of_the_smaller_side_are_the_same_polynomial(shape, steps):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(newton_schulz(matrix, steps, dtype=torch.float64), u * s @ v, rtol=0, atol=1e-12)


def test_iteration_does_not_change_its_argument():
    matrix = torch.randn(4, 3)
    kept = matrix.clone()
    newton_schulz(matrix)
    assert torch.equal(matrix, kept)


@pytest.mark.exact("Muon")
def test_convolution_is_its_flattened_matrix(hand):
    """(out, in, height, width) is scaled and orthogonalized as (out, in * height * width)."""
    parameters, gradients = hand.given([(16, 2, 2, 2)], 4, torch.float32)
    flat = {"p0": nn.Parameter(parameters["p0"].detach().clone().view(16, 8))}
    rule = rg.Muon(lr=0.1)
    hand.drive(rule, flat, [(g[0].view(16, 8),) for g in gradients])
    hand.drive(rule, parameters, gradients)
    assert torch.equal(parameters["p0"].view(16, 8), flat["p0"])


@pytest.mark.exact("Muon")
def test_scale_follows_the_flattened_shape(hand):
    """RMS of the first update is lr sqrt(max(1, out / rest)) |NS| / sqrt(numel), not that of the kernel's width."""
    parameters, gradients = hand.given([(16, 1, 2, 2)], 1, torch.float32)
    before = parameters["p0"].detach().clone()
    hand.drive(rg.Muon(lr=0.1, weight_decay=0.0, nesterov=False), parameters, gradients)
    expected = 0.1 * math.sqrt(16 / 4) * newton_schulz(gradients[0][0].reshape(16, 4))
    torch.testing.assert_close(before - parameters["p0"].detach(), expected.reshape(16, 1, 2, 2), rtol=1e-5, atol=1e-6)


def test_vector_is_refused_with_the_way_out(hand):
    regime = rg.Regime(optimizer=rg.Muon(), batch_size=8, budget="3 steps")
    with pytest.raises(rg.DeclarationError, match=r"'0.bias' has the shape \(8,\).*rg.groups.muon\(Muon"):
        rg.Run(hand.workload(), regime)


def test_engine_gives_matrices_to_muon_and_the_rest_to_adamw(hand):
    """Bits of two torch optimizers side by side; the head is not hidden and belongs to the rest."""
    rule = rg.groups.muon(rg.Muon(lr=0.02, iteration_dtype="bfloat16"), rest=rg.AdamW(lr=0.01))
    regime = rg.Regime(optimizer=rule, batch_size=16, budget="10 steps")

    class Both:
        def __init__(self, parameters):
            hidden, *rest = parameters
            self.two = torch.optim.Muon([hidden], lr=0.02), torch.optim.AdamW(rest, lr=0.01, fused=True)

        def zero_grad(self):
            [optimizer.zero_grad() for optimizer in self.two]

        def step(self):
            [optimizer.step() for optimizer in self.two]

    for run, twin in hand.beside(regime, Both):
        assert all(torch.equal(p, q) for p, q in zip(run.parameters.values(), twin.parameters()))
    assert run.states["optimizer"]["owned"] == [["0.weight"], ["0.bias", "2.weight", "2.bias"]]
