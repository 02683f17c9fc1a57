"""The price on log Z: its gradient in closed form, units and padding, and the curvature of drawn targets."""

import pytest
import torch

import regimes as rg
from regimes.engine.run import Run
from regimes.testing.conformance import tiny


def drawn(*shape, seed=0):
    return 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = {
    "classes": (rg.CrossEntropy(), (6, 5), (6,)),
    "positions": (rg.CrossEntropy(label_smoothing=0.2), (3, 5, 4), (3, 4)),
    "tokens": (rg.NextToken(), (3, 4, 5), (3, 4)),
}


@pytest.mark.exact("ZLoss")
@pytest.mark.parametrize("name", CASES)
def test_every_unit_bears_its_own_price_with_the_gradient_in_closed_form(name):
    """c log(Z)^2, and 2 c log(Z) softmax, unit by unit."""
    loss, shape, targets = CASES[name]
    logits = drawn(*shape).requires_grad_()
    target = torch.randint(0, 5, targets, generator=torch.Generator().manual_seed(1))
    plain, priced = loss.per_unit(logits, target), rg.ZLoss(loss, coefficient=0.3).per_unit(logits, target)
    axis = 2 if name == "tokens" else 1
    log_z = logits.exp().sum(axis).log()
    torch.testing.assert_close(priced.values - plain.values, 0.3 * log_z.square().flatten(), rtol=1e-11, atol=1e-12)
    (slope,) = torch.autograd.grad((priced.values - plain.values).sum(), logits)
    wanted = 2 * 0.3 * log_z.unsqueeze(axis) * logits.softmax(axis)
    torch.testing.assert_close(slope, wanted, rtol=1e-11, atol=1e-12)
    assert priced.weights is plain.weights
    assert (priced.examples is None) == (plain.examples is None)


@pytest.mark.exact("ZLoss")
def test_without_a_coefficient_it_is_the_loss_it_is_added_to():
    logits, target = drawn(6, 5), torch.arange(6) % 5
    found = rg.ZLoss(rg.CrossEntropy(), coefficient=0.0).per_unit(logits, target).values
    assert torch.equal(found, rg.CrossEntropy().per_unit(logits, target).values)


@pytest.mark.exact("ZLoss")
def test_padding_adds_nothing_to_the_mean():
    """PaLM's mean is over tokens that count."""
    logits, target = drawn(1, 4, 5), torch.tensor([[1, 2, -100, -100]])
    found = rg.ZLoss(rg.NextToken(), coefficient=0.3).per_unit(logits, target)
    log_z = logits[0, :2].logsumexp(-1)
    wanted = rg.NextToken().per_unit(logits[:, :2], target[:, :2]).values.mean() + 0.3 * log_z.square().mean()
    torch.testing.assert_close((found.values * found.weights).sum() / found.weights.sum(), wanted, rtol=1e-14, atol=0)


@pytest.mark.exact("ZLoss")
def test_micro_batches_change_nothing():
    """One step of SGD with micro-batches of 1, 2 and all examples."""

    def after(size):
        regime = rg.Regime(
            optimizer=rg.SGD(lr=0.5), batch_size=6, micro_batch=size, budget="1 steps",
            loss=rg.ZLoss(rg.NextToken(), coefficient=0.1),
        )  # fmt: skip
        run = Run(tiny.workload("transformer", double=True), regime, seed=0)
        run.step()
        return torch.cat([p.detach().flatten() for p in run.model.parameters()])

    whole = after(6)
    for size in (1, 2):
        torch.testing.assert_close(after(size), whole, rtol=1e-12, atol=1e-13)


@pytest.mark.exact("ZLoss")
@pytest.mark.parametrize("c", [1e-4, 0.3])
def test_drawn_targets_have_the_gauss_newton_matrix_of_the_whole(c):
    """Mean zero and that second moment, exactly: over all classes and both signs, by their probabilities."""
    logits = drawn(1, 4).requires_grad_()
    p = logits.detach().softmax(-1)[0]
    loss = rg.ZLoss(rg.CrossEntropy(), coefficient=c)
    mean, second = torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    weights, seen = torch.zeros(4, 2, dtype=torch.float64), {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):  # each pair of class and sign, found by its gradient
        drawn_units = loss.per_unit_drawn(logits, torch.zeros(1, dtype=torch.int64), generator)
        (slope,) = torch.autograd.grad(drawn_units.values.sum(), logits)
        seen.setdefault(tuple(slope[0].round(decimals=9).tolist()), slope[0])
    log_z = logits.detach().logsumexp(-1).item()
    root = (1 + 2 * c * log_z) ** 0.5
    for k in range(4):
        for n, sign in enumerate((-1.0, 1.0)):
            wanted = root * (p - torch.eye(4, dtype=torch.float64)[k]) + sign * (2 * c) ** 0.5 * p
            match = [g for g in seen.values() if torch.allclose(g, wanted, rtol=1e-10, atol=1e-12)]
            if p[k] > 0.02:
                assert len(match) == 1
            weights[k, n] = p[k] / 2
            mean += weights[k, n] * wanted
            second += weights[k, n] * wanted.outer(wanted)
    hessian = torch.autograd.functional.hessian(
        lambda z: loss.per_unit(z, torch.zeros(1, dtype=torch.int64)).values.sum(), logits.detach()
    )[0, :, 0]
    torch.testing.assert_close(mean, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(second, hessian, rtol=1e-10, atol=1e-12)


def test_a_loss_without_a_softmax_is_refused():
    for loss in (rg.MSE(), rg.BCE(), rg.ZLoss(rg.NextToken())):
        with pytest.raises(rg.DeclarationError, match="takes a softmax"):
            rg.ZLoss(loss)


def test_validation_is_of_the_workloads_loss():
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.0), batch_size=6, budget="1 steps", loss=rg.ZLoss(rg.NextToken(), coefficient=10.0)
    )
    plain = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=6, budget="1 steps")
    found = []
    for declared in (regime, plain):
        run = Run(tiny.workload("transformer"), declared, seed=0)
        record = run.step()
        found.append((record.loss, run.validation.measure("val")["val/loss"]))
    assert found[0][1] == found[1][1]
    assert found[0][0] > found[1][0]
