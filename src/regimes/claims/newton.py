"""Logistic regression to a gradient norm of 1e-6: iterations of adaptive Newton, of gradient descent, of fixed damping."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import regimes as rg
from regimes.core.randomness import philox
from regimes.workloads import tables

_EXAMPLES, _PENALTY, _TARGET = 400, 1e-6, 1e-6
#: The most iterations of a Newton's method and of gradient descent; what does not reach the target counts as these.
_NEWTON, _DESCENT = 500, 20_000
#: Fixed regularizations that are tried: eleven.
_FIXED = [10.0**power for power in range(-8, 3)]


def beside_gradient_descent(seed: int) -> tuple[float, float]:
    """log2 of the iterations, negated: of adaptive Newton with the Hessian, and of gradient descent with a line search.

    Parameters
    ----------
    seed : int
        Of initial weights and of which examples there are.
    """
    return -math.log2(_adaptive(seed, "hessian")), -math.log2(_descent(seed))


def empirical_beside_gradient_descent(seed: int) -> tuple[float, float]:
    """The same with the empirical Fisher matrix.

    Parameters
    ----------
    seed : int
        Of initial weights and of which examples there are.
    """
    return -math.log2(_adaptive(seed, "fisher")), -math.log2(_descent(seed))


def beside_fixed(seed: int) -> tuple[float, float]:
    """log2 of the iterations, negated: of adaptive Newton with the Hessian, and with the best fixed regularization.

    Parameters
    ----------
    seed : int
        Of initial weights and of which examples there are.
    """
    return -math.log2(_adaptive(seed, "hessian")), -math.log2(min(_fixed(seed, weight) for weight in _FIXED))


def _adaptive(seed: int, curvature: Any) -> int:
    x, y, w = _problem(seed)
    model = nn.Linear(30, 1).double()
    with torch.no_grad():
        model.weight.copy_(w[None, :30])
        model.bias.copy_(w[30:])

    def loss(model: nn.Module, batch: Any) -> Tensor:
        values = functional.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1], reduction="none")
        return values + 0.5 * _PENALTY * sum(p.square().sum() for p in model.parameters())

    work = rg.Workload(model=model, train=(x, y), val=(x, y), loss=loss)
    rule = rg.GradientRegularizedNewton(curvature)
    regime = rg.Regime(optimizer=rule, batch_size=len(x), budget=f"{_NEWTON} steps")
    run = rg.Run(work, regime, seed, count_flops=False)
    for number in range(1, _NEWTON + 1):
        run.step()
        if _gradient(torch.cat([p.detach().reshape(-1) for p in run.parameters.values()]), x, y).norm() <= _TARGET:
            return number
    return _NEWTON


def _descent(seed: int) -> int:
    """Backtracking from twice the last accepted rate until Armijo's condition holds with 1e-4."""
    x, y, w = _problem(seed)
    rate, value, g = 1.0, _loss(w, x, y), _gradient(w, x, y)
    for number in range(1, _DESCENT + 1):
        rate, square = 2.0 * rate, g.square().sum()
        while _loss(w - rate * g, x, y) > value - 1e-4 * rate * square:
            rate *= 0.5
        w = w - rate * g
        value, g = _loss(w, x, y), _gradient(w, x, y)
        if g.norm() <= _TARGET:
            return number
    return _DESCENT


def _fixed(seed: int, weight: float) -> int:
    x, y, w = _problem(seed)
    padded, identity = _padded(x), torch.eye(31, dtype=torch.float64)
    for number in range(1, _NEWTON + 1):
        p = torch.sigmoid(padded @ w)
        hessian = padded.T @ (padded * (p * (1.0 - p))[:, None]) / len(x) + (_PENALTY + weight) * identity
        w = w - torch.linalg.solve(hessian, _gradient(w, x, y))
        norm = _gradient(w, x, y).norm()
        if norm <= _TARGET:
            return number
        if not norm.isfinite():
            break
    return _NEWTON


def _problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standardized examples in float64, labels, and initial weights with the bias behind."""
    table = tables.tabular("breast_cancer")
    x, y = (torch.cat(parts) for parts in zip(table.train, table.val, table.test))
    draw = philox(seed, "newton")
    chosen = torch.from_numpy(draw.permutation(len(x))[:_EXAMPLES])
    w = torch.from_numpy(draw.uniform(-1.0, 1.0, 31)) / 30**0.5
    return x[chosen].double(), y[chosen].double(), w


def _padded(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    value = functional.binary_cross_entropy_with_logits(_padded(x) @ w, y)
    return value + 0.5 * _PENALTY * w.square().sum()


def _gradient(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    padded = _padded(x)
    return padded.T @ (torch.sigmoid(padded @ w) - y) / len(x) + _PENALTY * w
