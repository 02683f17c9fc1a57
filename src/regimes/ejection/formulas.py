"""Schedules as functions of a script: the formula of each, with Durations placed, and only the pieces that are reached.

Every formula computes what the schedule computes, in the same order of operations: the same bits. Constants are
folded only where that is exact (a factor of one half).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from regimes.core.algebra import Pair
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.ejection.text import Lines
from regimes.schedules import (
    REX,
    WSD,
    Clip,
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Sampled,
    Step,
    Then,
    Triangular,
    WarmRestarts,
    Window,
)

#: Where a schedule is read: None where that is not known beforehand, and every piece has to stand.
Points = Sequence[float] | None


class Formulas:
    """Collects the functions that a script needs for its schedules.

    Examples
    --------
    >>> from regimes.core.kinds import percent_span
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
        if type(schedule) not in _CURVES:
            allowed = ", ".join(sorted(cls.__name__ for cls in _CURVES))
            raise DeclarationError(f"got {show(schedule)}, whose formula no script knows; allowed: {allowed}")
        rise = schedule.share_of(span, "warmup", above=None)
        after = span.after(min(rise, 1.0))
        stretch = schedule._stretch(after)
        if rise > 0.0 or stretch != 1.0:
            points = _rise(text, schedule, after, (rise, stretch), points)
        if points is None or points:
            _CURVES[type(schedule)](self, text, schedule, after, points, name)


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


def split(points: Points, test: Callable[[float], bool]) -> tuple[Points, Points]:
    """Return the points for which a test holds, and the others."""
    if points is None:
        return None, None
    return [x for x in points if test(x)], [x for x in points if not test(x)]


def _nudged(points: Points, border: float) -> str:
    """What stands for x where a border is compared that rounding may have missed."""
    close = points is None or any(abs(x - border) < 1e-9 for x in points)
    return "x + 1e-12" if close else "x"


def _plus(final: float, text: str) -> str:
    return text if final == 0.0 else f"{final!r} + {text}"


# -- the curves --------------------------------------------------------------------------------------------------------


def _constant(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    text.add(f"return {s.peak!r}")


def _linear(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    text.add(f"return (1 - x) * {s.peak!r}" + ("" if s.final == 0.0 else f" + x * {s.final!r}"))


def _cosine(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    half = (s.peak - s.final) * 0.5
    text.add("return " + _plus(s.final, f"{half!r} * (1 + math.cos(math.pi * x))"))


def _exponential(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    share = 1.0 if s.every is None else s.share_of(span, "every")
    text.add(f"return {s.peak!r} * {s.factor!r}" + ("**x" if share == 1.0 else f" ** (x / {share!r})"))


def _inverse_sqrt(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    tau = span.before if s.timescale is None else s.share_of(span, "timescale")
    text.add(f"return {s.peak!r} * math.sqrt({tau!r} / ({tau!r} + x))")


def _polynomial(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    power = "(1 - x)" if s.power == 1.0 else f"(1 - x) ** {s.power!r}"
    text.add("return " + _plus(s.final, f"{s.peak - s.final!r} * {power}"))


def _rex(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    text.add("return " + _plus(s.final, f"{s.peak - s.final!r} * ((1 - x) / (1 - {1.0 - s.beta!r} * x))"))


def _wsd(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    length = s.share_of(span, "decay", above=None)
    start, height = 1.0 - length, s.peak - s.final
    before, later = split(points, lambda x: x < start or length == 0.0)
    if later == [] or length == 0.0:
        text.add(f"return {s.peak!r}")
        return
    if before != []:
        with text.block(f"if x < {start!r}:"):
            text.add(f"return {s.peak!r}")
    beyond = later is None or any((x - start) / length > 1.0 for x in later)
    text.add(f"u = min((x - {start!r}) / {length!r}, 1.0)" if beyond else f"u = (x - {start!r}) / {length!r}")
    shapes = {
        "linear": f"{height!r} * (1 - u)",
        "sqrt": f"{height!r} * (1 - math.sqrt(u))",
        "cosine": f"{height * 0.5!r} * (1 + math.cos(math.pi * u))",
    }
    text.add("return " + _plus(s.final, shapes[s.decay_shape]))


def _one_cycle(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    start = s.peak / s.div_factor
    heights = [start, s.peak, *([start] if s.three_phase else []), start / s.final_div_factor]
    places = s._places(span)
    pieces = list(zip(zip(places, places[1:]), zip(heights, heights[1:])))
    for place, ((left, right), (low, high)) in enumerate(pieces):
        inside, points = split(points, lambda x, right=right: x <= right or right == 1.0)
        if inside == []:
            continue
        u = f"x / {right - left!r}" if left == 0.0 else f"(x - {left!r}) / {right - left!r}"
        if s.anneal_strategy == "cos":
            value = f"{low!r} + {(high - low) * 0.5!r} * (1 - math.cos(math.pi * ({u})))"
        else:
            value = f"{low!r} + {high - low!r} * ({u})"
        if place + 1 == len(pieces) or points == []:
            text.add(f"return {value}")
            return
        with text.block(f"if x <= {right!r}:"):
            text.add(f"return {value}")


def _piecewise(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    places = [0.0, *s.moments_of(span, "at")]
    heights = [s.peak, *(s.peak * factor for factor in s.factors)]
    for i, (height, begin) in enumerate(zip(heights, places)):
        last = i + 1 == len(places)
        end = 2.0 if last else places[i + 1]
        nudge = _nudged(points, end)
        inside, points = split(points, lambda x, end=end: x + EDGE < end)
        if inside == []:
            continue
        value = repr(height)
        if s.interpolate == "linear" and not last:
            early = inside is None or any(x < begin for x in inside)
            t = "x" if begin == 0.0 else f"max(x - {begin!r}, 0.0)" if early else f"(x - {begin!r})"
            value = f"{height!r} + {heights[i + 1] - height!r} * ({t} / {end - begin!r})"
        if last or points == []:
            text.add(f"return {value}")
            return
        with text.block(f"if {nudge} < {end!r}:"):
            text.add(f"return {value}")


def _step(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    places = s.moments_of(span, "milestones")
    nudge = "x + 1e-12" if any(_nudged(points, place) != "x" for place in places) else "x"
    milestones = ", ".join(map(repr, places)) + ("," if len(places) == 1 else "")
    text.add(f"return {s.peak!r} * {s.factor!r} ** sum({nudge} >= place for place in ({milestones}))")


def _triangular(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    rise = s.share_of(span, "up")
    fall = rise if s.down is None else s.share_of(span, "down")
    shrink = {"triangular": "", "triangular2": " * 0.5**cycle"}.get(s.mode)
    if shrink is None:
        shrink = f" * {s.gamma!r} ** (x / {_one_step(span)!r})"
    text.add(f"up, down, whole = {rise!r}, {fall!r}, {rise + fall!r}")
    text.add("cycle = math.floor(x / whole)", "inside = x - cycle * whole")
    text.add("height = inside / up if inside <= up else (whole - inside) / down")
    text.add("return " + _plus(s.base, f"{s.peak - s.base!r} * max(height, 0.0){shrink}"))


def _one_step(span: Span) -> float:
    from regimes.core.duration import Duration

    return span.share(Duration(1.0, "steps"))


def _warm_restarts(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    length, half = s.share_of(span, "period"), (s.peak - s.final) * 0.5
    text.add(f"t = x / {length!r}", "late = t * (1 + 1e-12) + 1e-9  # a period ends on its step, although rounded")
    if s.growth == 1.0:
        text.add("t = max(t - math.floor(late), 0.0)")
    else:
        text.add(f"number = math.floor(math.log1p(late * {s.growth - 1.0!r}) / math.log({s.growth!r}))")
        past = f"math.expm1(number * math.log({s.growth!r})) / {s.growth - 1.0!r}"
        text.add(f"t = max(t - {past}, 0.0) / {s.growth!r}**number")
    text.add("return " + _plus(s.final, f"{half!r} * (1 + math.cos(math.pi * t))"))


def _inner(own: Formulas, part: Schedule, span: Span, x: str, points: Points, name: str) -> str:
    return own.expression(
        part, span.alone(), dict.fromkeys(("phase", "run"), x), dict.fromkeys(("phase", "run"), points), name
    )


def _clip(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    value = _inner(own, s.schedule, span, "x", points, f"{name}_inside")
    value = value if s.low is None else f"max({value}, {s.low!r})"
    text.add(f"return {value if s.high is None else f'min({value}, {s.high!r})'}")


def _sampled(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    every = s.share_of(span, "every")
    read = None if points is None else [min(int(x / every + 1e-9) * every, 1.0) for x in points]
    text.add(f"x = min(int(x / {every!r} + 1e-9) * {every!r}, 1.0)")
    text.add(f"return {_inner(own, s.schedule, span, 'x', read, f'{name}_inside')}")


def _window(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    length = s.share_of(span, "length")
    begin = span.place(s.start) if s.start.value else 0.0
    read = None if points is None else [min(max((x - begin) / length, 0.0), 1.0) for x in points]
    text.add(f"x = min(max((x - {begin!r}) / {length!r}, 0.0), 1.0)")
    text.add(f"return {_inner(own, s.schedule, span.part(begin, begin + length), 'x', read, f'{name}_inside')}")


def _then(own: Formulas, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    border = s._border(span)
    close = points is None or any(abs(x - border) < 1e-9 for x in points)
    before, later = split(points, lambda x: x < border - EDGE)
    if before != []:
        read = None if before is None else [x / border for x in before]
        value = _inner(own, s.first, span.part(0.0, border), f"x / {border!r}", read, f"{name}_first")
        if later == []:
            text.add(f"return {value}")
            return
        with text.block(f"if x < {border!r} - 1e-12:" if close else f"if x < {border!r}:"):
            text.add(f"return {value}")
    past = f"max(x - {border!r}, 0.0)" if close else f"(x - {border!r})"
    read = None if later is None else [max(x - border, 0.0) / (1.0 - border) for x in later]
    place = f"{past} / {1.0 - border!r}"
    text.add(f"return {_inner(own, s.second, span.part(border, 1.0), place, read, f'{name}_second')}")


_CURVES: dict[type, Any] = {
    Clip: _clip,
    Constant: _constant,
    Cosine: _cosine,
    Exponential: _exponential,
    InverseSqrt: _inverse_sqrt,
    Linear: _linear,
    OneCycle: _one_cycle,
    Piecewise: _piecewise,
    Polynomial: _polynomial,
    REX: _rex,
    Sampled: _sampled,
    Step: _step,
    Then: _then,
    Triangular: _triangular,
    WSD: _wsd,
    WarmRestarts: _warm_restarts,
    Window: _window,
}
