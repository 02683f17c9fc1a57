"""Zero at the start for every alpha; kernel gradient descent in the limit; the beginning survives resume and seams."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms.experts import MixtureOfExperts
from regimes.probes.laziness import tangent_kernel
from regimes.testing.resume import resume_chain


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def data(n=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draw, dtype=torch.float64)
    return x, (x[:, :1] * x[:, 1:2] > 0).double()


def workload(model=net, loss=None):
    return rg.Workload(model=model, train=data(), val=data(6, 1), loss=loss or rg.Hinge(), name="signs")


def regime(alpha, steps=10, **more):
    settings = {"optimizer": rg.SGD(lr=0.1), "batch_size": 4, "loss": rg.Hinge(alpha)} | more
    return rg.Regime(budget=f"{steps} steps", on_entry=[rg.CenteredOutput(alpha)], **settings)


@pytest.mark.exact("CenteredOutput")
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 100.0, 2.0**15])
@pytest.mark.parametrize("training", [True, False])
def test_the_output_begins_at_exactly_zero(alpha, training):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    model = rg.CenteredOutput(alpha).structure(plain).train(training)
    for seed in range(3):
        assert not model(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(seed))).any()


@pytest.mark.exact("CenteredOutput")
@pytest.mark.parametrize("alpha", [0.5, 30.0])
def test_the_output_is_the_scaled_difference_and_its_gradient_that_of_the_model(alpha):
    torch.manual_seed(0)
    plain = net()
    begun = copy.deepcopy(plain)
    model = rg.CenteredOutput(alpha).structure(plain)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, _ = data()
    torch.testing.assert_close(model(x), alpha * (plain(x) - begun(x)), rtol=0, atol=0)
    found = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    wanted = torch.autograd.grad(plain(x).sum(), list(plain.parameters()))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, alpha * b, rtol=1e-12, atol=1e-12)
    assert [name for name, _ in model.named_buffers()] == [f"start.{name}" for name, _ in plain.named_parameters()]


@pytest.mark.exact("CenteredOutput", "Hinge")
def test_at_large_alpha_training_is_kernel_gradient_descent():
    """u = alpha F follows u - eta K l'(u) / n with the tangent kernel of the beginning: off by 1 / alpha, all data a step."""
    x, y = data()
    eta, steps, n = 0.3, 40, len(x)
    sign = 2 * y - 1

    def trained(alpha):
        # The gradient in u does not hang on alpha, the change of u does: K alpha. So the rate is eta / alpha.
        rule = rg.SGD(lr=eta / alpha)
        run = Run(workload(), regime(alpha, steps, optimizer=rule, batch_size=n), seed=3, count_flops=False)
        model = run.model.model
        kernel = tangent_kernel(
            model, dict(model.named_parameters()), list(dict(model.named_parameters())), (x,), {}, 1
        )
        list(run)
        return run.model(x).detach(), kernel

    _, kernel = trained(1.0)
    u = torch.zeros_like(y)
    for _ in range(steps):
        u = u + eta * kernel @ (sign * (sign * u < 1)) / n
    assert 0.3 < (sign * u >= 1).double().mean() <= 1.0  # past some kinks, and moved
    errors = [(trained(alpha)[0] - u).abs().max().item() for alpha in (1e3, 1e4, 1e5)]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)
    assert errors[2] < 1e-3


@pytest.mark.exact("CenteredOutput")
def test_the_beginning_is_that_of_the_phase_and_a_second_one_centers_anew():
    phases = [
        rg.Phase("plain", budget="4 steps", loss=rg.Hinge()),
        rg.Phase("lazy", budget="4 steps", on_entry=[rg.CenteredOutput(10.0)], loss=rg.Hinge(10.0)),
        rg.Phase(
            "rich",
            budget="4 steps",
            on_entry=[rg.CenteredOutput(0.1)],
            loss=rg.Hinge(0.1),
            carry=["model", "optimizer"],
        ),
    ]
    run = Run(workload(), rg.Regime(phases=phases, optimizer=rg.SGD(lr=0.1, momentum=0.9), batch_size=4), seed=0)
    x, _ = data()
    for alpha in (10.0, 0.1):
        for _ in range(4):
            run.step()
        assert run.model.alpha == alpha
        assert not run.model(x).any()
        start = dict(run.model.start.named_buffers())
        for name, p in run.model.model.named_parameters():
            assert torch.equal(start[name], p)
            assert start[name].data_ptr() != p.data_ptr()
    list(run)
    assert (run.model(x) != 0).all()
    named = [name for name, _ in run.model.named_parameters()]
    assert named == [f"model.{name}" for name, _ in net().named_parameters()]


def test_momentum_is_carried_under_the_old_names():
    torch.manual_seed(0)
    plain, transform = net(), rg.CenteredOutput(2.0)
    once = transform.structure(copy.deepcopy(plain))
    names = transform.fill(once, plain, iter(()), Streams(0)).names
    assert names == {f"model.{name}": name for name, _ in plain.named_parameters()}
    again = transform.structure(copy.deepcopy(once))
    names = transform.fill(again, once, iter(()), Streams(0)).names
    assert names == {name: name for name, _ in once.named_parameters()}


def test_resume_finds_the_beginning_again():
    phases = [
        rg.Phase("plain", budget="3 steps", loss=rg.Hinge()),
        rg.Phase("lazy", budget="5 steps", on_entry=[rg.CenteredOutput(10.0)], loss=rg.Hinge(10.0)),
    ]
    declared = rg.Regime(phases=phases, optimizer=rg.SGD(lr=0.1, momentum=0.9), batch_size=4, average=rg.EMA(0.5))
    assert resume_chain(lambda: Run(workload(), declared, seed=2), steps=8) == []


def test_the_last_layer_is_still_the_head_and_what_is_no_tensor_is_refused():
    from regimes.optimizers.roles import roles_of

    model = rg.CenteredOutput().structure(net())
    assert roles_of(model) == {"model.4.weight": "head"}
    pair = rg.CenteredOutput().structure(nn.LSTM(4, 3))
    with pytest.raises(rg.DeclarationError, match="allowed: a model whose output is a tensor"):
        pair(torch.zeros(2, 1, 4))


def test_what_listens_to_the_model_does_not_hear_the_beginning():
    """The router of the beginning, which is a copy of the model's, bears no price of its own."""
    experts = MixtureOfExperts(nn.Linear(4, 1), 4, experts=4, top_k=2)
    with torch.no_grad():
        experts.router.weight.zero_()
    model = rg.CenteredOutput(3.0).structure(nn.Sequential(experts))
    batch = torch.randn(5, 4), torch.randn(5, 1)
    found = rg.LoadBalance(rg.MSE(), weight=0.5)(model, batch).values - rg.MSE()(model, batch).values
    torch.testing.assert_close(found.detach(), torch.full((5,), 0.5), rtol=1e-5, atol=1e-6)


def test_laziness_is_that_of_the_model_without_the_scale():
    x, y = data()
    model = rg.CenteredOutput(3.0).structure(net())
    initial = {name: p.detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    found = rg.Laziness(examples=12)(model, rg.Hinge(), (x, y), initial=initial)
    plain = {name.removeprefix("model."): p for name, p in initial.items()}
    wanted = rg.Laziness(examples=12)(model.model, rg.Hinge(), (x, y), initial=plain)
    assert found == pytest.approx(wanted, rel=1e-9)
