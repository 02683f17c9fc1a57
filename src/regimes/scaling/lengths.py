"""Regimes with all their lengths scaled: a shorter rehearsal, or fewer and larger steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from regimes.core import paths
from regimes.core.duration import UNITS, Duration
from regimes.core.errors import DeclarationError
from regimes.core.regime import Regime

#: Everything that is an amount; a percentage scales with its whole.
AMOUNTS = tuple(unit for unit in UNITS if unit != "%")


def lengths(regime: Regime) -> Iterator[tuple[str, Any]]:
    """Yield (path, Duration or tuple of them) of every length in a regime."""
    for path, value in paths.walk(regime):
        if isinstance(value, Duration) or (isinstance(value, tuple) and value and isinstance(value[0], Duration)):
            yield path, value


def scaled(regime: Regime, factor: float, units: tuple[str, ...] = AMOUNTS) -> Regime:
    """Return a regime whose lengths in these units are `factor` times as long; whole steps and examples are rounded.

    Parameters
    ----------
    regime : Regime
    factor : float
    units : tuple of str

    Raises
    ------
    DeclarationError
        If a length would become nothing.

    Examples
    --------
    >>> from regimes import AdamW, Cosine, Regime
    >>> scaled(Regime(optimizer=AdamW(lr=Cosine(0.1, warmup="100 steps")), batch_size=8, budget="2k steps"), 0.25)
    Regime(optimizer=AdamW(lr=Cosine(0.1, warmup='25 steps')), batch_size=8, budget='500 steps')
    """
    edits: dict[str, Any] = {}
    for path, value in lengths(regime):
        if isinstance(value, tuple):
            edits[path] = tuple(_scaled(one, factor, units, path) for one in value)
        else:
            edits[path] = _scaled(value, factor, units, path)
    return paths.edit(regime, edits) if edits else regime


def _scaled(length: Duration, factor: float, units: tuple[str, ...], path: str) -> Duration:
    if length.unit not in units or length.value == 0:
        return length
    value = length.value * factor
    if length.unit in ("steps", "samples", "tokens"):
        value = float(int(value + 0.5))
    if value <= 0:
        raise DeclarationError(f"got '{length}', of which {factor:.3g} is nothing; allowed: a longer one", path)
    return Duration(value, length.unit)
