"""SGD without a schedule."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.tensorwise.schedule_free import ScheduleFree


@register
class ScheduleFreeSGD(ScheduleFree):
    r"""SGD whose average replaces the schedule: no budget need be known beforehand.

    With interpolation beta (`momentum`) and weight decay lambda, at y_t = (1 - beta) z_t + beta x_t

    .. math::
        z_{t+1} &= z_t - \text{lr}_t\,(g_t + \lambda y_t) \\
        x_{t+1} &= (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}, \qquad
        c_{t+1} = \text{lr}_t^2 / \sum_{i \le t} \text{lr}_i^2

    The parameters hold y; validation, averagers and the final model see x. beta = 1 is primal averaging.

    Parameters
    ----------
    lr : knob
        Learning rate: constant, with a warm-up; 10 to 50 times larger than with a schedule. Default 1.0, the
        authors' code.
    momentum : knob
        beta, in (0, 1]. Default 0.9 (paper).
    weight_decay : knob
        lambda, taken at y. Default 0.

    References
    ----------
    A. Defazio et al., The Road Less Scheduled, NeurIPS 2024, arXiv:2405.15682, equations 3 to 5.

    Examples
    --------
    >>> import torch
    >>> p = torch.tensor([1.0]); rule = ScheduleFreeSGD(lr=0.1); slot = rule.slots(p)
    >>> for t in (1, 2): rule.update(p, torch.tensor([1.0]), slot, t)
    >>> x = rule.evaluation_weights({"slots": {"w": slot}}, {"w": p})["w"]
    >>> [round(v.item(), 4) for v in (slot["z"], x, p)]
    [0.8, 0.85, 0.845]
    """

    lr: Knob = knob(1.0, low=0)
    momentum: Knob = knob(0.9, above=0, high=1)
    weight_decay: Knob = knob(0.0, low=0)

    elementwise = True
    card = Card(
        title="SGD with averaging instead of a schedule",
        axes=("rates", "phases"),
        source="Defazio et al. 2024, arXiv:2405.15682",
        when="The budget is open, or good weights are wanted at any time.",
        cost="one slot per parameter; averaged weights are made anew for each validation",
        defaults={"lr": "1.0, authors' code", "momentum": "0.9, paper"},
        deviations=(
            "The weights of the average follow the rate itself, as in the paper; the authors' code follows its "
            "maximum so far, which differs only where the rate falls.",
            "BatchNorm's statistics belong to y, not to x.",
        ),
    )

    def interpolation(self) -> float:
        """beta."""
        return self.momentum

    def direction(self, y: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> Tensor:
        """The gradient and the decay at y."""
        return g.add(y, alpha=self.weight_decay) if self.weight_decay != 0.0 else g
