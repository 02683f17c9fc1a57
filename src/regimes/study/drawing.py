"""Small drawings for a terminal: a line in braille dots, a sparkline; amounts with SI prefixes."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Bit of each dot of a braille cell, by (column, row from above).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLOCKS = "▁▂▃▄▅▆▇█"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def highest(values: Sequence[float], count: int) -> list[float]:
    """Return the highest of the finite values in at most `count` equal stretches; one without any repeats the one before.

    Not their mean: a spike of a single step would be lost in it.

    Examples
    --------
    >>> highest([1.0, 3.0, float("nan"), 5.0], 2)
    [3.0, 5.0]
    """
    count = min(count, len(values))
    found: list[float] = []
    for place in range(count):
        part = values[place * len(values) // count : (place + 1) * len(values) // count]
        finite = [value for value in part if math.isfinite(value)]
        if finite:
            found.append(max(finite))
        elif found:
            found.append(found[-1])
    return found


def _levels(values: Sequence[float], count: int) -> list[int]:
    low, high = min(values), max(values)
    if high <= low:
        return [0 if high <= 0 else count - 1] * len(values)
    return [min(int((value - low) / (high - low) * count), count - 1) for value in values]


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a line of blocks, the lowest value lowest; where there are more values than blocks, the `highest`.

    Examples
    --------
    >>> sparkline([0.0, 1.0, 2.0, 3.0], 4)
    '▁▃▆█'
    """
    shown = highest(values, width)
    return "".join(_BLOCKS[level] for level in _levels(shown, len(_BLOCKS))) if shown else ""


def braille(values: Sequence[float], width: int, height: int) -> list[str]:
    """Return `height` lines of `width` braille cells with the values as a connected line.

    Examples
    --------
    >>> braille([0.0, 1.0, 2.0, 3.0], 2, 1)
    ['⡠⠊']
    """
    columns = _resampled(values, 2 * width)
    rows = [4 * height - 1 - level for level in _levels(columns, 4 * height)]
    cells = [[0] * width for _ in range(height)]
    for x, y in enumerate(rows):
        before = rows[x - 1] if x else y
        # The stroke down or up from the column before belongs to this column, but for its end.
        for dot in range(min(y, before + 1), max(y, before - 1) + 1):
            cells[dot // 4][x // 2] |= _DOTS[x % 2][dot % 4]
    return ["".join(chr(0x2800 + cell) for cell in line) for line in cells]


def _resampled(values: Sequence[float], count: int) -> list[float]:
    last = len(values) - 1
    return [values[round(place * last / max(count - 1, 1))] for place in range(count)]


def si(value: float, unit: str = "") -> str:
    """Return an amount with an SI prefix.

    Examples
    --------
    >>> si(1234.0), si(3.2e9, "FLOP"), si(17.0, "B")
    ('1.23 k', '3.20 GFLOP', '17 B')
    """
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}" if value / size >= 100 else f"{value / size:.2f} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
