"""Schedules as functions of a script: the formula of each, with Durations placed, and only the pieces that are reached.

Every formula computes what the schedule computes, in the same order of operations: the same bits. Constants are
folded only where that is exact (a factor of one half).
"""

from __future__ import annotations

from typing import Any

from regimes.core.algebra import Pair
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.ejection.curves import CURVES, Points, split
from regimes.ejection.text import Lines
from regimes.schedules import Constant


class Formulas:
    """Collects the functions that a script needs for its schedules.

    Examples
    --------
    >>> from regimes.core.kinds import percent_span
    >>> from regimes.schedules import Cosine
    >>> made = Formulas()
    >>> made.expression(Cosine(0.1) * 0.5, percent_span(), {"phase": "done"}, {"phase": None}, "lr")
    'lr(done) * 0.5'
    >>> print("\\n".join(made.functions[0]))
    def lr(x):
        \"\"\"Cosine(0.1), with x the share that is done.\"\"\"
        return 0.05 * (1 + math.cos(math.pi * x))
    """

    def __init__(self) -> None:
        self.functions: list[list[str]] = []
        self._names: dict[tuple[str, ...], str] = {}
        self._taken: set[str] = set()

    def expression(self, value: Any, span: Span, clocks: dict[str, str], points: dict[str, Points], name: str) -> str:
        """Return an expression for a number, or for a schedule read at the clocks' present place.

        Parameters
        ----------
        value : float or Schedule
        span : Span
            The stretch that it follows.
        clocks : dict of str to str
            Expression for what "phase" and "run" have done.
        points : dict of str to sequence of float or None
            Where it is read, by the same keys.
        name : str
            What its function is called.
        """
        if not isinstance(value, Schedule):
            return repr(value)
        if isinstance(value, Pair):
            left = self.expression(value.left, span, clocks, points, name)
            right = self.expression(value.right, span, clocks, points, name)
            if isinstance(value.left, Pair) and value.left.operation != value.operation:
                left = f"({left})"
            return (
                f"{left} {value.operation} ({right})"
                if isinstance(value.right, Pair)
                else f"{left} {value.operation} {right}"
            )
        own = span.of(value.over)
        if type(value) is Constant and value.share_of(own, "warmup", above=None) == 0.0:
            return repr(value.peak)
        return f"{self._function(value, span, points[value.over], name)}({clocks[value.over]})"

    def has(self, name: str) -> bool:
        """Whether a function is called so."""
        return name in self._taken

    def _function(self, schedule: Schedule, span: Span, points: Points, name: str) -> str:
        text = Lines()
        inner = Lines()
        self._body(inner, schedule, span.of(schedule.over), points, name)
        body = [f"    {line}" for line in inner.lines]
        key = (repr(schedule), *body)
        if key in self._names:
            return self._names[key]
        name = self._free(name)
        said = f'    """{schedule!r}, with x the share that is done."""'.replace("'", "'")
        text.add(f"def {name}(x):")
        text.lines += [
            said if len(said) <= 120 else f'    """{type(schedule).__name__}, with x the share that is done."""'
        ]
        self.functions.append([*text.lines, *body])
        self._names[key] = name
        return name

    def _free(self, name: str) -> str:
        found, number = name, 2
        while found in self._taken:
            found, number = f"{name}_{number}", number + 1
        self._taken.add(found)
        return found

    def _body(self, text: Lines, schedule: Schedule, span: Span, points: Points, name: str) -> None:
        """The rise, then the curve after it."""
        if type(schedule) not in CURVES:
            allowed = ", ".join(sorted(cls.__name__ for cls in CURVES))
            raise DeclarationError(f"got {show(schedule)}, whose formula no script knows; allowed: {allowed}")
        rise = schedule.share_of(span, "warmup", above=None)
        after = span.after(min(rise, 1.0))
        stretch = schedule._stretch(after)
        if rise > 0.0 or stretch != 1.0:
            points = _rise(text, schedule, after, (rise, stretch), points)
        if points is None or points:
            CURVES[type(schedule)](self, text, schedule, after, points, name)


def _rise(text: Lines, schedule: Schedule, after: Span, shape: tuple[float, float], points: Points) -> Points:
    """The linear warm-up; returns where the curve after it is read."""
    rise, stretch = shape
    left = max(1.0 - rise, EDGE)
    before, later = split(points, lambda x: x < rise)
    if rise > 0.0 and before != []:
        first = f"{schedule.shape(after)(0.0)!r} * (x / {rise!r})"
        if later == []:
            text.add(f"return {first}")
            return []
        with text.block(f"if x < {rise!r}:"):
            text.add(f"return {first}")
    moved = None if later is None else [(x - rise) / left * stretch for x in later]
    shifted = f"(x - {rise!r}) / {left!r}" if rise > 0.0 else "x"
    text.add(f"x = {shifted}" + (f" * {stretch!r}" if stretch != 1.0 else ""))
    if moved is None or any(x >= 1.0 - EDGE for x in moved):
        text.add("x = x if x < 1 - 1e-12 else 1.0")
        moved = None if moved is None else [x if x < 1.0 - EDGE else 1.0 for x in moved]
    return moved
