"""How a rate falls from one value to another: the shapes of decays that schedules share."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sqrt
from typing import Literal

from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE

Shape = Literal["linear", "sqrt", "cosine", "exponential", "inverse"]

#: d(u), from 1 at u = 0 to 0 at u = 1; the value is low + (high - low) d(u).
_SHARES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1.0 - u,
    "sqrt": lambda u: 1.0 - sqrt(u),
    "cosine": lambda u: 0.5 * (1.0 + cos(pi * u)),
    "inverse_sqrt": lambda u: 1.0 - _rooted(u) / _rooted(1.0),
}
#: The value from high, low and u where it is not of that form: its logarithm, or its inverse, moves in a straight line.
_RATIOS: dict[str, Callable[[float, float, float], float]] = {
    "exponential": lambda high, low, u: high * (low / high) ** u,
    "inverse": lambda high, low, u: high / ((1.0 - u) + u * (high / low)),
}
#: Of inverse_sqrt: by how much 1 / value^2 grows over the fall, if it fell towards 0.
TIMESCALE = 10.0


def _rooted(u: float) -> float:
    return 1.0 / sqrt(1.0 + TIMESCALE * u) - 1.0


def fall(shape: str, high: float, low: float) -> Callable[[float], float]:
    """Return the value as a function of the share u of the fall; at u = 1 it is `low`, to the bit.

    Parameters
    ----------
    shape : str
        With h = high and l = low: "linear", l + (h - l) (1 - u); "sqrt", l + (h - l) (1 - sqrt(u)); "cosine",
        l + (h - l) (1 + cos(pi u)) / 2; "exponential", h (l / h)^u; "inverse", 1 / ((1 - u) / h + u / l);
        "inverse_sqrt", l + (h - l) (r(u) - r(1)) / (1 - r(1)) with r(u) = 1 / sqrt(1 + 10 u).
    high, low : float

    Examples
    --------
    >>> {shape: round(fall(shape, 1.0, 0.25)(0.5), 4) for shape in (*_SHARES, *_RATIOS)}
    {'linear': 0.625, 'sqrt': 0.4697, 'cosine': 0.625, 'inverse_sqrt': 0.3646, 'exponential': 0.5, 'inverse': 0.4}
    """
    if shape in _RATIOS:
        ratio = _RATIOS[shape]
        return lambda u: ratio(high, low, u) if u < 1.0 else low
    share, height = _SHARES[shape], high - low
    return lambda u: low + height * share(u)


def held_then(falls: Callable[[float], float], high: float, start: float, length: float) -> Callable[[float], float]:
    """Return `high` until `start`, then what falls over `length`, then its last value; no length, no fall."""
    if length == 0.0:
        return lambda x: high
    # The nudges give the steps at which the fall begins and ends its first and last value although their places are rounded.
    begin, end, low = start + EDGE, start + length - EDGE, falls(1.0)
    return lambda x: high if x < begin else falls((x - start) / length) if x < end else low


def refuse_zero(shape: str, high: float, low: float, key: str) -> None:
    """Refuse an end at or below 0 where what moves in a straight line is a logarithm or an inverse.

    Raises
    ------
    DeclarationError
    """
    if shape in _RATIOS and not (high > 0.0 and low > 0.0):
        raise DeclarationError(f"got '{shape}' from {high:g} to {low:g}; allowed: both above 0, or another shape", key)
