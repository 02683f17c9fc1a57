"""Numbers as a person reads them. Everything here takes ``None`` for "not known" and prints a dash."""

from __future__ import annotations

import math

DASH = "–"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def decimals(margin: float | None) -> int:
    """Digits after the point at which a margin has two significant ones.

    Examples
    --------
    >>> [decimals(margin) for margin in (0.02, 0.005, 1.5, 30)]
    [3, 4, 1, 0]
    """
    if not margin:
        return 4
    return max(0, 1 - math.floor(math.log10(abs(margin))))


def plain(value: float | None, digits: int) -> str:
    """A number with a fixed count of digits after the point."""
    return DASH if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int) -> str:
    """The same with its sign, a true minus, and no sign on a rounded zero.

    Examples
    --------
    >>> signed(0.0749, 3), signed(-0.011, 3), signed(-0.0001, 3)
    ('+0.075', '−0.011', '0.000')
    """
    if value is None:
        return DASH
    shown = f"{value:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", "−")


def interval(low: float | None, high: float | None, digits: int) -> str:
    """``[+0.061, +0.089]``; an end that nothing bounds is ``None``.

    Examples
    --------
    >>> interval(-0.5, 0.25, 2), interval(None, None, 2)
    ('[−0.50, +0.25]', '[−∞, +∞]')
    """
    left, right = "−∞" if low is None else signed(low, digits), "+∞" if high is None else signed(high, digits)
    return f"[{left}, {right}]"


def count(value: float | None) -> str:
    """An amount: exact below 10 000, else three digits and a prefix.

    Examples
    --------
    >>> count(1172), count(300_000), count(1.234e15)
    ('1172', '300k', '1.23P')
    """
    if value is None:
        return DASH
    if abs(value) < 10_000:
        return f"{value:.4g}"
    size, prefix = next((size, prefix) for size, prefix in _PREFIXES if abs(value) >= 0.9995 * size)
    scaled = value / size
    return f"{scaled:.0f}{prefix}" if abs(scaled) >= 99.95 else f"{scaled:.3g}{prefix}"


def duration(seconds: float | None) -> str:
    """Measured time.

    Examples
    --------
    >>> duration(4.21), duration(60), duration(250), duration(7600)
    ('4.2 s', '60 s', '4 min 10 s', '2 h 7 min')
    """
    if seconds is None:
        return DASH
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60} min"


def memory(size: float | None) -> str:
    """Bytes in MiB or GiB.

    Examples
    --------
    >>> memory(3 * 2**30), memory(200 * 2**20)
    ('3.0 GiB', '200 MiB')
    """
    if size is None:
        return DASH
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def times(ratio: float | None) -> str:
    """Cost over the baseline's, ``1.08x``."""
    return DASH if ratio is None else f"{ratio:.2f}x"


def percent(fraction: float | None) -> str:
    """A share; one digit more where whole percents would round it to a certainty.

    Examples
    --------
    >>> percent(0.95), percent(0.995), percent(0.711)
    ('95%', '99.5%', '71%')
    """
    if fraction is None:
        return DASH
    return f"{100 * fraction:.1f}%" if 0.99 < fraction < 1 else f"{100 * fraction:.0f}%"


def price(more_seeds: int | None, more_seconds: float | None) -> str:
    """What it would take to decide; empty where nobody knows.

    Examples
    --------
    >>> price(7, 60.0)
    '7 more seeds (60 s) would decide'
    """
    if more_seeds is None:
        return ""
    cost = "" if more_seconds is None else f" ({duration(more_seconds)})"
    return f"{more_seeds} more seed{'s' if more_seeds != 1 else ''}{cost} would decide"


def listing(items: list[str], last: str = "and") -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""
