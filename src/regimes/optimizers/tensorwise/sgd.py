"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.rule import Tensorwise, fusable


@register
class SGD(Tensorwise):
    r"""Gradient descent with momentum and coupled weight decay, as torch has it.

    With gradient g_t, weight decay lambda, momentum mu, dampening tau

    .. math::
        d_t &= g_t + \lambda \theta_{t-1} \\
        b_1 &= d_1, \quad b_t = \mu b_{t-1} + (1 - \tau) d_t \quad (b_t = d_t \text{ while } \mu = 0) \\
        \theta_t &= \theta_{t-1} - \text{lr}\,(\text{nesterov: } d_t + \mu b_t, \text{ else } b_t)

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-3, torch's.
    momentum : knob
        mu. Default 0, torch's.
    dampening : knob
        tau. Default 0, torch's.
    weight_decay : knob
        lambda, added to the gradient. Default 0.
    nesterov : bool
        Look-ahead momentum; needs momentum > 0 and no dampening.

    Raises
    ------
    DeclarationError
        If nesterov stands without momentum or with dampening.

    References
    ----------
    I. Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.

    Examples
    --------
    >>> p = torch.tensor([1.0]); rule = SGD(lr=0.1, momentum=0.9); slot = rule.slots(p)
    >>> for t in (1, 2): rule.update(p, torch.tensor([1.0]), slot, t)
    >>> round(p.item(), 6)
    0.71
    """

    lr: Knob = knob(1e-3, low=0)
    momentum: Knob = knob(0.0, low=0)
    dampening: Knob = knob(0.0)
    weight_decay: Knob = knob(0.0, low=0)
    nesterov: bool = fixed(False)

    elementwise = True
    one_pass = True
    card = Card(
        title="Gradient descent with momentum",
        axes=("rates",),
        source="Sutskever et al. 2013; torch.optim.SGD",
        when="Vision, small models, theory.",
        defaults={"lr": "1e-3, torch's"},
    )

    def validate(self) -> None:
        """Refuse nesterov without momentum."""
        if self.nesterov and (self.momentum == 0.0 or self.dampening != 0.0):
            raise DeclarationError("got True; allowed with momentum > 0 and dampening = 0 only", "nesterov")

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """The momentum buffer, where momentum is declared."""
        return {} if self.momentum == 0.0 else {"momentum_buffer": torch.zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        d = g.add(p, alpha=self.weight_decay) if self.weight_decay != 0.0 else g
        b = slot.get("momentum_buffer")
        if b is None and self.momentum != 0.0:
            b = slot["momentum_buffer"] = d.clone()  # momentum came later: it starts here, as torch's does
        elif b is not None and (t == 1 or self.momentum == 0.0):
            b.copy_(d)
        elif b is not None:
            b.mul_(self.momentum).add_(d, alpha=1.0 - self.dampening)
        if b is not None:
            d = d.add(b, alpha=self.momentum) if self.nesterov else b
        p.add_(d, alpha=-self.lr)

    def update_all(
        self, tensors: Sequence[Tensor], gradients: Sequence[Tensor], slots: Sequence[dict[str, Any]], t: int
    ) -> None:
        """torch's fused kernel: the same formula in one pass over memory."""
        buffers = [slot["momentum_buffer"] for slot in slots if "momentum_buffer" in slot]
        expected = 0 if self.momentum == 0.0 else len(slots)
        if len(buffers) != expected or not fusable(tensors, gradients):
            return super().update_all(tensors, gradients, slots, t)
        torch._fused_sgd_(
            list(tensors),
            list(gradients),
            buffers,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=self.lr,
            dampening=self.dampening,
            nesterov=self.nesterov,
            maximize=False,
            is_first_step=t == 1 and bool(buffers),
        )
        return None
