"""The small vision transformer sees patches where they lie; two domains of digits hold the same examples."""

import torch

import regimes as rg
from regimes.workloads.digits import TinyViT


def test_patches_are_those_of_the_image():
    model = TinyViT(width=8, layers=1, heads=2)
    x = torch.randn(3, 1, 8, 8)
    seen = []
    model.patches.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x)
    for row in range(4):
        for column in range(4):
            patch = x[:, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(3, 4)
            assert torch.equal(seen[0][:, 4 * row + column], patch)


def test_without_positions_the_order_of_patches_does_not_matter():
    model = TinyViT(width=8, layers=1, heads=2).double()
    for block in model.blocks:
        torch.nn.init.normal_(block.attention.out.weight)
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    flipped = x.view(3, 1, 4, 2, 4, 2).flip(2).reshape(3, 1, 8, 8)
    assert not torch.allclose(model(x), model(flipped))
    torch.nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(x), model(flipped))


def test_the_rotated_domain_is_a_rotation_of_the_clean_one():
    job = rg.workloads.load("digits_rotated")
    clean, rotated = (source.parts for source in job.sources["train"].values())
    assert torch.equal(clean["1"], rotated["1"])
    a, b = clean["0"].flatten(1), rotated["0"].flatten(1)
    torch.testing.assert_close(a @ a.T, b @ b.T, rtol=1e-4, atol=1e-4)
    assert (a - b).norm() > a.norm()
