"""Which schedule a table of values is: parameters read off the table, and how far off the best family is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, RegimesError, nearest
from regimes.core.kinds import Schedule, percent_span
from regimes.core.progress import Progress
from regimes.schedules import REX, WSD, Constant, Cosine, Exponential, InverseSqrt, Linear
from regimes.schedules.shapes import Shape, fall
from regimes.study.schedule_tables import Table, table_of

#: Errors that differ by less, relative to the largest value, are rounding.
_SAME = 1e-12


class Fit(NamedTuple):
    """A schedule, and how far it is from a table.

    Parameters
    ----------
    schedule : Schedule
    error : float
        Largest absolute difference over the points.
    at : float
        Position of that point.
    """

    schedule: Schedule
    error: float
    at: float

    def __str__(self) -> str:
        return f"{self.schedule!r}, off by {self.error:.3g} at most (at {self.at:g})"


class _Ends(NamedTuple):
    """What is read off a table; `x` and `left` are shares of what follows the warm-up."""

    before: float  # the warm-up, of the whole
    peak: float  # the value after it
    left: float  # where the peak is left for good
    x: float  # where the last point is
    last: float  # its value


Warmup = dict[str, Any]
Build = Callable[[_Ends, Duration, Warmup], Schedule]


def fit_schedule(
    points: Any,
    steps: int | None = None,
    families: Sequence[str] | None = None,
    *,
    position: str | None = None,
    value: str | None = None,
) -> Fit:
    """Return which usual schedule a table of values is, and how far off it is.

    Parameters are read off the table, not optimized: the warm-up ends at the first highest value, a decay begins at the
    last, and the final value (or the factor, or the time scale) is what leads through the last point. A table that was
    made by one of the families, with its peak among the points, is found; of another it says how far the nearest reading
    is off. `from_table` goes through every point.

    Parameters
    ----------
    points : as of `from_table`
    steps : int, optional
        How many steps the stretch has; needed where positions are steps, as the last one logged is not the end.
    families : sequence of str, optional
        Among Constant, Linear, Cosine, Exponential, InverseSqrt, REX, and WSD with each shape. Default all.
    position, value : str, optional
        As of `from_table`.

    Returns
    -------
    Fit
        The schedule with the least largest error, the first of the families where several agree to rounding.

    Raises
    ------
    DeclarationError
        As `from_table`; for a family that is not among them, or steps that are missing or fewer than the table's.

    Examples
    --------
    >>> logged = [(t, Cosine(3e-4, 3e-5, warmup="100 steps")(t / 1000, steps=1000)) for t in range(0, 1000, 50)]
    >>> print(fit_schedule(logged, steps=1000))
    Cosine(0.0003, final=3e-05, warmup='100 steps'), off by 0 at most (at 0)
    >>> print(fit_schedule(logged, steps=1000, families=["Linear"]))
    Linear(0.0003, final=1.62892447165e-05, warmup='100 steps'), off by 3.15e-05 at most (at 300)
    """
    table = table_of(points, position, value)
    last = table.positions[-1]
    if table.in_steps and (steps is None or steps <= last):
        raise DeclarationError(f"got {steps}; allowed: how many there are in all, more than {last:g}", "steps")
    whole = float(steps) if table.in_steps and steps is not None else 1.0
    wanted = tuple(_FAMILIES) if families is None else tuple(families)
    for name in wanted:
        if name not in _FAMILIES:
            raise DeclarationError(f"there is no '{name}'; {nearest(name, _FAMILIES)}", "families")
    found = [_judged(schedule, table, whole) for schedule in _readings(table, whole, wanted)]
    if not found:
        raise DeclarationError(f"no schedule of {', '.join(wanted)} leads through the last point", "families")
    least = min(fit.error for fit in found) + _SAME * max(abs(v) for v in table.values)
    return next(fit for fit in found if fit.error <= least)


def _readings(table: Table, whole: float, families: Sequence[str]) -> Iterator[Schedule]:
    """Every family's reading of a table, with and without a warm-up."""
    values, x = table.values, [p / whole for p in table.positions]
    top = max(range(len(values)), key=lambda i: values[i])
    for begin in dict.fromkeys((0, top)):
        peak, rest = values[begin], 1.0 - x[begin]
        kept = max(i for i, v in enumerate(values) if v >= peak * (1.0 - 1e-12) or i == begin)
        ends = _Ends(x[begin], peak, (x[kept] - x[begin]) / rest, (x[-1] - x[begin]) / rest, values[-1])
        warmup = {"warmup": table.moment(table.positions[begin])} if x[begin] > 0.0 else {}
        decay = Duration(whole - table.positions[kept], "steps") if table.in_steps else table.moment(1.0 - x[kept])
        for name in families:
            for build in _FAMILIES[name]:
                try:
                    yield build(ends, decay, warmup)
                except (
                    RegimesError,
                    ArithmeticError,
                    ValueError,
                ):  # no value of the family leads through the last point
                    continue


def _judged(schedule: Schedule, table: Table, whole: float) -> Fit:
    function = schedule.bind(percent_span(round(whole) if table.in_steps else None))
    off = [
        (abs(function(Progress(fraction=p / whole, run_fraction=p / whole)) - v), p)
        for p, v in zip(table.positions, table.values)
    ]
    error, at = max(off, key=lambda pair: pair[0])
    return Fit(schedule, error, at)


def _clean(number: float) -> float:
    """A number without the last digits that rounding leaves."""
    return float(f"{number:.12g}")


def _final(ends: _Ends, share: float) -> float:
    """The end of a fall from the peak that has `share` of its height left at the last point."""
    return _clean((ends.last - ends.peak * share) / (1.0 - share))


def _inverse_sqrt(e: _Ends, decay: Duration, warmup: Warmup) -> Schedule:
    tau = e.x * e.last**2 / (e.peak**2 - e.last**2)
    return InverseSqrt(e.peak, Duration(_clean(100.0 * tau * (1.0 - e.before)), "%"), **warmup)


def _wsd(shape: str) -> Build:
    def build(e: _Ends, decay: Duration, warmup: Warmup) -> Schedule:
        u = (e.x - e.left) / (1.0 - e.left)
        if shape == "exponential":
            final = _clean(e.peak * (e.last / e.peak) ** (1.0 / u))
        elif shape == "inverse":
            final = _clean(u / (1.0 / e.last - (1.0 - u) / e.peak))
        else:
            final = _final(e, fall(shape, 1.0, 0.0)(u))
        return WSD(e.peak, decay, final, shape, **warmup)

    return build


_FAMILIES: dict[str, Sequence[Build]] = {
    "Constant": [lambda e, decay, warmup: Constant(e.peak, **warmup)],
    "Linear": [lambda e, decay, warmup: Linear(e.peak, _final(e, 1.0 - e.x), **warmup)],
    "Cosine": [lambda e, decay, warmup: Cosine(e.peak, _final(e, Cosine(1.0).curve(e.x)), **warmup)],
    "Exponential": [lambda e, decay, warmup: Exponential(e.peak, _clean((e.last / e.peak) ** (1.0 / e.x)), **warmup)],
    "InverseSqrt": [_inverse_sqrt],
    "REX": [lambda e, decay, warmup: REX(e.peak, final=_final(e, REX(1.0).curve(e.x)), **warmup)],
    "WSD": [_wsd(shape) for shape in get_args(Shape)],
}
