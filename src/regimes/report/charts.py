"""Learning curves and paired differences as Altair charts. They name no color: `palette.theme` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from . import curves as measured
from .facts import Study
from .lines import Lines, Rows

if TYPE_CHECKING:
    import altair as alt

    Layers = alt.LayerChart | alt.FacetChart


class Tables(dict[str, Rows]):
    """The rows that charts read, by name.

    Parameters
    ----------
    named : dict, optional
        Names of rows that other charts have put down before, shared with theirs: by identity, with the rows.
    """

    def __init__(self, named: dict[int, tuple[Rows, str]] | None = None) -> None:
        super().__init__()
        self._named = {} if named is None else named

    def name(self, rows: Rows) -> str:
        """Put rows down and return their name."""
        if id(rows) not in self._named:
            self._named[id(rows)] = rows, f"rows-{len(self._named)}"
        name = self._named[id(rows)][1]
        self[name] = rows
        return name


SI = ("samples", "tokens", "flops")
SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+~g')"


def names(study: Study) -> list[str]:
    """Arms in the order of their colors: the baseline first."""
    return [arm["name"] for arm in study["arms"]]


#: Stands for the names of all arms until a chart is done: Altair would check and copy each name in every layer.
_ALL = ["all arms"]


def color() -> alt.Color:
    """One hue per arm, the same in every chart."""
    import altair as alt

    return alt.Color("arm:N", scale=alt.Scale(domain=_ALL), legend=None)


def _shown() -> alt.Parameter:
    """The arms a reader has switched on; the page sets it."""
    import altair as alt

    return alt.param(name="shown", value=_ALL)


def fill(part: Any, study: Study) -> None:
    """Write the names of all arms into a chart's specification where they are meant."""
    if isinstance(part, dict):
        for key, value in part.items():
            if value == _ALL:
                part[key] = names(study)
            else:
                fill(value, study)
    elif isinstance(part, list):
        for item in part:
            fill(item, study)


def _x(unit: str, field: str = "x") -> alt.X:
    import altair as alt

    axis = alt.Axis(title=measured.UNITS[unit], labelOverlap=True)
    if unit in SI:
        axis.format = "~s"
    return alt.X(f"{field}:Q", axis=axis, scale=alt.Scale(zero=False, nice=False))


def data(tables: Tables, rows: Rows) -> alt.NamedData:
    """Put rows among a chart's tables and refer to them by name.

    Altair would copy and check inline rows one by one (seconds for a page), and every position of a switch
    would carry its own copy.
    """
    import altair as alt

    return alt.NamedData(name=tables.name(rows))


def curves(tables: Tables, study: Study, drawn: Lines, unit: str, log: bool = False) -> Layers | None:
    """Median and middle half over seeds per arm, every seed faint behind; ``None`` without curves."""
    import altair as alt

    bands = drawn.bands(unit)
    limits = _limits(drawn.limits, bands, log)
    if limits is None:
        return None
    worst = limits[1] if study["better"] == "lower" else limits[0]
    if any(row["low"] is None or row["high"] is None for row in bands):
        bands = [row | {end: worst if row[end] is None else row[end] for end in ("low", "high")} for row in bands]
    scale = alt.Scale(type="log" if log else "linear", domain=list(limits), nice=False)
    axis = alt.Axis(format="~g", tickCount=5)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis, title=study["watched"])

    many = alt.Chart(data(tables, bands)).transform_filter(_KEEP).encode(_x(unit), color=color())
    layers = [
        *_behind(tables, study, drawn, unit, y),
        many.mark_area(opacity=0.16, clip=True, interpolate=_steps(study)).encode(y("low"), y2="high:Q"),
        many.mark_line(strokeWidth=2.25, clip=True).encode(y("median")),
        _hover(many, y("median"), ["median", "low", "high"], unit),
    ]
    return alt.layer(*layers, width="container", height=300).add_params(_shown())


_KEEP = "indexof(shown, datum.arm) >= 0"
_FAINT: dict[str, Any] = {"opacity": 0.22, "strokeWidth": 1, "clip": True}


def _behind(tables: Tables, study: Study, drawn: Lines, unit: str, y: Callable[[str], alt.Y]) -> list[alt.Chart]:
    """Every seed's line, or, of too many, the range of them, with its ends drawn out."""
    import altair as alt

    if drawn.seeds:
        each = alt.Chart(data(tables, drawn.seeds)).transform_filter(_KEEP)
        each = each.encode(_x(unit, unit), color=color(), detail="seed:N")
        return [each.mark_line(**_FAINT).encode(y("value"))]
    all_seeds = alt.Chart(data(tables, drawn.spreads(unit))).transform_filter(_KEEP)
    all_seeds = all_seeds.encode(_x(unit), color=color())
    area = all_seeds.mark_area(opacity=0.06, clip=True, interpolate="step-before").encode(y("low"), y2="high:Q")
    return [area, *(all_seeds.mark_line(**_FAINT, interpolate="step-before").encode(y(end)) for end in ("low", "high"))]


def _steps(study: Study) -> Literal["step-before", "linear"]:
    """How areas go from point to point: where points were left out, each holds what lies before it."""
    return "step-before" if measured.thinned(study) else "linear"


def _limits(ends: tuple[float, float] | None, bands: Rows, log: bool) -> tuple[float, float] | None:
    """Ends of the y axis: those of all seeds that finished, and all medians; a run that blew up is clipped."""
    known = [row["median"] for row in bands if row["median"] is not None] + list(ends or ())
    if not known or (log and min(known) <= 0):
        return None
    low, high = min(known), max(known)
    if log:
        air = (high / low) ** 0.03 if high > low else 1.1
        return low / air, high * air
    pad = 0.03 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _hover(chart: alt.Chart, y: alt.Y, fields: list[str], unit: str) -> alt.Chart:
    """Invisible points: the nearest one tells its numbers."""
    import altair as alt

    near = alt.selection_point(nearest=True, on="pointerover", clear="pointerout", empty=False, name="near")
    tips = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("x:Q", title=measured.UNITS[unit], format=".4~s"),
        *(alt.Tooltip(f"{field}:Q", format=".4~g") for field in fields),
    ]
    points = chart.mark_point(filled=True, size=45, clip=True)
    return points.encode(y, opacity=alt.condition(near, alt.value(1), alt.value(0)), tooltip=tips).add_params(near)


def difference(tables: Tables, study: Study, drawn: Lines, unit: str) -> Layers | None:
    """Paired improvement over the baseline along the run, with its band and the margin; ``None`` without."""
    import altair as alt

    rows = drawn.gains(unit)
    if not rows:
        return None
    axis = alt.Axis(labelExpr=SIGNED, tickCount=5)
    scale = alt.Scale(zero=False, nice=False, padding=4)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", axis=axis, title=f"improvement in {study['watched']}", scale=scale)

    chart = alt.Chart(data(tables, rows)).transform_filter(_KEEP)
    chart = chart.encode(_x(unit), color=color())
    margin = study["margin"] or 0
    ground = alt.Chart(data(tables, [{"low": -margin, "high": margin, "zero": 0}]))
    layers = [
        ground.mark_rect(style="margin").encode(y("low"), y2="high:Q"),
        ground.mark_rule(style="zero").encode(y("zero")),
        chart.mark_area(opacity=0.18, clip=True, interpolate=_steps(study)).encode(y("low"), y2="high:Q"),
        chart.mark_line(strokeWidth=2.25, clip=True).encode(y("gain")),
        _hover(chart, y("gain"), ["gain", "low", "high", "pairs"], unit),
    ]
    return alt.layer(*layers, width="container", height=300).add_params(_shown())
