"""Newton's method with the gradient's norm over an adaptive radius as its regularization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, NonFinite
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register

#: Parameters above which no matrix is made, and vectors that the Hessian is multiplied with in one evaluation.
LIMIT, BLOCK = 4096, 256
#: Tries of a step, and what gamma is kept between: from the upper end as many halvings come back to 1.
TRIES, LEAST, MOST = 40, 1e-9, 2.0**40
#: Added to gamma where it divides.
EPS = 1e-8


@register
class GradientRegularizedNewton(Optimizer):
    r"""Step to the minimum of a quadratic model, regularized by the gradient's norm over a radius that adapts.

    With f, g and the curvature A of the step's plan at theta, try

    .. math::
        \lambda = \frac{\lVert g \rVert}{\gamma + 10^{-8}}, \qquad
        \Delta = -(A + \lambda I)^{-1} g, \qquad
        \text{accepted where } f(\theta) - f(\theta + \Delta)
            \ge \frac{\lVert \nabla f(\theta + \Delta) \rVert^2}{8 \lambda}

    An accepted step doubles gamma, a refused one halves it and is tried again, at most 40 times; if none is accepted
    theta stays and the next step goes on from there. A step is refused, too, where A + lambda I is not positive
    definite (the Hessian of what is not convex) and where the loss is not finite. No rate, and nothing to tune: gamma
    finds the radius in which A describes the gradient.

    Parameters
    ----------
    curvature : "hessian", "fisher" or "diagonal"
        A: the Hessian; the empirical Fisher matrix, the mean of the outer products of the examples' gradients with
        themselves; or the Hessian's diagonal. Default "hessian".
    gamma : float
        The first radius. Default 1, the authors' code's.

    Notes
    -----
    For models of at most 4,096 parameters: a Hessian, and its diagonal, takes a product with every unit vector. Each try
    costs another evaluation. All tries see the step's examples and random numbers; with mini-batches it is the loss of
    the batch that falls. In float32 a loss near its minimum falls by less than it is rounded, and nothing is accepted any
    more: train in float64 for gradients below a thousandth. Every record holds ``gamma``, as it is after the step, and
    ``tries``. g is taken after gradient transforms.

    Raises
    ------
    DeclarationError
        On meeting a model of more parameters.

    References
    ----------
    A. Semenov, M. Jaggi and N. Doikov, Gradient-Normalized Smoothness for Optimization with Approximate Hessians, ICLR
    2026, arXiv:2506.13710, algorithm 1; epfml/grad-norm-smooth.

    Examples
    --------
    >>> GradientRegularizedNewton(curvature="fisher")
    GradientRegularizedNewton(curvature='fisher')
    >>> A, g = torch.diag(torch.tensor([1.0, -3.0])), torch.tensor([2.0, 2.0])
    >>> solved(A, g, 1.0), solved(A, g, 4.0)  # not positive definite; definite
    (None, tensor([0.4000, 2.0000]))
    """

    curvature: Literal["hessian", "fisher", "diagonal"] = fixed("hessian")
    gamma: float = fixed(1.0, above=0)

    single_evaluation = False
    exempt = {"leaves a skipped step untouched": "a try that is not finite is refused, and a shorter step made"}
    card = Card(
        title="Newton's method regularized by the gradient's norm",
        axes=("rates",),
        source="Semenov, Jaggi and Doikov 2026, arXiv:2506.13710",
        when="Small, smooth models that are to be trained to the last digit.",
        cost="a matrix of parameters squared and its factors; a product with every unit vector, an evaluation per try",
        shelf="atlas",
        rows=("gradient-normalised-smoothness-newton",),
        defaults={"gamma": "1, the authors' code"},
        deviations=(
            "A matrix without a Cholesky factor halves gamma; the authors' code leaves the loop with an old step.",
            "After 40 tries nothing is stepped; the authors' code takes the last step, accepted or not.",
            "gamma stays below 2^40, from which 40 tries come back to 1.",
            "Norms are Euclidean; a metric other than the identity is not built.",
            "Gauss-Newton matrices are not built: an evaluation gives no products with a model's Jacobian. For linear "
            "models with these losses the Hessian is one.",
            "The Fisher matrix is the empirical one, of the labels; the paper's are the terms of its own problems.",
            "Each step begins with an evaluation of its own, as its batch may be another one.",
        ),
        claims=(
            Claim(
                "Logistic regression reaches a gradient norm of 1e-6 in a tenth of the iterations of gradient descent with a "
                "line search, the Hessian being there the Fisher matrix.",
                {
                    "seeds": 5,
                    "margin": 3.3219,
                    "scale": "400 examples of breast_cancer, 31 parameters, log2 of iterations, descent ended at 20,000",
                },
                paper_scale="Logistic and softmax regression on tables of LIBSVM",
                measure="regimes.claims.newton:beside_gradient_descent",
            ),
            Claim(
                "Without tuning it takes at most twice the iterations of Newton's method with the best of eleven fixed "
                "regularizations.",
                {
                    "seeds": 5,
                    "margin": 1.0,
                    "scale": "400 examples of breast_cancer, 31 parameters, log2 of iterations",
                },
                paper_scale="Logistic and softmax regression on tables of LIBSVM",
                says="not worse",
                measure="regimes.claims.newton:beside_fixed",
            ),
            Claim(
                "With the empirical Fisher matrix in the Hessian's place it still takes a tenth of the iterations of "
                "gradient descent with a line search.",
                {
                    "seeds": 5,
                    "margin": 3.3219,
                    "scale": "400 examples of breast_cancer, 31 parameters, log2 of iterations, descent ended at 20,000",
                },
                paper_scale="Powers of norms of equations by the Fisher term of their Hessian",
                measure="regimes.claims.newton:empirical_beside_gradient_descent",
            ),
        ),
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The first radius."""
        count = sum(p.numel() for p in parameters.values())
        if count > LIMIT:
            raise DeclarationError(
                f"{type(self).__name__} makes a product with the Hessian for each of {count:,} parameters, or a matrix of as "
                f"many squared; allowed: at most {LIMIT:,}, for example with trainable=['head.*']"
            )
        return {"gamma": self.gamma}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Measure the curvature, then try steps until one is accepted."""
        tensors = tuple(parameters.values())
        evaluation, curvature = self._measured(tensors, evaluate)
        gradient = _flat(evaluation.gradients)
        step, gamma, tries = None, state["gamma"], 0
        norm = float(gradient.norm())
        while step is None and tries < TRIES and norm > 0.0:
            weight = norm / (gamma + EPS)
            step, tries = _tried(curvature, gradient, weight, evaluation.loss, _mover(evaluate, tensors)), tries + 1
            gamma = 0.5 * gamma if step is None else min(max(2.0 * gamma, LEAST), MOST)
        evaluate.log("gamma", gamma)
        evaluate.log("tries", tries)
        state["gamma"] = gamma
        if step is not None:
            with torch.no_grad():
                torch._foreach_add_(tensors, _pieces(step, tensors))
        return state

    def _measured(self, tensors: Sequence[Tensor], evaluate: Any) -> tuple[Any, Tensor]:
        """The final evaluation, and in float64 the matrix, or the vector of its diagonal."""
        if self.curvature == "fisher":
            evaluation = evaluate(examples=True)
            rows = [rows.flatten(1).double() for rows in evaluation.captured["example_gradients"].values()]
            examples = torch.cat(rows, 1)
            return evaluation, examples.T @ examples / len(examples)
        evaluation, found = None, []
        for units in _units(tensors):
            vectors = [_pieces(unit, tensors) for unit in units]
            seen = evaluate(vectors=vectors, final=evaluation is None)
            evaluation = seen if evaluation is None else evaluation
            products = torch.stack([_flat(product) for product in seen.captured["hessian_products"]])
            found.append((products * units).sum(1) if self.curvature == "diagonal" else products)
        curvature = torch.cat(found)
        return evaluation, curvature if curvature.ndim == 1 else 0.5 * (curvature + curvature.T)


def _tried(
    curvature: Tensor, gradient: Tensor, weight: float, loss: float, moved: Callable[[Tensor], Any]
) -> Tensor | None:
    """The step with this regularization, None where it is not accepted."""
    found = solved(curvature, gradient, weight)
    if found is None:
        return None
    try:
        there = moved(-found)
    except NonFinite:
        return None
    needed = float(_flat(there.gradients).square().sum()) / (8.0 * weight)
    return -found if loss - there.loss >= needed else None


def _mover(evaluate: Any, tensors: Sequence[Tensor]) -> Callable[[Tensor], Any]:
    return lambda step: evaluate.shifted(_pieces(step, tensors))(final=False)


def solved(curvature: Tensor, gradient: Tensor, weight: float) -> Tensor | None:
    """Return (A + weight I)^-1 g, or None where that is not positive definite, or not finite.

    Parameters
    ----------
    curvature : Tensor
        A, symmetric, shape (n, n), or its diagonal, shape (n,).
    gradient : Tensor, shape (n,)
        g.
    weight : float
    """
    if curvature.ndim == 1:
        below = curvature + weight
        found, definite = gradient / below, bool((below > 0.0).all())
    else:
        identity = torch.eye(len(curvature), dtype=curvature.dtype, device=curvature.device)
        lower, info = torch.linalg.cholesky_ex(curvature + weight * identity)
        definite = int(info) == 0
        found = torch.cholesky_solve(gradient[:, None], lower)[:, 0] if definite else gradient
    return found if definite and bool(found.isfinite().all()) else None


def _units(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """All unit vectors, a block of rows at a time."""
    count, device = sum(p.numel() for p in tensors), tensors[0].device
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        block = torch.zeros(rows, count, dtype=torch.float64, device=device)
        block[torch.arange(rows), torch.arange(start, start + rows)] = 1.0
        yield block


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1).double() for t in tensors])


def _pieces(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([p.numel() for p in like])
    return [part.view(p.shape).to(p.dtype) for part, p in zip(parts, like)]
