"""Cosine annealing with warm restarts."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, expm1, floor, log, log1p, pi

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.kinds import Schedule, Span
from regimes.core.registry import register


@register
class WarmRestarts(Schedule):
    r"""Half a cosine from `peak` to `final`, started again after each period, each `growth` times as long.

    With T_i = period * growth^i, and u in [0, 1) the share of the running period

    .. math:: s = \eta_{min} + \tfrac12 (\eta_{max} - \eta_{min}) (1 + \cos \pi u)

    Parameters
    ----------
    peak : float
        eta_max, at the start of every period.
    period : Duration
        T_0, the first period.
    growth : float
        torch's T_mult >= 1, which need not be an integer here. Default 1.
    final : float
        eta_min. Default 0.
    warmup : Duration
        Linear rise from 0; the first period starts after it. Default none.

    Raises
    ------
    DeclarationError
        If the period is nothing, or cannot be converted to the budget's unit.

    Notes
    -----
    Periods that fill the budget restart at its very end, after the last step: with T_mult 2, T_0 of 1/7, 1/15 ...

    References
    ----------
    I. Loshchilov and F. Hutter, SGDR, ICLR 2017, arXiv:1608.03983, eq. 5;
    torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.

    Examples
    --------
    >>> s = WarmRestarts(1.0, period="25%", growth=3)
    >>> [round(s(f), 4) for f in (0.0, 0.125, 0.25, 0.625, 1.0)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    repeats = True

    peak: float = fixed()
    period: Duration = fixed()
    growth: float = fixed(1.0, low=1)
    final: float = fixed(0.0)

    card = Card(
        title="Cosine with warm restarts",
        axes=("rates",),
        source="Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983",
        when="Anytime training; snapshots at the ends of periods.",
        defaults={"growth": "1, torch", "final": "0, torch"},
    )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the first period."""
        length, growth = self.share_of(span, "period"), self.growth
        final, height = self.final, self.peak - self.final

        def value(x: float) -> float:
            return final + height * 0.5 * (1.0 + cos(pi * _running(x / length, growth)))

        return value


def _running(t: float, growth: float) -> float:
    """Share of the running period at time `t`, in units of the first.

    The i-th begins at (growth^i - 1) / (growth - 1). The nudge restarts on the very step where a period ends, although
    its time is rounded.
    """
    late = t * (1.0 + 1e-12) + 1e-9
    if growth == 1.0:
        return max(t - floor(late), 0.0)
    rate = log(growth)
    number = floor(log1p(late * (growth - 1.0)) / rate)
    return max(t - expm1(number * rate) / (growth - 1.0), 0.0) / growth**number
