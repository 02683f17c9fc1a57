"""Products with the Hessian against the explicit one that torch builds row by row, in float64."""

import pytest
import torch
from torch.nn import functional

from regimes.core.curvature import HessianProducts


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


INPUTS, LABELS = numbers(20, 3), torch.arange(20) % 3


def net(w, b, v):
    return functional.cross_entropy(torch.tanh(INPUTS @ w.T + b) @ v.T, LABELS)


def unreached(w, extra, v):
    return functional.cross_entropy(torch.tanh(INPUTS @ w.T) @ v.T, LABELS)


def partly_linear(w, b):
    """The gradient of b has no graph."""
    return (INPUTS @ w).square().mean() + b.sum()


def tied(w, b):
    """Both layers use w."""
    return functional.cross_entropy(torch.tanh(INPUTS @ w + b) @ w.T, LABELS)


def attention(w):
    q, k, v = (INPUTS @ w).view(1, 2, 10, 24).chunk(3, dim=-1)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).square().mean()


def linear(w, b):
    return (INPUTS @ w).mean() + 2.0 * b.sum()


LOSSES = {
    "net": (net, [(4, 3), (4,), (3, 4)]),
    "unreached": (unreached, [(4, 3), (2, 2), (3, 4)]),
    "partly_linear": (partly_linear, [(3,), (2,)]),
    "tied": (tied, [(3, 3), (3,)]),
    "attention": (attention, [(3, 24)]),
    "linear": (linear, [(3,), (2, 2)]),
}


def leaves_of(name):
    return [numbers(*shape, seed=place + 1).requires_grad_() for place, shape in enumerate(LOSSES[name][1])]


def explicit(name, leaves):
    """Gradient and Hessian of the loss as a function of one flat vector."""

    def loss(flat):
        pieces = flat.split([leaf.numel() for leaf in leaves])
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return LOSSES[name][0](*(piece.view_as(leaf) for piece, leaf in zip(pieces, leaves)))

    flat = torch.cat([leaf.detach().reshape(-1) for leaf in leaves])
    return torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("name", LOSSES)
def test_product_equals_the_explicit_hessian_times_the_vector(name):
    leaves = leaves_of(name)
    gradient, matrix = explicit(name, leaves)
    assert (name == "linear") == (matrix.abs().max() == 0.0)
    hessian = HessianProducts(lambda: LOSSES[name][0](*leaves), leaves)
    torch.testing.assert_close(hessian.gradient, gradient, rtol=0, atol=1e-12)
    vectors = numbers(5, len(gradient), seed=9)
    torch.testing.assert_close(hessian(vectors[0]), matrix @ vectors[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(hessian(vectors), vectors @ matrix.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(hessian(torch.eye(len(gradient), dtype=torch.float64)), matrix, rtol=0, atol=1e-10)


def test_rows_of_a_block_are_the_single_products_to_the_bit():
    leaves = leaves_of("net")
    hessian = HessianProducts(lambda: net(*leaves), leaves)
    vectors = numbers(3, len(hessian.gradient))
    assert torch.equal(hessian(vectors), torch.stack([hessian(vector) for vector in vectors]))
    assert hessian(vectors[:0]).shape == (0, len(hessian.gradient))


def test_the_loss_is_called_once_and_nothing_keeps_a_graph_or_a_gradient():
    leaves, calls = leaves_of("net"), []
    hessian = HessianProducts(lambda: calls.append(1) or net(*leaves), leaves)
    vector = torch.ones_like(hessian.gradient)
    found = [hessian.gradient, hessian(vector), hessian(vector.repeat(2, 1))]
    assert len(calls) == 1
    assert not any(value.requires_grad for value in found)
    assert all(leaf.grad is None for leaf in leaves)
