"""Is the minimum that was found one at which stochastic gradient descent can stay?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.laziness import evaluate_with_own_statistics, forward_inputs, tangent_kernel
from regimes.probes.view import View

_SCALE = "two-layer ReLU network of 50, teacher of 20 inputs, 60 examples, batch 1, five rates from 0.02 to 0.32"


@register
class StabilityMargins(ViewProbe):
    r"""Rate times the curvature at an interpolating minimum, against what stochastic and full-batch descent tolerate.

    With J_i the Jacobian of the outputs of example i of n, and S_i the second derivative of its loss in them (1 for half
    a squared difference), at interpolation

    .. math:: H = \frac{1}{n} \sum_i H_i, \qquad H_i = J_i^\top S_i J_i

    Values: ``trace``, lr tr(H) / 2, which is at most 1 where SGD with batches of one, one output each, is linearly
    stable; "", lr lambda_1(H) / 2, at most 1 where gradient descent is; ``frobenius``, lr ||H||_F, which is bounded by a
    multiple of the root of the batch; ``radius``, the largest factor by which a step of SGD multiplies the expected
    squared error of a linear model with this J, below 1 where it is stable at the declared batch.

    Away from interpolation H is the Gauss-Newton part of the Hessian. Dropout is off, and batch norm uses the batch's own
    statistics.

    Parameters
    ----------
    lr : float
        Rate of plain SGD, to hold the minimum against.
    batch : int
        Examples in a batch, drawn with replacement, for `radius`. Default 1 (paper).
    examples : int
        n. Default 64. In a loop of one's own it is the batch that is given.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the loss function does not call the model, its output is no matrix, or the loss is not convex in it.

    References
    ----------
    L. Wu and W. Su, The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent, ICML 2023,
    arXiv:2305.17490; L. Wu, M. Wang and W. Su, The alignment property of SGD noise and how it helps select flat minima,
    NeurIPS 2022, arXiv:2207.02628 (the Frobenius norm).

    Examples
    --------
    Inputs along d = 2 axes: H = I / 2, of which descent sees half of what SGD does.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> def half(m, batch): return (m(batch[0]) - batch[1]).square().mean() / 2
    >>> found = StabilityMargins(lr=2.5)(model, half, (torch.eye(2), torch.ones(2, 1)))
    >>> {name: round(value, 4) for name, value in found.items()}
    {'': 0.625, 'trace': 1.25, 'frobenius': 1.7678, 'radius': 1.625}
    """

    lr: float = fixed(above=0)
    batch: int = fixed(1, low=1)
    examples: int = fixed(64, low=1)

    card = Card(
        title="Stability of a minimum under SGD and under gradient descent",
        axes=("rates", "regime"),
        source="Wu and Su 2023, arXiv:2305.17490",
        when="A squared loss is interpolated: how much larger could the rate have been, and what did it rule out?",
        cost="as many backwards as examples times outputs, which many times the parameters in memory",
        shelf="atlas",
        rows=("sgd-dynamical-stability",),
        deviations=(
            "The rate is declared to the probe, which does not see the optimizer's.",
            "A fixed batch of training examples stands for all.",
            "The constant of the bound on the Frobenius norm was not read: lr times the norm is given.",
        ),
        claims=(
            Claim(
                "Where SGD with batches of one interpolates (loss below 1e-6), the rate times the trace is at most 2, with a "
                "tenth of slack, at the largest of five rates that gets there.",
                {"seeds": 5, "margin": 0.1, "scale": _SCALE},
                paper_scale="two-layer ReLU networks and diagonal linear networks",
                says="not worse",
                measure="regimes.claims.stability:within_the_bound",
            ),
            Claim(
                "The trace is smaller there than where the smallest rate gets (log2).",
                {"seeds": 5, "margin": 0.1, "scale": _SCALE},
                paper_scale="two-layer ReLU networks and diagonal linear networks",
                measure="regimes.claims.stability:trace_falls",
            ),
        ),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the margins and the radius."""
        batch = view.fixed(self.examples)
        evaluate_with_own_statistics(view.model)
        root = _root_of_curvature(view, batch)
        n, outputs, _ = root.shape
        args, named = forward_inputs(view, batch)
        weights = dict(view.model.named_parameters())
        kernel = tangent_kernel(view.model, weights, list(view.parameters), args, named, outputs)
        blocks = torch.block_diag(*root)
        values, vectors = torch.linalg.eigh(blocks @ kernel @ blocks / n)
        top = values[-1].item()
        kept = values > len(values) * torch.finfo(values.dtype).eps * max(top, 0.0)
        rows = (vectors[:, kept] * values[kept].sqrt()).view(n, outputs, -1) * n**0.5
        return {
            "": self.lr * top / 2,
            "trace": self.lr * values.sum().item() / 2,
            "frobenius": self.lr * values.norm().item(),
            "radius": stability_radius(rows, self.lr, self.batch),
        }


def _root_of_curvature(view: View, batch: Any) -> Tensor:
    """Roots of the second derivatives of every example's loss in its outputs, in float64, shape (n, outputs, outputs)."""
    seen: list[Tensor] = []
    hook = view.model.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        loss = view.loss(batch)
    finally:
        hook.remove()
    if not seen or not isinstance(seen[-1], Tensor) or seen[-1].ndim != 2:
        raise DeclarationError("does not call the model, or its output is no tensor (examples, outputs)", "loss_fn")
    output = seen[-1]
    (slope,) = torch.autograd.grad(loss, output, create_graph=True)
    second = output.new_zeros(*output.shape, output.shape[1])
    if slope.requires_grad:
        for place, column in enumerate(slope.unbind(1)):
            (second[:, place],) = torch.autograd.grad(column.sum(), output, retain_graph=True, materialize_grads=True)
    values, vectors = torch.linalg.eigh(second.double() * len(second))
    if values.min() < -1e-5 * values.abs().max():
        raise DeclarationError("is not convex in the outputs; allowed: one that is, as squared errors are", "loss_fn")
    return vectors * values.clamp_min(0.0).sqrt()[:, None, :] @ vectors.mT


def stability_radius(rows: Tensor, lr: float, batch: int = 1, iterations: int = 2000) -> float:
    r"""Spectral radius of a step of SGD on the second moment of the error of a linear model.

    With A_i the rows of example i, H_i = A_i^T A_i, H their mean and B the batch, drawn with replacement

    .. math::
        T(\Sigma) = \Sigma - \eta (H \Sigma + \Sigma H) + \eta^2 \left[ \frac{1}{B n} \sum_i H_i \Sigma H_i
        + \left(1 - \frac{1}{B}\right) H \Sigma H \right]

    by the power method on positive semidefinite matrices, which T keeps and whose largest eigenvalue is its radius.

    Parameters
    ----------
    rows : Tensor, shape (n, outputs, r)
        A, spanning the r directions; float64.
    lr : float
        eta.
    batch : int
        B.
    iterations : int
        Most steps of the method, which ends when the value changes by less than 1e-13.

    Examples
    --------
    >>> round(stability_radius(torch.eye(2, dtype=torch.float64)[:, None], lr=1.0), 6)
    0.5
    """
    n, _, r = rows.shape
    if r == 0:
        return 1.0
    curvature = torch.einsum("nkr,nks->rs", rows, rows) / n
    moment = torch.eye(r, dtype=rows.dtype) / r**0.5
    value = 0.0
    for _ in range(iterations):
        inner = torch.einsum("nkr,rs,nls->nkl", rows, moment, rows)
        noise = torch.einsum("nkr,nkl,nls->rs", rows, inner, rows) / (batch * n)
        drift = curvature @ moment
        after = moment - lr * (drift + drift.T) + lr**2 * (noise + (1 - 1 / batch) * drift @ curvature)
        before, value = value, after.norm().item()
        if value == 0.0 or abs(value - before) <= 1e-13 * value:
            break
        moment = (after + after.T) / (2 * value)  # rounding that is not symmetric would grow
    return value
