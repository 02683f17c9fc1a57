"""One type for every amount of training: steps, epochs, samples, tokens, FLOPs, or a share of a whole."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass

from regimes.core.errors import DeclarationError, nearest, show

UNITS = ("steps", "epochs", "samples", "tokens", "flops", "%")
TIME_UNITS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
}
TIME_UNITS |= {"h": 3600.0, "hour": 3600.0, "hours": 3600.0}
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_PATTERN = re.compile(r"^\s*([+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([kMBGT]?)\s*([A-Za-z%]+)\s*$")
_TIME = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*([a-z]+)\s*$")
_SINGULAR = {"step": "steps", "epoch": "epochs", "sample": "samples", "token": "tokens", "flop": "flops"}
_EXAMPLES = "write for example '500 steps', '2 epochs', '64k samples', '1B tokens', '1e15 flops' or '5%'"


@dataclass(frozen=True)
class Duration:
    """An amount of training with its unit.

    Parameters
    ----------
    value : float
        How many: finite, and not negative.
    unit : str
        One of steps, epochs, samples, tokens, flops, %. A bare number has no unit and is refused.

    Raises
    ------
    DeclarationError
        If the text has no unit, an unknown unit, or is negative or not finite.

    Examples
    --------
    >>> Duration.parse("64k samples")
    Duration('64000 samples')
    >>> str(Duration.parse("1.5B tokens")), str(Duration.parse("5%"))
    ('1500000000 tokens', '5%')
    >>> Duration.parse("500")
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: got '500', an amount without a unit; write for example \
'500 steps', '2 epochs', '64k samples', '1B tokens', '1e15 flops' or '5%'
    """

    value: float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise DeclarationError(f"got the unit {show(self.unit)}; {nearest(str(self.unit), UNITS)}")
        object.__setattr__(self, "value", _amount(self.value, self.unit))

    @classmethod
    def parse(cls, got: object) -> Duration:
        """Read a Duration from text, or return one unchanged; a bare number is refused."""
        if isinstance(got, Duration):
            return got
        if isinstance(got, bool) or not isinstance(got, str):
            raise DeclarationError(f"got {show(got)}, an amount without a unit; {_EXAMPLES}")
        match = _PATTERN.match(got)
        if not match:
            reason = "an amount without a unit" if _is_number(got) else "which is no amount"
            raise DeclarationError(f"got {show(got)}, {reason}; {_EXAMPLES}")
        number, scale, unit = match.groups()
        unit = _SINGULAR.get(unit.lower(), unit.lower())
        if unit in TIME_UNITS:
            raise DeclarationError(
                f"got {show(got)}, a time; a wall clock cannot be replayed, so time is only ever a limit "
                f"(max_time=) and never an amount; {_EXAMPLES}"
            )
        if unit not in UNITS:
            raise DeclarationError(f"got {show(got)} with the unknown unit '{unit}'; {nearest(unit, UNITS)}")
        value = float(number) * _SCALES[scale]
        if not math.isfinite(value):
            raise DeclarationError(f"got {show(got)}, which is not finite")
        return cls(value, unit)

    @property
    def share(self) -> float:
        """The fraction that a percentage stands for: 0.05 for '5%'."""
        if self.unit != "%":
            raise DeclarationError(f"'{self}' is no percentage")
        return self.value / 100.0

    def __str__(self) -> str:
        number = repr(int(self.value)) if self.value == int(self.value) and self.value < 1e15 else repr(self.value)
        return f"{number}%" if self.unit == "%" else f"{number} {self.unit}"

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"


def _amount(value: object, unit: str) -> float:
    """Return how many as a float; refuse what is no number, negative or not finite."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the range of floats
            number = math.inf
        if 0 <= number < math.inf:
            return number
    raise DeclarationError(f"got {show(value)} {unit}; allowed: a finite number >= 0")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def seconds(text: str | float | None) -> float | None:
    """Read a time limit such as '20 min' or '90 s'; plain numbers are seconds.

    Raises
    ------
    DeclarationError
        For what is no time, negative or not finite.

    Examples
    --------
    >>> seconds("20 min"), seconds(5), seconds(None)
    (1200.0, 5.0, None)
    """
    if text is None:
        return None
    if isinstance(text, int | float) and not isinstance(text, bool) and 0 <= text < math.inf:
        return float(text)
    match = _TIME.match(text) if isinstance(text, str) else None
    if not match or match[2] not in TIME_UNITS:
        raise DeclarationError(f"got {show(text)}; write a time such as '90 s', '20 min' or '2 h'")
    return float(match[1]) * TIME_UNITS[match[2]]


def steps(n: float) -> Duration:
    """Return `n` optimizer steps as a Duration.

    Examples
    --------
    >>> steps(500)
    Duration('500 steps')
    """
    return Duration(n, "steps")


def epochs(n: float) -> Duration:
    """Return `n` passes over the size of the phase's sources."""
    return Duration(n, "epochs")


def samples(n: float) -> Duration:
    """Return `n` examples drawn."""
    return Duration(n, "samples")


def tokens(n: float) -> Duration:
    """Return `n` units of non-zero weight."""
    return Duration(n, "tokens")


def flops(n: float) -> Duration:
    """Return `n` floating-point operations of work."""
    return Duration(n, "flops")
