"""Sharpness against eigenvalues of explicit Hessians, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.probes.sharpness import lanczos
from regimes.probes.view import View
from regimes.workloads.quadratic import half_squared_norm, quadratic


def mean_loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def batch_of(n=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g, dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def trained(net, steps=60):
    torch.manual_seed(0)
    model = net().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        mean_loss(model, batch_of()).backward()
        optimizer.step()
    return model


def explicit_eigenvalues(model, batch):
    """Of the Hessian as torch builds it row by row, in the model's mode, with the probe's dropout masks."""
    parameters = dict(model.named_parameters())
    buffers = {name: b.clone() for name, b in model.named_buffers()}

    def loss(flat):
        pieces = flat.split([p.numel() for p in parameters.values()])
        values = {name: piece.view_as(p) for (name, p), piece in zip(parameters.items(), pieces)}
        torch.manual_seed(0)
        return functional.cross_entropy(
            torch.func.functional_call(model, (values, dict(buffers)), (batch[0],)), batch[1]
        )

    flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))


NETS = {
    "tanh": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)),
    "norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_eigenvalue_of_the_explicit_hessian(name, training):
    model, batch = trained(NETS[name]).train(training), batch_of()
    true = explicit_eigenvalues(model, batch)
    found = rg.Sharpness()(model, mean_loss, batch)
    assert found[""] == pytest.approx(true[-1].item(), rel=1e-5)
    assert found["iterations"] <= 10


def test_several_extreme_eigenvalues():
    model, batch = trained(NETS["tanh"]), batch_of()
    true = explicit_eigenvalues(model, batch).tolist()
    found = rg.Sharpness(top=3, bottom=2, iterations=60)(model, mean_loss, batch)
    assert [found[key] for key in ("", "top_2", "top_3")] == pytest.approx(true[:-4:-1], rel=1e-5)
    assert [found[key] for key in ("bottom_1", "bottom_2")] == pytest.approx(true[:2], rel=1e-5)
    assert found["error"] <= 1e-6


def test_error_bounds_what_an_early_stop_loses():
    model, batch = trained(NETS["tanh"], steps=0), batch_of()
    true = explicit_eigenvalues(model, batch)[-1].item()
    for iterations in (4, 6, 8):
        found = rg.Sharpness(iterations=iterations)(model, mean_loss, batch)
        assert found["iterations"] == iterations
        assert 0 < (true - found[""]) / true <= found["error"]


def test_error_of_a_single_product_is_its_residual():
    matrix = torch.tensor([[2.0, 3.0], [3.0, 5.0]], dtype=torch.float64)
    found = lanczos(lambda v: matrix @ v, torch.tensor([1.0, 0.0], dtype=torch.float64), 1, 1, 0, 1e-6)
    assert (found.values.tolist(), found.iterations, found.error) == ([2.0], 1, 1.5)


def test_equals_the_spectrum_of_the_quadratic_workload():
    problem = quadratic(spectrum=(3.0, 1.0, 0.1), dtype=torch.float64)
    found = rg.Sharpness(bottom=1)(problem.model(), lambda m, b: half_squared_norm(m(b)), problem.centers[:100])
    assert found[""] == pytest.approx(3.0, rel=1e-9)
    assert found["bottom_1"] == pytest.approx(0.1, rel=1e-9)
    assert found["iterations"] == 3


def test_unreached_and_linear_parameters_count_as_flat():
    model = nn.Linear(2, 1)
    model.extra = nn.Parameter(torch.ones(3))
    assert rg.Sharpness()(model, lambda m, x: m(x).mean(), torch.ones(4, 2)) == {"": 0.0, "iterations": 1, "error": 0.0}


def test_fused_attention_is_no_obstacle():
    torch.manual_seed(0)
    projection = nn.Linear(4, 12).double()

    def loss(model, x):
        q, k, v = model(x).unsqueeze(1).chunk(3, dim=-1)  # four dimensions: torch takes its fused kernel
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).square().mean()

    def plain(model, x):
        q, k, v = model(x).chunk(3, dim=-1)
        scores = (q @ k.transpose(-1, -2) / 2.0).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        return (scores.softmax(-1) @ v).square().mean()

    x = torch.randn(2, 5, 4, dtype=torch.float64)
    probe = rg.Sharpness(iterations=30)
    assert probe(projection, loss, x)[""] == pytest.approx(probe(projection, plain, x)[""], rel=1e-9)


@pytest.mark.parametrize("where", [(0.0, 1.0), (0.0, 0.0)])
def test_sharp_directions_that_the_gradient_does_not_show_are_found(where):
    """At (0, 1) the gradient of 3 a^2 + b^2 / 2 points along b alone; at the minimum there is none."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([where]))
    scale = torch.tensor([3.0, 0.5], dtype=torch.float64)
    found = rg.Sharpness()(model, lambda m, scale: (m.weight.view(-1) ** 2 * scale).sum(), scale)
    assert found[""] == pytest.approx(6.0, rel=1e-12)


def test_one_graph_serves_all_products():
    model, batch = trained(NETS["tanh"]), batch_of()
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    rg.Sharpness(iterations=8, tolerance=1e-30).measure(View(model, mean_loss, batch))
    assert len(forwards) == 1


def test_orthogonality_survives_an_operator_that_destroys_it():
    """Plain Lanczos finds copies of a dominant eigenvalue; with full reorthogonalization each comes once."""
    torch.manual_seed(0)
    values = torch.cat([torch.tensor([1e6, 1e4]), torch.linspace(0, 1, 58)]).double()
    basis = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64)).Q
    matrix = (basis * values) @ basis.T
    found = lanczos(lambda v: matrix @ v, torch.ones(60, dtype=torch.float64), 40, 3, 0, 1e-30)
    assert found.values[-2:].tolist() == pytest.approx([1e4, 1e6], rel=1e-9)
    assert found.values[-3] == pytest.approx(1.0, abs=1e-3)


def test_more_eigenvalues_than_products_are_refused():
    with pytest.raises(rg.DeclarationError, match=r"iterations: got 3 for 4 eigenvalues"):
        rg.Sharpness(top=3, bottom=1, iterations=3)
