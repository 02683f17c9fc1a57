"""M-FAC: the gradient multiplied by the inverse of an empirical Fisher matrix of the last ones, around any rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.errors import NonFinite
from regimes.core.kinds import Knob, Optimizer, State
from regimes.core.registry import register
from regimes.optimizers.given import Given, refuse_several
from regimes.optimizers.second_order.empirical_fisher import EmpiricalFisherInverse


@register
class MFAC(Optimizer):
    r"""Multiply the gradient by the inverse Fisher matrix of the last m gradients, and hand it to the base rule.

    With the gradients of the last m steps, this one's included, zero where there are fewer

    .. math:: F = \lambda I + \frac1m \sum_{i=1}^m g_i g_i^\top, \qquad g \leftarrow F^{-1} g

    without a matrix of the size of the parameters (`EmpiricalFisherInverse`). The gradients are those of whole batches,
    after gradient transforms, of all parameters laid end to end.

    Parameters
    ----------
    base : Optimizer
        The rule, or Groups, that makes the step; it evaluates once. The paper's step, with velocity
        v <- beta v + (1 - beta) g and rate alpha, is that of ``SGD(lr=(1 - beta) * alpha, momentum=beta)``.
    ngrads : int
        m: memory is m times the parameters'. Default 1024, the authors' code's.
    damp : knob
        lambda. Default 1e-5, the authors' code's. The product is of the order of the gradient times the smaller of
        m / ||g||^2 and 1 / lambda: rates are far from those of the base rule alone.

    Notes
    -----
    Inside Groups each group has a window of its own. Where what is trained changes from one phase to the next, a window
    that is carried begins anew.

    Raises
    ------
    DeclarationError
        If the base rule does more than one plain evaluation.
    NonFinite
        While training, if the gradients are too large for the damping; the step is skipped.

    References
    ----------
    E. Frantar, E. Kurtic and D. Alistarh, M-FAC: Efficient Matrix-Free Approximations of Second-Order Information,
    NeurIPS 2021, arXiv:2107.03356; IST-DASLab/M-FAC, ``optim.py``.

    Examples
    --------
    >>> from regimes.optimizers import SGD
    >>> MFAC(SGD(lr=1e-4, momentum=0.9), ngrads=64)  # alpha = 0.001
    MFAC(SGD(lr=0.0001, momentum=0.9), ngrads=64)
    """

    base: Optimizer = fixed()
    ngrads: int = fixed(1024, low=1)
    damp: Knob = knob(1e-5, above=0)

    card = Card(
        title="Inverse Fisher matrix of the last gradients",
        axes=("rates",),
        source="Frantar, Kurtic and Alistarh 2021, arXiv:2107.03356",
        when="Ill-conditioned problems with memory for many gradients.",
        cost="a window of gradients; two passes over it and a Cholesky factor of its length squared per step",
        shelf="atlas",
        rows=("m-fac",),
        defaults={"ngrads": "1024, the authors' code", "damp": "1e-5, the authors' code"},
        deviations=(
            "The system of the window is solved by Cholesky in float64; the authors' recursion gives the same numbers.",
            "F^-1 g is m G^T times a column of the system's inverse, as g lies in the window: nothing cancels.",
            "Weight decay is the base rule's, after the product; the authors' code adds it to the gradient first.",
            "Masks of pruned weights (the sparse mode) are not built.",
        ),
        claims=(
            Claim(
                "Where inputs are rescaled by up to ten either way it takes at most 0.8 of the steps that momentum takes to a "
                "training loss of 0.2, each at the best of twelve settings.",
                {
                    "seeds": 5,
                    "margin": 0.3219,
                    "scale": "digits, ill-conditioned, 2,410 parameters, 500 steps, log2 of steps",
                },
                paper_scale="ResNets on CIFAR and BERT models: higher accuracy than SGD and AdamW",
                measure="regimes.claims.mfac:steps_to_target",
            ),
            Claim(
                "It is right on validation data no less often than Adam, within a point, each at the best of twelve settings.",
                {"seeds": 5, "margin": 0.01, "scale": "digits, ill-conditioned, 2,410 parameters, 500 steps"},
                paper_scale="ResNets on CIFAR and BERT models: higher accuracy than SGD and AdamW",
                says="not worse",
                measure="regimes.claims.mfac:accuracy",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse a base rule that evaluates more than once."""
        refuse_several(self.base, "MFAC", "base")

    @classmethod
    def example(cls) -> MFAC:
        """A window that wraps around within a few steps."""
        from regimes.optimizers.tensorwise.sgd import SGD

        return cls(SGD(lr=0.01, momentum=0.9), ngrads=3, damp=0.1)

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """An empty window, with the names of what it is of."""
        return super().init(parameters) | self._empty(parameters)

    def _empty(self, parameters: Mapping[str, Tensor]) -> State:
        of, first = _sizes(parameters), next(iter(parameters.values()))
        dtype = torch.promote_types(first.dtype, torch.float32)
        fisher = EmpiricalFisherInverse(self.ngrads, sum(of.values()), dtype=dtype, device=first.device)
        return {"of": of, "window": fisher.state}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, take in the gradient, and let the base rule see its product."""
        evaluation = evaluate()
        known = state if state["of"] == _sizes(parameters) else self._empty(parameters)
        with torch.no_grad():
            gradients = self._products(known["window"], evaluation.gradients)
        state |= {"of": known["of"], "window": known["window"]}
        given = Given(evaluate, evaluation._replace(gradients=gradients), "base")
        state["base"] = self.base.step(state["base"], parameters, given)
        return state

    def _products(self, window: State, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients, taken into the window and multiplied by the inverse."""
        ngrads, size = window["gradients"].shape
        fisher = EmpiricalFisherInverse(ngrads, size, self.damp, state=window)
        try:
            fisher.update(torch.cat([g.reshape(-1).to(window["gradients"].dtype) for g in gradients]))
        except torch.linalg.LinAlgError:
            raise NonFinite("system of the last gradients: not positive definite, the damping is too small") from None
        pieces = fisher.newest().split([g.numel() for g in gradients])
        return tuple(piece.reshape(g.shape).to(g.dtype) for piece, g in zip(pieces, gradients))

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()


def _sizes(parameters: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: p.numel() for name, p in parameters.items()}
