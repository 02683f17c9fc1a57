"""NorMuon against its formulas, Muon, closed forms and pytorch_optimizer; Muon against its own formula in float64."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.testing.conformance import tiny

SHAPES = [(8, 5), (5, 8), (6, 6), (1, 7), (7, 1), (6, 2, 2, 3)]
EXACT = {"iteration_dtype": "float64"}


def polar(matrix, steps, eps):
    """The quintic iteration on the singular values, which is what the products of matrices come to."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / max(s.norm().item(), eps)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


def muon(parameters, gradients, lr, mu, decay, nesterov=True, matched=False, steps=5, beta2=None):
    """Muon as the authors print it, and with beta2 what NorMuon does to the rows."""
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    b = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros(len(w), dtype=w.dtype) for name, w in weights.items()}
    for given in gradients:
        for (name, w), g in zip(weights.items(), given):
            b[name] = mu * b[name] + (1 - mu) * g
            u = ((1 - mu) * g + mu * b[name] if nesterov else b[name]).reshape(len(w), -1)
            rows, columns = u.shape
            scale = 0.2 * max(rows, columns) ** 0.5 if matched else max(1.0, rows / columns) ** 0.5
            o = polar(u, steps, 1e-7)
            if beta2 is not None:
                v[name] = beta2 * v[name] + (1 - beta2) * (o**2).mean(1)
                n = o / (v[name].sqrt() + 1e-10)[:, None]
                length = 0.2 * (rows * columns) ** 0.5 / scale if matched else o.norm()
                o = n * length / (n.norm() + 1e-10)
            weights[name] = (1 - lr * decay) * w - lr * scale * o.reshape(w.shape)
    return weights


def farthest(parameters, expected):
    return max((p.detach() - expected[name]).abs().max().item() for name, p in parameters.items())


def stepped(rule, gradient, slot=None):
    """What one update takes from weights of zero, as a matrix."""
    p = torch.zeros_like(gradient)
    rule.update(p, gradient, rule.slots(p) if slot is None else slot, 1)
    return -p.reshape(len(p), -1)


def plain(rule, **options):
    return rule(lr=1.0, weight_decay=0.0, **options, **EXACT)


@pytest.mark.exact("Muon")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
def test_a_plain_twin_of_muon_makes_the_same_steps(hand, nesterov, adjust_lr):
    """100 steps in float64."""
    parameters, gradients = hand.given(SHAPES, 100)
    expected = muon(parameters, gradients, 0.05, 0.9, 0.1, nesterov, adjust_lr != "original")
    rule = rg.Muon(lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=nesterov, adjust_lr=adjust_lr, **EXACT)
    hand.drive(rule, parameters, gradients)
    assert farthest(parameters, expected) < 1e-10


@pytest.mark.exact("Muon")
@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (9, 4)])
def test_the_cubic_iteration_ends_at_the_polar_factor(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rule = plain(rg.Muon, momentum=0.0, ns_coefficients=(1.5, -0.5, 0.0), ns_steps=40, adjust_lr="original")
    expected = max(1.0, shape[0] / shape[1]) ** 0.5 * u @ v
    torch.testing.assert_close(stepped(rule, matrix), expected, rtol=0, atol=1e-10)


@pytest.mark.exact("Muon")
@pytest.mark.parametrize("shape", [(4, 4), (4, 9), (1, 3)])
def test_the_matrix_on_its_side_moves_on_its_side(shape):
    """With the factor that is alike for both."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    rule = plain(rg.Muon, adjust_lr="match_rms_adamw")
    torch.testing.assert_close(stepped(rule, matrix.T.contiguous()), stepped(rule, matrix).T, rtol=0, atol=1e-12)


@pytest.mark.exact("Muon")
@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_of_rank_one_it_is_the_outer_product_of_unit_vectors(size):
    """Times the polynomial at 1, five times over; of one number, its sign."""
    left, right = (torch.tensor(v, dtype=torch.float64) for v in ([2.0, -1.0, 2.0], [0.6, -0.8, 0.0, 0.0]))
    s = 1.0
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = s * torch.outer(left / 3.0, right)
    torch.testing.assert_close(stepped(plain(rg.Muon), size * torch.outer(left, right)), expected, rtol=0, atol=1e-12)
    one = stepped(plain(rg.Muon), torch.tensor([[-size]], dtype=torch.float64))
    torch.testing.assert_close(one, torch.tensor([[-s]], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.exact("NorMuon")
@pytest.mark.parametrize("beta2", [0.0, 0.8, 0.95])
@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
def test_a_plain_twin_of_normuon_makes_the_same_steps(hand, beta2, adjust_lr):
    """100 steps in float64; "original" as the authors' code scales, "match_rms_adamw" as their paper does."""
    parameters, gradients = hand.given(SHAPES, 100)
    expected = muon(parameters, gradients, 0.05, 0.9, 0.1, matched=adjust_lr != "original", beta2=beta2)
    rule = rg.NorMuon(lr=0.05, momentum=0.9, weight_decay=0.1, beta2=beta2, adjust_lr=adjust_lr, **EXACT)
    hand.drive(rule, parameters, gradients)
    assert farthest(parameters, expected) < 1e-10


@pytest.mark.exact("NorMuon")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.95])
def test_the_first_step_has_rows_of_one_length_and_muons_length(shape, beta2):
    """Whatever beta_2: v is then (1 - beta_2) times the rows' own mean square."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    step, muons = stepped(plain(rg.NorMuon, beta2=beta2), gradient), stepped(plain(rg.Muon), gradient)
    rows = step.norm(dim=1)
    torch.testing.assert_close(rows, rows[:1].expand_as(rows), rtol=1e-7, atol=0)  # 1e-10 beside a root of 0.003
    torch.testing.assert_close(step.norm(), muons.norm(), rtol=1e-8, atol=0)


@pytest.mark.exact("NorMuon")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_is_as_long_as_muons_or_has_the_root_mean_square_of_the_paper(hand, shape):
    parameters, gradients = hand.given([shape], 20)
    p = parameters["p0"].detach()
    slots = {rule: plain(rule).slots(p) for rule in (rg.NorMuon, rg.Muon)}
    matched = plain(rg.NorMuon, adjust_lr="match_rms_adamw")
    own = matched.slots(p)
    for (g,) in gradients:
        normed, muons = (stepped(plain(rule), g, slot) for rule, slot in slots.items())
        torch.testing.assert_close(normed.norm(), muons.norm(), rtol=1e-8, atol=0)
        rms = stepped(matched, g, own).square().mean().sqrt()
        torch.testing.assert_close(rms, torch.tensor(0.2, dtype=torch.float64), rtol=1e-8, atol=0)


@pytest.mark.exact("NorMuon")
def test_where_rows_have_one_length_anyway_it_is_muon(hand):
    """Gradients along one square orthogonal matrix: the iteration returns a multiple of it."""
    draw = torch.Generator().manual_seed(4)
    q = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64))[0]
    gradients = [(size * q,) for size in torch.rand(30, generator=draw, dtype=torch.float64).add(0.1)]
    ours = {"p0": nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))}
    muons = {"p0": nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))}
    hand.drive(rg.NorMuon(lr=0.1, weight_decay=0.1, **EXACT), ours, gradients)
    hand.drive(rg.Muon(lr=0.1, weight_decay=0.1, **EXACT), muons, gradients)
    assert farthest(ours, muons) < 1e-9
    assert muons["p0"].norm() > 1.0


@pytest.mark.exact("NorMuon")
@pytest.mark.parametrize("factor", [2.0**-9, 2.0**11])
def test_the_gradients_size_does_not_change_the_first_step(factor):
    """To the bit, for powers of two."""
    gradient = torch.randn(5, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(stepped(rg.NorMuon(), gradient), stepped(rg.NorMuon(), factor * gradient))


@pytest.mark.exact("NorMuon")
@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
def test_rows_of_zeros_stay_and_no_gradient_moves_nothing(adjust_lr):
    """0 / 0 would reach the weights."""
    rule = rg.NorMuon(lr=1.0, adjust_lr=adjust_lr)
    gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(6))
    gradient[2] = 0.0
    step = stepped(rule, gradient)
    assert torch.equal(step[2], torch.zeros(6))
    assert bool((step[[0, 1, 3]].norm(dim=1) > 0.0).all())
    assert torch.equal(stepped(rule, torch.zeros(4, 6)), torch.zeros(4, 6))


@pytest.mark.exact("NorMuon")
def test_rows_of_a_convolution_are_its_output_channels(hand):
    """Those of the flattened matrix; the authors' code takes lines of kernels, of which there are others."""
    parameters, gradients = hand.given([(8, 2, 2, 2)], 12)
    flat = {"p0": nn.Parameter(parameters["p0"].detach().clone().view(8, 8))}
    rule = rg.NorMuon(lr=0.1, weight_decay=0.1)
    hand.drive(rule, flat, [(g[0].view(8, 8),) for g in gradients])
    state = hand.drive(rule, parameters, gradients)
    assert torch.equal(parameters["p0"].view(8, 8), flat["p0"])
    assert state["slots"]["p0"]["second_momentum_buffer"].shape == (8, 1, 1, 1)


@pytest.mark.exact("NorMuon")
@pytest.mark.parametrize("scale", ["preserve_norm", "match_rms"])
def test_it_is_that_of_pytorch_optimizer(hand, scale):
    """Both iterate in bfloat16, on float32 weights."""
    reference = pytest.importorskip("pytorch_optimizer").NorMuon
    options = {"lr": 0.05, "momentum": 0.9, "beta2": 0.8, "weight_decay": 0.1}
    parameters, gradients = hand.given([(8, 5), (5, 8), (6, 2, 2, 3)], 100, torch.float32)
    expected = hand.drive_torch(
        lambda ps: reference([{"params": ps, "use_muon": True}], update_scale=scale, **options), parameters, gradients
    )
    adjust_lr = {"preserve_norm": "original", "match_rms": "match_rms_adamw"}[scale]
    hand.drive(rg.NorMuon(iteration_dtype="bfloat16", adjust_lr=adjust_lr, **options), parameters, gradients)
    assert farthest(parameters, expected) < 1e-6


def test_a_vector_is_refused_with_the_way_out(hand):
    regime = rg.Regime(optimizer=rg.NorMuon(), batch_size=8, budget="3 steps")
    with pytest.raises(rg.DeclarationError, match=r"NorMuon updates matrices, .*'0.bias'.*rg.groups.muon\(NorMuon"):
        rg.Run(hand.workload(), regime)


def test_carried_into_a_wider_network_v_follows_its_rows():
    """Rows that begin as an old one begin with its number, however many columns are new."""
    rule = rg.groups.muon(rg.NorMuon(lr=0.01), rest=rg.AdamW(lr=0.01))
    phases = [rg.Phase("small"), rg.Phase("large", on_entry=rg.GrowWidth(16), carry=["model", "optimizer"])]
    phases = [phase.replace("budget", "50%") for phase in phases]
    run = rg.Run(tiny.workload("transformer"), rg.Regime(phases, optimizer=rule, batch_size=6, budget="8 steps"))
    name = "blocks.0.mlp.up.weight"  # (32, 8), then (64, 16)
    while (slot := run.states["optimizer"]["0"]["slots"][name])["momentum_buffer"].shape == (32, 8):
        old = slot["second_momentum_buffer"]  # moved in place up to the seam
        run.step()
    assert slot["momentum_buffer"].shape == (64, 16)
    assert slot["second_momentum_buffer"].shape == (64, 1)
    assert len(old.unique()) == 32
    assert torch.isin(slot["second_momentum_buffer"], old).all()
    list(run)
