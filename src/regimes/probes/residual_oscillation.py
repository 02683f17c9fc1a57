"""Do residuals shrink, or do they jump from one side to the other?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.laziness import evaluate_with_own_statistics
from regimes.probes.view import View


@register
class ResidualOscillation(ViewProbe):
    r"""Share of residuals whose sign the step has changed.

    The residual of an output o_i is the derivative of the loss in it: of a squared loss, the output less the target, up
    to a factor. With the weights before and after the step

    .. math:: \frac{1}{n} \sum_i \mathbf{1}\!\left[ \ell'(o_i^{t}) \, \ell'(o_i^{t+1}) < 0 \right]

    A mean over many measurements is the rate of sign changes per step. Near 0 the loss goes down smoothly; where the rate
    is large, outputs swing around their targets. Dropout is off, and batch norm uses the batch's own statistics.

    Values: "" the share; ``size`` the mean absolute residual after the step, of the mean loss times n.

    Parameters
    ----------
    examples : int
        Training examples, always the same. Default 64. In a loop of one's own it is the batch that is given.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the weights before the step are not given, the loss function does not call the model, or its output is no
        tensor.

    References
    ----------
    M. Lu, B. Wu, X. Yang and D. Zou, Benign Oscillation of Stochastic Gradient Descent with Large Learning Rates, ICLR
    2024, arXiv:2310.17074.

    Examples
    --------
    Targets 1 and 3; the weight goes from 0 to 2, past the first.

    >>> model = torch.nn.Linear(1, 1, bias=False); _ = torch.nn.init.constant_(model.weight, 2.0)
    >>> def half(m, batch): return (m(batch[0]) - batch[1]).square().mean() / 2
    >>> batch = (torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))
    >>> ResidualOscillation()(model, half, batch, previous={"weight": torch.zeros(1, 1)})
    {'': 0.5, 'size': 1.0}
    """

    examples: int = fixed(64, low=1)

    wants_previous = True
    card = Card(
        title="Share of residuals that change their sign in a step",
        axes=("rates",),
        source="Lu et al. 2024, arXiv:2310.17074",
        when="Is the rate one at which training goes down smoothly, or one at which it swings? It only looks, so there is no "
        "claim to re-test.",
        cost="two forwards, and a copy of the weights before the step",
        shelf="atlas",
        rows=("benign-oscillation",),
        deviations=(
            "A probe sees one step at a time: the rate of sign changes is the mean of its measurements, and says the rate of "
            "each step where they are of every step.",
        ),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the share, and the size."""
        if view.previous is None:
            raise DeclarationError("needs a value: the trained weights before the step, by parameter name", "previous")
        batch = view.fixed(self.examples)
        evaluate_with_own_statistics(view.model)
        now = _residuals(view, batch)
        with torch.no_grad():
            for name, p in view.parameters.items():
                p.copy_(view.previous[name])
        before = _residuals(view, batch)
        crossed = torch.sign(now) * torch.sign(before) < 0  # of signs: a product of residuals may underflow
        return {"": crossed.double().mean().item(), "size": now.abs().mean().item() * len(now)}


def _residuals(view: View, batch: Any) -> Tensor:
    """Derivative of the mean loss in every output of the model."""
    seen: list[Any] = []
    hook = view.model.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        loss = view.loss(batch)
    finally:
        hook.remove()
    if not seen or not isinstance(seen[-1], Tensor) or not seen[-1].requires_grad:
        raise DeclarationError("does not call the model, or its output is no tensor with a gradient", "loss_fn")
    (found,) = torch.autograd.grad(loss, seen[-1])
    return found.double()
