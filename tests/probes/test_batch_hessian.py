"""Eigenvalues by batch size against explicit Hessians; the limit of spiked matrices; the heavy ball's constants."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.testing.conformance import tiny


def mean_loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def batch_of(n=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=g, dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def top(model, batch):
    """Of the Hessian as torch builds it row by row."""
    named = dict(model.named_parameters())

    def loss(flat):
        pieces = flat.split([p.numel() for p in named.values()])
        values = {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces)}
        return functional.cross_entropy(torch.func.functional_call(model, values, (batch[0],)), batch[1])

    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1].item()


@pytest.mark.exact("BatchHessianSpectrum")
def test_with_as_many_products_as_parameters_it_is_that_of_explicit_hessians():
    model, (x, y) = net(), batch_of()
    found = rg.BatchHessianSpectrum(sizes=(3, 8), batches=4, iterations=27)(model, mean_loss, (x, y))
    whole = top(model, (x, y))
    means = {}
    for size, count in ((3, 4), (8, 3)):
        tops = [top(model, (x[i * size : (i + 1) * size], y[i * size : (i + 1) * size])) for i in range(count)]
        means[size] = sum(tops) / count
    slope = np.linalg.lstsq(np.array([[1 / 3], [1 / 8]]), np.array([means[3] - whole, means[8] - whole]), rcond=None)
    assert found == {
        "": pytest.approx(whole, rel=1e-6),
        "batch_3": pytest.approx(means[3], rel=1e-6),
        "batch_8": pytest.approx(means[8], rel=1e-6),
        "excess": pytest.approx(slope[0][0], rel=1e-5),
    }
    assert means[3] > whole


@pytest.mark.exact("BatchHessianSpectrum")
def test_where_all_examples_are_alike_there_is_no_excess():
    x, y = batch_of(1)
    batch = (x.expand(24, 4).contiguous(), y.expand(24).contiguous())
    found = rg.BatchHessianSpectrum(sizes=(2, 4), iterations=27)(net(), mean_loss, batch)
    assert found["batch_2"] == pytest.approx(found[""], rel=1e-10)
    assert found["batch_4"] == pytest.approx(found[""], rel=1e-10)
    assert found["excess"] == pytest.approx(0.0, abs=1e-10)


@pytest.mark.exact("BatchHessianSpectrum")
def test_an_excess_of_c_over_b_is_found_exactly():
    """Curvatures are set by batch: the loss is half w^2 times a number that the batch brings."""
    model = nn.Linear(1, 1, bias=False).double()

    asked = []

    def batches(count, size):
        asked.append((count, size))
        return [torch.full((size, 1), 2.0 + (0.0 if count == 1 else 5.0 / size), dtype=torch.float64)] * count

    found = rg.BatchHessianSpectrum(sizes=(2, 4, 10))(
        model, lambda m, c: (m.weight.square() * c / 2).mean(), batches(1, 20)[0], batches=batches
    )
    assert found == pytest.approx({"": 2.0, "batch_2": 4.5, "batch_4": 3.25, "batch_10": 2.5, "excess": 5.0}, rel=1e-12)
    assert asked[1:] == [(1, 1024), (12, 2), (12, 4), (12, 10)]


@pytest.mark.exact("BatchHessianSpectrum")
def test_sizes_above_half_of_the_large_batch_are_left_out():
    found = rg.BatchHessianSpectrum(sizes=(8, 12, 13, 50))(net(), mean_loss, batch_of())
    assert list(found) == ["", "batch_8", "batch_12", "excess"]
    with pytest.raises(rg.DeclarationError, match=r"sizes: got \[13\]; allowed: at most 12 here"):
        rg.BatchHessianSpectrum(sizes=13)(net(), mean_loss, batch_of())
    with pytest.raises(rg.DeclarationError, match="sizes: got no size"):
        rg.BatchHessianSpectrum(sizes=())


@pytest.mark.exact("BatchHessianSpectrum")
def test_in_a_run_batches_are_the_same_every_time():
    """At rate 0 a model without dropout has the same curvature at every step; sizes are of the training data."""
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=6, budget="3 steps")
    probe = rg.BatchHessianSpectrum(sizes=(4, 8), every="1 steps")
    found = [r.signals for r in rg.stream(tiny.workload("classes"), regime, probes=[probe])]
    for name in ("batch_hessian_spectrum", "batch_hessian_spectrum/batch_4", "batch_hessian_spectrum/batch_8"):
        assert [s[name] for s in found] == [found[0][name]] * 3


# -- the limit ------------------------------------------------------------------------------------------------------


@pytest.mark.exact("BatchHessianSpectrum")
@pytest.mark.parametrize("theta", [1.01, 1.5, 4.0])
@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_a_spike_solves_the_equation_of_the_semicircle(theta, sigma):
    """G(z) = 1 / theta, with G the transform of the semicircle law that ends at 2 sigma."""
    z = rg.spiked_eigenvalue(theta * sigma, sigma)
    transform = (z - math.sqrt(z**2 - 4 * sigma**2)) / (2 * sigma**2)
    assert transform == pytest.approx(1 / (theta * sigma), rel=1e-7)
    assert rg.spiked_eigenvalue(theta * sigma, 0.0) == theta * sigma


@pytest.mark.exact("BatchHessianSpectrum")
def test_below_the_noise_it_is_the_edge_and_the_two_meet():
    assert rg.spiked_eigenvalue(0.2, 0.5) == rg.spiked_eigenvalue(-3.0, 0.5) == 1.0
    assert rg.spiked_eigenvalue(0.5 + 1e-9, 0.5) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.exact("BatchHessianSpectrum")
@pytest.mark.parametrize("theta", [1.5, 3.0])
def test_spiked_matrices_have_that_eigenvalue(theta):
    """Ten of 400 x 400; the eigenvalue's variance is 2 (1 - 1 / theta^2) / n, and four standard errors are allowed."""
    n, g, tops = 400, np.random.default_rng(0), []
    for _ in range(10):
        noise = g.normal(size=(n, n))
        matrix = (noise + noise.T) / math.sqrt(2 * n)
        matrix[0, 0] += theta
        tops.append(np.linalg.eigvalsh(matrix)[-1])
    error = math.sqrt(2 * (1 - theta**-2) / n / 10)
    assert np.mean(tops) == pytest.approx(rg.spiked_eigenvalue(theta, 1.0), abs=4 * error)


# -- the heavy ball -------------------------------------------------------------------------------------------------


def radius(eta, mu, eigenvalues):
    """Largest factor by which an error shrinks a step, of the worst eigenvalue."""
    return max(
        np.abs(np.linalg.eigvals(np.array([[1 + mu - eta * value, -mu], [1.0, 0.0]]))).max() for value in eigenvalues
    )


@pytest.mark.exact("BatchHessianSpectrum")
@pytest.mark.parametrize(("low", "high"), [(1.0, 9.0), (0.1, 50.0)])
def test_no_other_rate_and_momentum_shrink_a_quadratic_faster(low, high):
    eigenvalues = np.geomspace(low, high, 7)
    eta, mu = rg.heavy_ball(low, high)
    best = radius(eta, mu, eigenvalues)
    assert best == pytest.approx(math.sqrt(mu), rel=1e-6)
    for a in (0.8, 0.95, 0.99, 1.0, 1.01, 1.05, 1.2):
        for b in (0.8, 0.95, 0.99, 1.0, 1.01, 1.05, 1.2):
            if (a, b) != (1.0, 1.0) and b * mu < 1:
                assert radius(a * eta, b * mu, eigenvalues) > best
    assert rg.heavy_ball(2.0, 2.0) == (pytest.approx(0.5), 0.0)


@pytest.mark.exact("BatchHessianSpectrum")
def test_in_torchs_sgd_the_error_falls_by_the_root_of_the_momentum():
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    curvature = torch.tensor([1.0, 9.0], dtype=torch.float64)
    eta, mu = rg.heavy_ball(1.0, 9.0)
    optimizer, sizes = torch.optim.SGD([w], lr=eta, momentum=mu), []
    for _ in range(100):
        optimizer.zero_grad()
        (curvature * w.square()).sum().div(2).backward()
        optimizer.step()
        sizes.append(w.detach().norm().item())
    # Both eigenvalues are double ones: errors are (a + b t) r^t, so the ratio nears r as 1 + 1 / t.
    assert sizes[99] / sizes[98] == pytest.approx(math.sqrt(mu) * (1 + 1 / 100), rel=2e-3)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0)])
def test_eigenvalues_that_are_none_of_a_convex_quadratic_are_refused(bounds):
    with pytest.raises(rg.DeclarationError, match="smallest: got"):
        rg.heavy_ball(*bounds)


@pytest.mark.exact("scale_batch")
def test_the_root_rule_at_twice_the_batch():
    regime = rg.Regime(optimizer=rg.AdamW(lr=0.1), batch_size=32, budget="64 steps")
    assert rg.scale_batch(regime, 4, "sqrt").regime.optimizer.lr == 0.2
