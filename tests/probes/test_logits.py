"""What is said of the logits of a loss: log Z, and the worst case of the loss in a neighborhood, against brute force."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import regimes as rg

IDENTITY = nn.Identity()


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def drawn(*shape, seed=0, size=2.0):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(n, classes, seed=0, size=2.0):
    return drawn(n, classes, seed=seed, size=size), torch.arange(n) % classes


@pytest.mark.exact("LogZ")
def test_log_z_of_every_unit():
    batch = units(7, 5)
    log_z = batch[0].exp().sum(1).log()
    found = rg.LogZ()(IDENTITY, loss, batch)
    wanted = {"": log_z.mean(), "rms": log_z.square().mean().sqrt(), "largest": log_z.abs().max()}
    assert found == {name: pytest.approx(value.item(), rel=1e-12) for name, value in wanted.items()}


@pytest.mark.exact("LogZ")
def test_tokens_positions_and_padding():
    """Of language models with classes last, of images with classes second, without what is ignored."""
    logits = drawn(2, 3, 5)
    target = torch.tensor([[1, 2, -100], [0, -100, -100]])
    log_z = logits.logsumexp(-1)[target >= 0]
    for made, output in ((rg.NextToken(), logits), (rg.CrossEntropy(), logits.movedim(-1, 1))):
        found = rg.LogZ()(IDENTITY, made, (output, target))
        assert found[""] == pytest.approx(log_z.mean().item(), rel=1e-12)
    seven = (logits, target.where(target >= 0, 4))
    assert rg.LogZ()(IDENTITY, rg.NextToken(ignore=4), seven)[""] == pytest.approx(log_z.mean().item(), rel=1e-12)


def test_a_module_and_a_price_are_heard_too():
    batch = units(6, 5)
    wanted = rg.LogZ()(IDENTITY, loss, batch)
    assert rg.LogZ()(IDENTITY, lambda m, b: nn.CrossEntropyLoss()(m(b[0]), b[1]), batch) == wanted
    assert rg.LogZ()(IDENTITY, rg.ZLoss(rg.CrossEntropy()), batch) == wanted


def test_a_loss_without_classes_is_refused():
    for other in (rg.MSE(), lambda m, b: F.cross_entropy(m(b[0]), b[1].softmax(-1))):
        with pytest.raises(rg.DeclarationError, match="cross_entropy"):
            rg.LogZ()(IDENTITY, other, (torch.zeros(2, 3), torch.zeros(2, 3)))


def sharpness_of(ends, logits, target):
    """S of the highest of several candidates for each unit, by the definition."""
    before = F.cross_entropy(logits, target, reduction="none")
    after = torch.stack([F.cross_entropy(end, target, reduction="none") for end in ends]).amax(0)
    return (after - before) / (1 + before)


@pytest.mark.exact("LogitSharpness")
@pytest.mark.parametrize("radius", [1e-3, 0.1, 2.0])
def test_in_a_box_no_corner_and_no_inner_point_is_worse(radius):
    """All 2^5 corners, one of which is reached exactly, and points inside."""
    logits, target = units(10, 5)
    room = radius * (logits.abs() + 1)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 5)
    wanted = sharpness_of([logits + s * room for s in signs], logits, target)
    found = rg.logit_sharpness(logits, target, radius)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)
    inner = 2 * torch.rand(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    assert (sharpness_of([logits + s * room for s in inner], logits, target) <= found).all()


@pytest.mark.exact("LogitSharpness")
@pytest.mark.parametrize("radius", [1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("size", [0.0, 0.3, 2.0, 8.0])
def test_in_a_ball_brute_force_finds_nothing_worse(radius, size):
    """Three classes: L is unchanged by a shift, so that delta lies in a plane, and 20,000 angles are all there is."""
    logits, target = units(12, 3, size=size)
    across = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    across = across / across.norm(dim=1, keepdim=True)
    angle = torch.arange(20_000, dtype=torch.float64) * (2 * math.pi / 20_000)
    circle = radius * (angle.cos()[:, None] * across[0] + angle.sin()[:, None] * across[1])
    wanted = sharpness_of(logits + circle[:, None], logits, target)
    found = rg.logit_sharpness(logits, target, radius, "ball")
    assert (found >= wanted * (1 - 1e-12)).all()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.exact("LogitSharpness")
def test_in_a_ball_of_more_classes_random_directions_find_nothing_worse():
    logits, target = units(20, 9)
    directions = F.normalize(drawn(5000, 9, seed=3), dim=1)
    for radius in (0.05, 1.0, 4.0):
        found = rg.logit_sharpness(logits, target, radius, "ball")
        assert (sharpness_of(logits + radius * directions[:, None], logits, target) <= found).all()


@pytest.mark.exact("LogitSharpness")
def test_small_balls_and_boxes_have_their_limits():
    """epsilon ||p - e|| / (1 + L), and epsilon sum |p - e| (|z| + 1) / (1 + L)."""
    logits, target = units(20, 9)
    slope = logits.softmax(-1) - F.one_hot(target, 9)
    base = 1 + F.cross_entropy(logits, target, reduction="none")
    wanted = {"ball": slope.norm(dim=1) / base, "box": (slope.abs() * (logits.abs() + 1)).sum(1) / base}
    for within, limit in wanted.items():
        found = rg.logit_sharpness(logits, target, 1e-6, within) / 1e-6
        torch.testing.assert_close(found, limit, rtol=1e-5, atol=1e-8)


@pytest.mark.exact("LogitSharpness")
def test_the_probe_gives_mean_and_largest_over_the_units_that_count():
    logits = drawn(2, 3, 5)
    target = torch.tensor([[1, 2, -100], [0, -100, -100]])
    kept = target >= 0
    for within in ("box", "ball"):
        wanted = rg.logit_sharpness(logits[kept], target[kept], 0.2, within)
        found = rg.LogitSharpness(0.2, within)(IDENTITY, rg.NextToken(), (logits, target))
        assert found == {"": pytest.approx(wanted.mean().item()), "largest": pytest.approx(wanted.max().item())}
