"""The formula of each schedule in a script, after its warm-up: statements that end by returning its value at ``x``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from regimes.core.duration import Duration
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


def _constant(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    text.add(f"return {s.peak!r}")


def _linear(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    text.add(f"return (1 - x) * {s.peak!r}" + ("" if s.final == 0.0 else f" + x * {s.final!r}"))


def _cosine(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    half = (s.peak - s.final) * 0.5
    text.add("return " + _plus(s.final, f"{half!r} * (1 + math.cos(math.pi * x))"))


def _exponential(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    share = 1.0 if s.every is None else s.share_of(span, "every")
    text.add(f"return {s.peak!r} * {s.factor!r}" + ("**x" if share == 1.0 else f" ** (x / {share!r})"))


def _inverse_sqrt(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    tau = span.before if s.timescale is None else s.share_of(span, "timescale")
    text.add(f"return {s.peak!r} * math.sqrt({tau!r} / ({tau!r} + x))")


def _polynomial(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    power = "(1 - x)" if s.power == 1.0 else f"(1 - x) ** {s.power!r}"
    text.add("return " + _plus(s.final, f"{s.peak - s.final!r} * {power}"))


def _rex(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    text.add("return " + _plus(s.final, f"{s.peak - s.final!r} * ((1 - x) / (1 - {1.0 - s.beta!r} * x))"))


def _wsd(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    length = s.share_of(span, "decay", above=None)
    start, height = 1.0 - length, s.peak - s.final
    before, later = split(points, lambda x: x < start + EDGE or length == 0.0)
    if later == [] or length == 0.0:
        text.add(f"return {s.peak!r}")
        return
    if before != []:
        with text.block(f"if x < {start!r} + 1e-12:" if _nudged(points, start) != "x" else f"if x < {start!r}:"):
            text.add(f"return {s.peak!r}")
    end = start + length - EDGE
    inside, beyond = split(later, lambda x: x < end)
    if beyond != []:
        with text.block(f"if x >= {end!r}:"):
            text.add(f"return {s.final!r}")
    u = f"u = (x - {start!r}) / {length!r}"
    shapes = {
        "linear": f"{height!r} * (1 - u)",
        "sqrt": f"{height!r} * (1 - math.sqrt(u))",
        "cosine": f"{height * 0.5!r} * (1 + math.cos(math.pi * u))",
    }
    ratios = {
        "exponential": lambda: f"{s.peak!r} * {s.final / s.peak!r} ** u",
        "inverse": lambda: f"{s.peak!r} / ((1 - u) + u * {s.peak / s.final!r})",
    }
    value = ratios[s.decay_shape]() if s.decay_shape in ratios else _plus(s.final, shapes[s.decay_shape])
    if inside != []:
        text.add(u, f"return {value}")


def _up_to(right: float, x: float) -> bool:
    return x <= right or right == 1.0


def _before(end: float, x: float) -> bool:
    return x + EDGE < end


def _one_cycle(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    start = s.peak / s.div_factor
    heights = [start, s.peak, *([start] if s.three_phase else []), start / s.final_div_factor]
    places = s._places(span)
    pieces = list(zip(zip(places, places[1:]), zip(heights, heights[1:])))
    for place, ((left, right), (low, high)) in enumerate(pieces):
        inside, points = split(points, functools.partial(_up_to, right))
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


def _piecewise(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    places = [0.0, *s.moments_of(span, "at")]
    heights = [s.peak * factor for factor in (s.first, *s.factors)]
    for i, (height, begin) in enumerate(zip(heights, places)):
        last = i + 1 == len(places)
        end = 2.0 if last else places[i + 1]
        nudge = _nudged(points, end)
        inside, points = split(points, functools.partial(_before, end))
        if inside == []:
            continue
        value = repr(height)
        if s.interpolate == "linear" and not last:
            close = inside is None or any(x - begin < EDGE and x != begin for x in inside)
            t = "x" if begin == 0.0 else f"(x - {begin!r})"
            t = f"({t} if {t} >= 1e-12 else 0.0)" if close else t
            value = f"{height!r} + {heights[i + 1] - height!r} * ({t} / {end - begin!r})"
        if last or points == []:
            text.add(f"return {value}")
            return
        with text.block(f"if {nudge} < {end!r}:"):
            text.add(f"return {value}")


def _step(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    places = s.moments_of(span, "milestones")
    nudge = "x + 1e-12" if any(_nudged(points, place) != "x" for place in places) else "x"
    milestones = ", ".join(map(repr, places)) + ("," if len(places) == 1 else "")
    text.add(f"return {s.peak!r} * {s.factor!r} ** sum({nudge} >= place for place in ({milestones}))")


def _triangular(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
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
    return span.share(Duration(1.0, "steps"))


def _warm_restarts(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    length, half = s.share_of(span, "period"), (s.peak - s.final) * 0.5
    text.add(f"t = x / {length!r}", "late = t * (1 + 1e-12) + 1e-9  # a period ends on its step, although rounded")
    if s.growth == 1.0:
        text.add("t = max(t - math.floor(late), 0.0)")
    else:
        text.add(f"number = math.floor(math.log1p(late * {s.growth - 1.0!r}) / math.log({s.growth!r}))")
        past = f"math.expm1(number * math.log({s.growth!r})) / {s.growth - 1.0!r}"
        text.add(f"t = max(t - {past}, 0.0) / {s.growth!r}**number")
    text.add("return " + _plus(s.final, f"{half!r} * (1 + math.cos(math.pi * t))"))


def _inner(own: Any, part: Schedule, span: Span, x: str, points: Points, name: str) -> str:
    return own.expression(
        part, span.alone(), dict.fromkeys(("phase", "run"), x), dict.fromkeys(("phase", "run"), points), name
    )


def _clip(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    value = _inner(own, s.schedule, span, "x", points, f"{name}_inside")
    value = value if s.low is None else f"max({value}, {s.low!r})"
    text.add(f"return {value if s.high is None else f'min({value}, {s.high!r})'}")


def _sampled(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    every = s.share_of(span, "every")
    read = None if points is None else [min(int(x / every + 1e-9) * every, 1.0) for x in points]
    text.add(f"x = min(int(x / {every!r} + 1e-9) * {every!r}, 1.0)")
    text.add(f"return {_inner(own, s.schedule, span, 'x', read, f'{name}_inside')}")


def _window(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
    length = s.share_of(span, "length")
    begin = span.place(s.start) if s.start.value else 0.0
    read = None if points is None else [min(max((x - begin) / length, 0.0), 1.0) for x in points]
    text.add(f"x = min(max((x - {begin!r}) / {length!r}, 0.0), 1.0)")
    text.add(f"return {_inner(own, s.schedule, span.part(begin, begin + length), 'x', read, f'{name}_inside')}")


def _then(own: Any, text: Lines, s: Any, span: Span, points: Points, name: str) -> None:
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


CURVES: dict[type, Any] = {
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
