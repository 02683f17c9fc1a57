"""Multiples of the peak at given moments, constant or linear in between."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.registry import register


@register
class Piecewise(Schedule):
    r"""Begin at `first` times the peak, and be at `factors[i]` times the peak at the moment `at[i]`.

    .. math::
        \text{constant:}\quad s(x) &= \text{peak}\, c_i, \quad a_i \le x < a_{i+1} \\
        \text{linear:}\quad s(x) &= \text{peak} \left(c_i + (c_{i+1} - c_i) \frac{x - a_i}{a_{i+1} - a_i}\right)

    with c_0 = first at a_0 = 0 (the end of the warm-up), and the last value held to the end.

    Parameters
    ----------
    peak : float
        Unit of all values: tuning it moves the whole table.
    at : tuple of Duration
        Moments a_1, a_2 ... in order, counted from the beginning of the stretch, warm-up included.
    factors : tuple of float
        c_1, c_2 ...: one per moment.
    interpolate : {"constant", "linear"}
        What happens in between. Default "constant".
    first : float
        c_0. Default 1: it begins at the peak.
    warmup : Duration
        Linear rise from 0; default none.

    Raises
    ------
    DeclarationError
        If there are not as many factors as moments, or moments are not in order between the warm-up and the end.

    References
    ----------
    optax.piecewise_constant_schedule, optax.piecewise_interpolate_schedule (whose factors multiply on).

    Examples
    --------
    >>> s = Piecewise(0.2, at=["50%", "100%"], factors=[0.5, 0], interpolate="linear")
    >>> [round(s(f), 4) for f in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.2, 0.15, 0.1, 0.05, 0.0]
    >>> s = Piecewise(0.2, at=["50%", "75%"], factors=[0.1, 1], warmup="10%")
    >>> [round(s(f), 4) for f in (0.05, 0.1, 0.49, 0.5, 0.75)]
    [0.1, 0.2, 0.2, 0.02, 0.2]
    """

    peak: float = fixed()
    at: tuple[Duration, ...] = fixed()
    factors: tuple[float, ...] = fixed()
    interpolate: Literal["constant", "linear"] = fixed("constant")
    first: float = fixed(1.0)

    card = Card(
        title="A table of values",
        axes=("rates", "phases"),
        source="optax.piecewise_constant_schedule, optax.piecewise_interpolate_schedule",
        when="A published table, or a rate re-drawn by hand.",
        deviations=("Factors are of the peak; optax's multiply what was before.",),
    )

    def validate(self) -> None:
        """Refuse moments without a factor."""
        if not self.at or len(self.at) != len(self.factors):
            raise DeclarationError(
                f"got {len(self.factors)} for {len(self.at)} moments; allowed: one per moment, and one at least",
                "factors",
            )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the moments."""
        places = [0.0, *self.moments_of(span, "at")]
        if len(set(places)) < len(places):
            raise DeclarationError(f"got {[str(m) for m in self.at]}; allowed: each moment once", "at")
        heights = [self.peak * factor for factor in (self.first, *self.factors)]
        linear = self.interpolate == "linear"

        def value(x: float) -> float:
            i = bisect_right(places, x + EDGE) - 1
            if not linear or i + 1 == len(places):
                return heights[i]
            past = x - places[i]
            if past < EDGE:  # at the point itself, as far as rounding can tell: its value, to the bit
                return heights[i]
            return heights[i] + (heights[i + 1] - heights[i]) * (past / (places[i + 1] - places[i]))

        return value
