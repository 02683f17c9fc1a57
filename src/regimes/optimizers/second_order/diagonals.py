"""Estimates of the diagonal of a Hessian, and the contract of the rules that use one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regimes.core.component import fixed
from regimes.core.curvature import HessianProducts
from regimes.core.errors import DeclarationError
from regimes.core.kinds import State
from regimes.losses.coerce import as_loss
from regimes.optimizers.tensorwise.rule import Tensorwise, wide

Vector = Sequence[Tensor]


class DiagonalCurvature(Tensorwise):
    """A tensorwise rule that reads an estimate of the Hessian's diagonal on every `update_every`-th update of a tensor.

    Subclasses give `refresh`, and `update` as every tensorwise rule; `estimator` says whose diagonal it is: of the
    Hessian ("hutchinson": z * Hz with signs z) or of the Gauss-Newton matrix ("gnb": squares of the gradient for
    targets that the model draws).
    """

    update_every: int = fixed(1, low=1)

    estimator = "hutchinson"
    #: How many vectors a Hutchinson estimate is the mean of.
    samples = 1
    single_evaluation = False

    def refresh(self, p: Tensor, estimate: Tensor, slot: dict[str, Any]) -> None:
        """Take in an estimate of the diagonal, in the shape of `p`."""
        raise NotImplementedError(f"{type(self).__name__} takes in no estimate")

    def due(self, slot: Mapping[str, Any]) -> bool:
        """Whether a tensor's next update needs an estimate of its own; the first does."""
        return bool(slot["step"] % self.update_every == 0)

    def asks(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> Mapping[str, Any]:
        """Signs to multiply the Hessian with, or targets drawn from the model, where an estimate is due."""
        if not any(self.due(state["slots"][name]) for name in parameters):
            return {}
        if self.estimator == "gnb":
            return {"sampled": True}
        draw = evaluate.rng("hutchinson")
        return {"vectors": [tuple(signs(p, draw) for p in parameters.values()) for _ in range(self.samples)]}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, take in the estimate where one is due, then update every tensor."""
        asked = self.asks(state, parameters, evaluate)
        evaluation = evaluate(**asked)
        tensors, slots = tuple(parameters.values()), [state["slots"][name] for name in parameters]
        with torch.no_grad():
            if asked:
                for p, estimate, slot in zip(tensors, _estimate(asked, evaluation), slots):
                    if self.due(slot):
                        self.refresh(p, wide(estimate), slot)
            self.advance(tensors, evaluation.gradients, slots, evaluate.compiled)
            if asked:
                self.note(slots, evaluate)
        return state

    def note(self, slots: Sequence[Mapping[str, Any]], evaluate: Any) -> None:
        """Write numbers of the rule's own into the record of a step that read the curvature."""


def _estimate(asked: Mapping[str, Any], evaluation: Any) -> Vector:
    if "sampled" in asked:
        return [evaluation.mass * g * g for g in evaluation.captured["sampled_gradients"]]
    return hutchinson(asked["vectors"], evaluation.captured["hessian_products"])


def signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return +1 and -1 with equal probability, in the shape of `like`.

    Examples
    --------
    >>> signs(torch.zeros(5), torch.Generator().manual_seed(0))
    tensor([-1.,  1.,  1., -1.,  1.])
    """
    drawn = torch.randint(0, 2, like.shape, generator=generator, device=like.device)
    return drawn.to(like.dtype).mul_(2.0).sub_(1.0)


def hutchinson(vectors: Sequence[Vector], products: Sequence[Vector]) -> list[Tensor]:
    r"""Return the mean of :math:`z \odot H z` over vectors z of signs, a tensor for each parameter.

    Its mean over draws is the diagonal, its variance at i :math:`\sum_{j \ne i} H_{ij}^2` over the number of vectors.

    Examples
    --------
    >>> z = [(torch.tensor([1.0, -1.0]),), (torch.tensor([1.0, 1.0]),)]
    >>> h = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    >>> hutchinson(z, [(h @ v[0],) for v in z])
    [tensor([3., 2.])]
    """
    found = [torch.zeros_like(part) for part in vectors[0]]
    for vector, product in zip(vectors, products):
        for total, z, hz in zip(found, vector, product):
            total.addcmul_(z, hz)
    return [total / len(vectors) for total in found]


def hutchinson_diagonal(
    loss: Any,
    parameters: Iterable[Tensor],
    samples: int = 1,
    generator: torch.Generator | None = None,
    distribution: Literal["signs", "normal"] = "signs",
) -> list[Tensor]:
    """Return an unbiased estimate of the diagonal of a loss's Hessian, for a loop of one's own.

    Parameters
    ----------
    loss : callable
        ``loss()`` returns the scalar, with graph; called once.
    parameters : iterable of Tensor
        By which is differentiated.
    samples : int
        Vectors; each costs a backward through forward and backward.
    generator : torch.Generator, optional
        From which they are drawn. Default torch's own.
    distribution : "signs" or "normal"
        Of their elements. Signs vary less.

    Raises
    ------
    DeclarationError
        If the loss is no function.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hutchinson_diagonal(lambda: (w**3).sum(), [w])  # exact, as there is nothing beside the diagonal
    [tensor([ 6., 12.])]
    """
    if not callable(loss):
        raise DeclarationError(
            f"got a {type(loss).__name__}; allowed: a function of nothing that returns it, "
            "hutchinson_diagonal(lambda: criterion(model(x), y), model.parameters())",
            "loss",
        )
    parameters = list(parameters)
    hessian = HessianProducts(loss, parameters)
    draw = torch.default_generator if generator is None else generator
    total = torch.zeros_like(hessian.gradient)
    for _ in range(samples):
        z = torch.cat([_drawn(p, draw, distribution).reshape(-1) for p in parameters])
        total.addcmul_(z, hessian(z))
    pieces = (total / samples).split([p.numel() for p in parameters])
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters)]


def _drawn(like: Tensor, generator: torch.Generator, distribution: str) -> Tensor:
    if distribution == "signs":
        return signs(like, generator)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def gauss_newton_bartlett_diagonal(
    model: nn.Module,
    batch: Any,
    loss: Any,
    parameters: Iterable[Tensor],
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    r"""Return an unbiased estimate of the diagonal of the Gauss-Newton matrix, for a loop of one's own.

    With targets drawn from the model's own predictions and g the gradient of the mean loss over B units

    .. math:: \operatorname{diag} \approx B\, g \odot g

    Parameters
    ----------
    model : nn.Module
    batch : object
        As the loss takes it, (inputs, target) for most.
    loss : Loss or torch criterion
        That says a distribution of targets: `CrossEntropy`, `NextToken`, `BCE`, `MSE`, ``nn.CrossEntropyLoss()``.
    parameters : iterable of Tensor
    generator : torch.Generator, optional
        From which targets are drawn. Default torch's own.

    Raises
    ------
    DeclarationError
        If the loss says no distribution of targets.

    References
    ----------
    H. Liu et al., Sophia, ICLR 2024, arXiv:2305.14342, section 2.3; M. Bartlett, 1953.

    Examples
    --------
    >>> from regimes.losses import CrossEntropy
    >>> model = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> batch = torch.ones(1, 1), torch.tensor([0])
    >>> gauss_newton_bartlett_diagonal(model, batch, CrossEntropy(), [model.weight], torch.Generator())
    [tensor([[0.2500],
            [0.2500]])]
    """
    said, draw = as_loss(loss), torch.default_generator if generator is None else generator
    units = said.sampled(said.init(), model, batch, draw)
    weights = torch.ones_like(units.values) if units.weights is None else units.weights
    found = torch.autograd.grad(
        (units.values * weights).sum() / weights.sum(), list(parameters), materialize_grads=True
    )
    return [weights.sum() * g * g for g in found]
