"""The hinge loss against its formula and torch's."""

import pytest
import torch

import regimes as rg


@pytest.mark.exact("Hinge")
@pytest.mark.parametrize("scale", [1.0, 0.1, 300.0])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_it_is_the_formula_with_classes_written_either_way(scale, low):
    draw = torch.Generator().manual_seed(0)
    output = torch.randn(50, 1, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.where(torch.randn(50, 1, generator=draw) > 0, 1.0, -1.0)
    target = torch.where(y > 0, 1.0, low)
    found = rg.Hinge(scale).per_unit(output, target).values
    assert found.tolist() == pytest.approx(
        [max(0.0, 1 - a * b) / scale for a, b in zip(y[:, 0].tolist(), output[:, 0].tolist())], rel=1e-14
    )
    (g,) = torch.autograd.grad(found.sum(), output)
    assert g[:, 0].tolist() == pytest.approx(
        [-a / scale if a * b < 1 else 0.0 for a, b in zip(y[:, 0].tolist(), output[:, 0].tolist())]
    )


@pytest.mark.exact("Hinge")
def test_it_is_torchs_multi_margin_of_the_output_and_its_negative_halved():
    """With the scores (-o/2, o/2) the margin of the right class is y o: torch divides by the number of classes."""
    output, target = torch.randn(40, 1, dtype=torch.float64), torch.randint(0, 2, (40,))
    torchs = torch.nn.functional.multi_margin_loss(torch.cat([-output, output], 1) / 2, target, reduction="none")
    found = rg.Hinge().per_unit(output, target[:, None].double()).values
    torch.testing.assert_close(found, 2 * torchs, rtol=1e-14, atol=1e-15)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(rg.DeclarationError, match="same shape"):
        rg.Hinge().per_unit(torch.zeros(3, 1), torch.zeros(3))
