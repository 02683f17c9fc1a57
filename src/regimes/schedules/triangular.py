"""Cyclic triangles between two values."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Literal

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Schedule, Span
from regimes.core.registry import register

_STEP = Duration(1.0, "steps")


@register
class Triangular(Schedule):
    r"""Rise from `base` to `peak` and fall back, again and again.

    With c = floor(x / (up + down)) the number of full cycles, h(x) in [0, 1] the triangle and k the step

    .. math:: s(x) = \text{base} + (\text{peak} - \text{base})\, h(x)\, g, \qquad
              g = 1,\ 2^{-c} \text{ or } \text{gamma}^k

    Parameters
    ----------
    peak : float
        Top of the first triangle (torch's max_lr).
    base : float
        Bottom (torch's base_lr). Default 0.
    up, down : Duration
        Length of rise and fall. Defaults 10%, and `down` as `up`.
    mode : {"triangular", "triangular2", "exp_range"}
        Which g, by torch's names. Default "triangular".
    gamma : float
        Shrinks the height once per step in mode "exp_range", and only there. Default 1.
    warmup : Duration
        Linear rise from 0 to `base`; default none.

    Raises
    ------
    DeclarationError
        If a rise or fall is nothing, `gamma` is given in another mode, or its steps cannot be converted.

    References
    ----------
    L. Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv:1506.01186;
    torch.optim.lr_scheduler.CyclicLR.

    Examples
    --------
    >>> s = Triangular(1.0, up="25%")
    >>> [s(f) for f in (0.0, 0.125, 0.25, 0.5, 0.75)]
    [0.0, 0.5, 1.0, 0.0, 1.0]
    >>> s = Triangular(1.0, 0.2, up="2 steps", down="3 steps", mode="exp_range", gamma=0.9)
    >>> [round(s(f, steps=10), 4) for f in (0.0, 0.1, 0.2, 0.5, 0.7)]
    [0.2, 0.56, 0.848, 0.2, 0.5826]
    """

    repeats = True

    peak: float = fixed()
    base: float = fixed(0.0)
    up: Duration = fixed(Duration(10.0, "%"))
    down: Duration | None = fixed(None)
    mode: Literal["triangular", "triangular2", "exp_range"] = fixed("triangular")
    gamma: float = fixed(1.0, above=0)

    card = Card(
        title="Cyclic triangles",
        axes=("rates",),
        source="Smith 2017, arXiv:1506.01186",
        when="Ensembles of snapshots; a first half cycle alone is a range test.",
        defaults={"base": "0; torch has none", "up": "ours; torch's 2000 steps know no budget"},
    )

    def validate(self) -> None:
        """Refuse a gamma that nothing reads."""
        if self.gamma != 1.0 and self.mode != "exp_range":
            raise DeclarationError(
                f"got {self.gamma:g} in mode '{self.mode}'; allowed: 1, or mode='exp_range'", "gamma"
            )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place rise and fall."""
        rise = self.share_of(span, "up")
        fall = rise if self.down is None else self.share_of(span, "down")
        whole, base, height = rise + fall, self.base, self.peak - self.base
        shrink = self._shrink(span)

        def value(x: float) -> float:
            cycle = floor(x / whole)
            inside = x - cycle * whole
            h = inside / rise if inside <= rise else (whole - inside) / fall
            return base + height * max(h, 0.0) * shrink(x, cycle)

        return value

    def _shrink(self, span: Span) -> Callable[[float, int], float]:
        if self.mode == "triangular2":
            return lambda x, cycle: 0.5**cycle
        if self.mode == "triangular":
            return lambda x, cycle: 1.0
        try:
            step = span.share(_STEP)
        except DeclarationError as why:
            raise why.within("gamma") from None
        return lambda x, cycle: self.gamma ** (x / step)
