"""Twins by hand: the same batches, the same first weights, torch's own loop."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run


class Given(NamedTuple):
    """An evaluation with gradients given by the test."""

    loss: float
    gradients: tuple
    captured: dict = {}
    mass: float = 1.0


def shapes_and_gradients(shapes, steps, dtype=torch.float64, seed=0):
    """Parameters by name, and a list of gradient tuples."""
    draw = torch.Generator().manual_seed(seed)
    parameters = {f"p{i}": nn.Parameter(torch.randn(s, generator=draw, dtype=dtype)) for i, s in enumerate(shapes)}
    return parameters, [tuple(torch.randn(s, generator=draw, dtype=dtype) for s in shapes) for _ in range(steps)]


class Stub:
    """An evaluate that hands out given gradients g, drawn ones that equal them, and diag(1 + g) as the Hessian."""

    compiled = False

    def __init__(self, gradients, seed=0):
        self.gradients, self.seed = gradients, seed

    def __call__(self, vectors=(), sampled=False, **kwargs):
        products = [tuple((1.0 + g) * v for g, v in zip(self.gradients, vector)) for vector in vectors]
        captured = {"hessian_products": products, "sampled_gradients": self.gradients if sampled else ()}
        return Given(0.0, tuple(g.clone() for g in self.gradients), captured)

    def log(self, name, value):
        """Nobody keeps it."""

    def rng(self, name):
        return torch.Generator().manual_seed(self.seed)


def drive(rule, parameters, gradients, live=lambda rule, step: rule):
    """Step a rule over given gradients; return its state."""
    state = rule.init(parameters)
    for number, given in enumerate(gradients):
        state = live(rule, number).step(state, parameters, Stub(given, number))
    return state


def drive_torch(make, parameters, gradients, before=lambda optimizer, step: None):
    """The same with a torch optimizer; return the parameters' copies that it moved."""
    copies = {
        name: nn.Parameter(p.detach().clone(memory_format=torch.preserve_format)) for name, p in parameters.items()
    }
    optimizer = make(list(copies.values()))
    for number, given in enumerate(gradients):
        before(optimizer, number)
        for p, g in zip(copies.values(), given):
            p.grad = g.clone()
        optimizer.step()
    return copies


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data(n=64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=draw)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def workload(model=net):
    return rg.Workload(model=model, train=data(), val=data(32, 1), loss=nn.CrossEntropyLoss())


def beside(regime, make, before=lambda optimizer, record, number: None, model=net):
    """Yield (run, twin) after each step of a run and of torch's loop on the same batches.

    Batches of a power of two make sum / n and mean the same bits.
    """
    run = Run(workload(model), regime, seed=5)
    twin, (x, y) = copy.deepcopy(run.model), data()
    optimizer, number = make(list(twin.parameters())), 0
    while not run.finished:
        indices = torch.from_numpy(run.frame.plans[0].indices)
        record = run.step()
        before(optimizer, record, number)
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x[indices]), y[indices]).backward()
        optimizer.step()
        number += 1
        yield run, twin


@pytest.fixture
def hand():
    """The helpers above, for test files that cannot import them."""
    from types import SimpleNamespace

    return SimpleNamespace(
        given=shapes_and_gradients, drive=drive, drive_torch=drive_torch, beside=beside, workload=workload, data=data,
        net=net, Stub=Stub, Given=Given,
    )  # fmt: skip
