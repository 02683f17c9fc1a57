"""Sharpness beside the extreme eigenvalues that scipy finds of curvlinops' Hessian, in float64."""

import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

import regimes as rg

curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed: pip install 'regimes[parity]'")


@pytest.mark.exact("Sharpness")
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=lambda loss: type(loss).__name__)
def test_the_extreme_eigenvalues_of_the_hessian(loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(64, 6, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    y = nn.functional.one_hot(y, 3).double() if isinstance(loss, nn.MSELoss) else y
    found = rg.Sharpness(top=2, bottom=1, iterations=80, tolerance=1e-10)(
        model, lambda m, b: loss(m(b[0]), b[1]), (x, y)
    )
    operator = curvlinops.HessianLinearOperator(model, loss, list(model.parameters()), [(x, y)]).to_scipy()
    low, (second, high) = eigsh(operator, k=1, which="SA")[0], eigsh(operator, k=2, which="LA")[0]
    assert [found[name] for name in ("", "top_2", "bottom_1")] == pytest.approx([high, second, low[0]], rel=1e-6)
    assert low[0] < -1e-3
    assert high > second + 1e-3
