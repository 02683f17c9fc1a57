"""Margins in closed form on axes, against autograd's Hessian, and the radius against the operator written out."""

import pytest
import torch
from torch import nn

import regimes as rg


def half(model, batch):
    return (model(batch[0]) - batch[1]).square().mean() / 2


def axes(d, a):
    """Inputs a e_i; a linear model without bias interpolates anything."""
    model = nn.Linear(d, 1, bias=False).double()
    return model, (a * torch.eye(d, dtype=torch.float64), torch.zeros(d, 1, dtype=torch.float64))


def interpolating(seed=0, outputs=2, n=5):
    """A network, and the targets that it fits exactly."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double()
    x = torch.randn(n, 3, dtype=torch.float64)
    return model, (x, model(x).detach())


def hessian(model, batch, loss):
    named = dict(model.named_parameters())

    def at(flat):
        pieces = flat.split([p.numel() for p in named.values()])
        values = {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces)}
        return loss(lambda x: torch.func.functional_call(model, values, (x,)), batch)

    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
    return torch.autograd.functional.hessian(at, flat)


@pytest.mark.exact("StabilityMargins")
@pytest.mark.parametrize("d", [2, 7])
@pytest.mark.parametrize("share", [0.5, 0.999, 1.001, 1.5])
def test_on_axes_sgd_is_stable_up_to_the_trace_and_descent_up_to_the_eigenvalue(d, share):
    """H = (a^2 / d) I: lr tr(H) / 2 = lr a^2 / 2, and the bound is tight."""
    a = 1.7
    model, batch = axes(d, a)
    lr = share * 2 / a**2
    found = rg.StabilityMargins(lr=lr)(model, half, batch)
    assert found["trace"] == pytest.approx(share, rel=1e-12)
    assert found[""] == pytest.approx(share / d, rel=1e-12)
    assert found["frobenius"] == pytest.approx(2 * share / d**0.5, rel=1e-12)
    across, along = 1 - 4 * share / d, 1 - 4 * share / d + 4 * share**2 / d
    assert found["radius"] == pytest.approx(max(across, along), rel=1e-9)
    assert (found["radius"] < 1) == (share < 1)
    # Batches of 1000, at d times the rate, are nearly all data: the eigenvalue decides.
    large = rg.StabilityMargins(lr=d * lr, batch=1000)(model, half, batch)
    assert large[""] == pytest.approx(share, rel=1e-12)
    noisy = 1 - 4 * share + 4 * share**2 * (d / 1000 + 0.999)
    assert large["radius"] == pytest.approx(noisy, rel=1e-9)


@pytest.mark.exact("StabilityMargins")
@pytest.mark.parametrize(("scale", "loss"), [(1.0, half), (2.0, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]))])
def test_at_interpolation_the_margins_are_those_of_autograds_hessian(scale, loss):
    model, batch = interpolating()
    values = torch.linalg.eigvalsh(hessian(model, batch, loss))
    found = rg.StabilityMargins(lr=0.3)(model, loss, batch)
    assert found["trace"] == pytest.approx(0.15 * values.sum().item(), rel=1e-10)
    assert found[""] == pytest.approx(0.15 * values[-1].item(), rel=1e-10)
    assert found["frobenius"] == pytest.approx(0.3 * values.norm().item(), rel=1e-10)
    assert found["trace"] == pytest.approx(scale * rg.StabilityMargins(lr=0.3)(model, half, batch)["trace"], rel=1e-10)


@pytest.mark.exact("StabilityMargins")
def test_the_trace_is_the_mean_squared_norm_of_single_gradients():
    model, (x, y) = interpolating(outputs=1)
    squares = []
    for i in range(len(x)):
        g = torch.autograd.grad(model(x[i : i + 1]).squeeze(), list(model.parameters()))
        squares.append(sum(part.square().sum().item() for part in g))
    assert rg.StabilityMargins(lr=2.0)(model, half, (x, y))["trace"] == pytest.approx(sum(squares) / 5, rel=1e-12)


@pytest.mark.exact("StabilityMargins")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("lr", [0.05, 0.4, 1.5])
def test_the_radius_is_that_of_the_operator_written_out(batch, lr):
    """E[(I - lr H_B) (x) (I - lr H_B)] as a matrix of r^2 by r^2."""
    rows = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    single = [a.T @ a for a in rows]
    mean, eye = sum(single) / 4, torch.eye(3, dtype=torch.float64)
    step = torch.eye(9, dtype=torch.float64) - lr * (torch.kron(mean, eye) + torch.kron(eye, mean))
    step += lr**2 * sum(torch.kron(h, h) for h in single) / (4 * batch) + lr**2 * (1 - 1 / batch) * torch.kron(
        mean, mean
    )
    wanted = torch.linalg.eigvals(step).abs().max().item()
    assert rg.stability_radius(rows, lr, batch) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.exact("StabilityMargins")
def test_a_batch_averages_over_all_draws_with_replacement():
    """The operator of batches of two is the mean over all pairs."""
    rows = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    single = [a.T @ a for a in rows]
    steps = [torch.eye(2, dtype=torch.float64) - 0.6 * (g + h) / 2 for g in single for h in single]
    operator = sum(torch.kron(s, s) for s in steps) / 9
    wanted = torch.linalg.eigvals(operator).abs().max().item()
    assert rg.stability_radius(rows, 0.6, 2) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.exact("StabilityMargins")
def test_directions_without_gradient_do_not_hide_that_the_rest_shrinks():
    """Twice the same example: the kernel has rank one, and the radius is that of its direction."""
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.ones(2, 3, dtype=torch.float64)
    found = rg.StabilityMargins(lr=0.1)(model, half, (x, torch.zeros(2, 1, dtype=torch.float64)))
    assert found["radius"] == pytest.approx((1 - 0.1 * 3) ** 2, rel=1e-9)
    assert rg.stability_radius(torch.zeros(2, 1, 0, dtype=torch.float64), 0.1) == 1.0


@pytest.mark.exact("StabilityMargins")
def test_cross_entropy_of_a_linear_model_has_the_margins_of_its_hessian():
    """There the Gauss-Newton part is all of the Hessian; the second derivatives of an example's outputs are no diagonal."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4)).double()
    batch = (torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1]))

    def loss(m, b):
        return nn.functional.cross_entropy(m(b[0]), b[1])

    values = torch.linalg.eigvalsh(hessian(model, batch, loss))
    found = rg.StabilityMargins(lr=0.3)(model, loss, batch)
    assert found["trace"] == pytest.approx(0.15 * values.sum().item(), rel=1e-10)
    assert found[""] == pytest.approx(0.15 * values[-1].item(), rel=1e-10)
    assert found["frobenius"] == pytest.approx(0.3 * values.norm().item(), rel=1e-10)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda m, b: m(b[0]).square().mean().neg(), "loss_fn: is not convex"),
        (lambda m, b: m[0].weight.square().mean(), "loss_fn: does not call the model"),
    ],
)
def test_what_has_no_margins_is_refused(loss, sentence):
    model, batch = interpolating()
    with pytest.raises(rg.DeclarationError, match=sentence):
        rg.StabilityMargins(lr=0.1)(model, loss, batch)


@pytest.mark.exact("StabilityMargins")
def test_where_the_loss_is_flat_nothing_moves():
    model, batch = interpolating()
    found = rg.StabilityMargins(lr=0.1)(model, lambda m, b: m(b[0]).mean(), batch)
    assert found == {"": 0.0, "trace": 0.0, "frobenius": 0.0, "radius": 1.0}


@pytest.mark.exact("StabilityMargins")
def test_simulated_sgd_on_axes_ends_where_the_margin_says():
    """A batch of one on axes multiplies one coordinate by 1 - lr a^2: it shrinks up to lr a^2 = 2."""
    for share, shrinks in ((0.99, True), (1.01, False)):
        model, (x, y) = axes(3, 1.0)
        lr = 2.0 * share
        start = model.weight.detach().norm().item()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for i in range(300):
            optimizer.zero_grad()
            half(model, (x[i % 3 : i % 3 + 1], y[i % 3 : i % 3 + 1])).backward()
            optimizer.step()
        assert model.weight.detach().norm().item() == pytest.approx(start * abs(1 - lr) ** 100, rel=1e-9)
        assert (rg.StabilityMargins(lr=lr)(model, half, (x, y))["trace"] < 1) == shrinks
