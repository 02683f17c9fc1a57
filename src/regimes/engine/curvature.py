"""What an evaluation finds beyond the gradient: products of the Hessian, and gradients for targets that the model drew."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.curvature import HessianProducts
from regimes.core.errors import NonFinite
from regimes.core.unit_losses import UnitLosses
from regimes.engine import arithmetic
from regimes.engine.captures import Captures
from regimes.engine.work import shapes

#: One vector: a tensor for each parameter, in parameter order.
Vector = Sequence[Tensor]


class Products:
    """Products of the Hessian of a step's loss with vectors, added up over micro-batches as gradients are.

    Parameters
    ----------
    evaluate : Evaluator
        Of the step, at the present weights.
    vectors : sequence of Vector
    """

    def __init__(self, evaluate: Any, vectors: Sequence[Vector]) -> None:
        self._evaluate, self._trained = evaluate, evaluate.run.trained
        self._vectors = torch.stack([torch.cat([v.reshape(-1) for v in vector]) for vector in vectors])
        self._tree = arithmetic.Tree(evaluate.own.start)

    def part(self, number: int, start: int, batch: Any) -> tuple[UnitLosses, Any, list[Tensor]]:
        """Evaluate one micro-batch; return its losses, their weights as `Evaluator.weights` gives them, and its gradient."""
        losses, weights, hessian = self._differentiated(number, start, batch)
        self._tree.add([hessian(self._vectors)])
        return losses, weights, self._split(hessian.gradient)

    def _differentiated(self, number: int, start: int, batch: Any) -> tuple[UnitLosses, Any, HessianProducts]:
        evaluate, found = self._evaluate, list[Any]()

        def loss() -> Tensor:
            losses = evaluate.run.forward(evaluate.live, batch, number, True, watched=True)
            weights, own = evaluate.weights(number, losses, start)
            found.extend([losses, (weights, own)])
            values = losses.values
            return values.sum() if weights is None else values @ weights.to(values.dtype)

        hessian = HessianProducts(loss, self._trained)
        return found[0], found[1], hessian

    def _split(self, flat: Tensor) -> list[Tensor]:
        pieces = flat.split([p.numel() for p in self._trained])
        return [piece.reshape(p.shape) for piece, p in zip(pieces, self._trained)]

    def flops(self, number: int, start: int, batch: Any) -> float:
        """Operations of one micro-batch: forward, backward and the products."""
        run, key = self._evaluate.run, (len(self._vectors), shapes(batch))

        def once() -> None:
            self._differentiated(number, start, batch)[2](self._vectors)

        return float(run.flops.counted(("hessian products", run.frame.phase, key), run.model, once))

    def total(self, mass: float) -> list[tuple[Tensor, ...]]:
        """Return the products with the Hessian of the mean loss, a vector each.

        Raises
        ------
        NonFinite
            If one is not finite.
        """
        evaluate = self._evaluate
        (rows,) = evaluate.run.world.total(self._tree, [self._vectors], len(evaluate.sizes))
        if not arithmetic.divide_((rows,), mass):
            raise NonFinite("product of the Hessian with a vector")
        return [tuple(self._split(row)) for row in rows]


def sampled_gradients(evaluate: Any, mass: float, captures: Captures | None, grad: bool) -> tuple[Tensor, ...]:
    """Return the gradient of the step's mean loss with targets drawn from the model, in parameter order.

    Parameters
    ----------
    evaluate : Evaluator
        Of the step, at the present weights.
    mass : float
        The sum of weights by which the step's own gradient was divided.
    captures : Captures or None
        What is captured, of these forwards and backwards.
    grad : bool
        Whether gradients are wanted; without, only the forward is made.

    Raises
    ------
    NonFinite
        If a loss or the gradient is not finite.
    """
    run, tree, parts = evaluate.run, arithmetic.Tree(evaluate.own.start), list[tuple[bool, float]]()
    listening = contextlib.nullcontext if captures is None else captures.listening
    for number, start, batch in evaluate.batches():
        generator = torch.Generator(device=run.workload.device)
        generator.manual_seed(run.streams.seed32("targets", evaluate.plan.step, number))
        with run.buffers.aside():
            with listening():
                losses = run.forward(evaluate.live, batch, number, grad, watched=True, sampled=generator)
            finite, flops = bool(torch.isfinite(losses.values).all()), 0.0
            if grad:
                weights, _ = evaluate.weights(number, losses, start)
                tree.add(run.gradients(losses.values, weights))
        if run.flops is not None:
            flops = run.flops.evaluation(run, evaluate.live, batch, grad, len(losses.values))
        parts.append((finite, flops))
    parts = run.world.joined(parts)
    run.work.charge(sum(flops for _, flops in parts), beside=run.frame.trial is not None)
    if not all(finite for finite, _ in parts):
        raise NonFinite("loss of targets that the model drew")
    if not grad:
        return ()
    found: tuple[Tensor, ...] = run.world.total(tree, run.trained, len(evaluate.sizes))
    if not arithmetic.divide_(found, mass):
        raise NonFinite("gradient of targets that the model drew")
    return found
