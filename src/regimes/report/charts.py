"""Learning curves and paired differences as Altair charts. They name no color: `palette.theme` does."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from . import curves as lines
from .facts import Study, lost

if TYPE_CHECKING:
    import altair as alt

    Layers = alt.LayerChart | alt.FacetChart

Tables = dict[str, list[dict[str, Any]]]

SI = ("samples", "tokens", "flops")
SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+~g')"


def names(study: Study) -> list[str]:
    """Arms in the order of their colors: the baseline first."""
    return [arm["name"] for arm in study["arms"]]


def color(study: Study) -> alt.Color:
    """One hue per arm, the same in every chart."""
    import altair as alt

    return alt.Color("arm:N", scale=alt.Scale(domain=names(study)), legend=None)


def _shown(study: Study) -> alt.Parameter:
    """The arms a reader has switched on; the page sets it."""
    import altair as alt

    return alt.param(name="shown", value=names(study))


def _x(unit: str, field: str = "x") -> alt.X:
    import altair as alt

    axis = alt.Axis(title=lines.UNITS[unit], labelOverlap=True)
    if unit in SI:
        axis.format = "~s"
    return alt.X(f"{field}:Q", axis=axis, scale=alt.Scale(zero=False, nice=False))


def data(tables: Tables, rows: list[dict[str, Any]]) -> alt.NamedData:
    """Put rows among a chart's tables and refer to them by a name that is a digest of them.

    Altair would copy and check inline rows one by one (seconds for a page), and every position of a switch
    would carry its own copy.
    """
    import altair as alt

    name = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    tables[name] = rows
    return alt.NamedData(name=name)


def curves(tables: Tables, study: Study, unit: str, log: bool = False) -> Layers | None:
    """Median and middle half over seeds per arm, every seed faint behind; ``None`` without curves."""
    import altair as alt

    bands = [row for arm in study["arms"] for row in lines.band(study, arm, unit)]
    seeds = lines.faint(study)
    limits = _limits(study, bands, seeds, log)
    if limits is None:
        return None
    worst = limits[1] if study["better"] == "lower" else limits[0]
    bands = [row | {end: worst if row[end] is None else row[end] for end in ("low", "high")} for row in bands]
    scale = alt.Scale(type="log" if log else "linear", domain=list(limits), nice=False)
    axis = alt.Axis(format="~g", tickCount=5)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis, title=study["watched"])

    keep = "indexof(shown, datum.arm) >= 0"
    each = alt.Chart(data(tables, seeds)).transform_filter(keep)
    each = each.encode(_x(unit, unit), color=color(study), detail="seed:N")
    many = alt.Chart(data(tables, bands)).transform_filter(keep).encode(_x(unit), color=color(study))
    thinned = each.transform_filter("isValid(datum.low)").mark_area(opacity=0.06, clip=True)
    layers = [
        *([thinned.encode(y("low"), y2="high:Q")] if any("low" in row for row in seeds) else []),
        each.mark_line(opacity=0.22, strokeWidth=1, clip=True).encode(y("value")),
        many.mark_area(opacity=0.16, clip=True).encode(y("low"), y2="high:Q"),
        many.mark_line(strokeWidth=2.25, clip=True).encode(y("median")),
        _hover(many, y("median"), ["median", "low", "high"], unit),
    ]
    return alt.layer(*layers, width="container", height=300).add_params(_shown(study))


def _limits(study: Study, bands: list[dict], seeds: list[dict], log: bool) -> tuple[float, float] | None:
    """Ends of the y axis: all finite bands and all seeds that finished; a run that blew up is clipped."""
    gone = {(arm["name"], seed) for arm in study["arms"] for seed in lost(study, arm)}
    found = [row["median"] for row in bands] + [
        row.get(end, row["value"]) for row in seeds if (row["arm"], row["seed"]) not in gone for end in ("low", "high")
    ]
    known = [value for value in found if value is not None]
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
        alt.Tooltip("x:Q", title=lines.UNITS[unit], format=".4~s"),
        *(alt.Tooltip(f"{field}:Q", format=".4~g") for field in fields),
    ]
    points = chart.mark_point(filled=True, size=45, clip=True)
    return points.encode(y, opacity=alt.condition(near, alt.value(1), alt.value(0)), tooltip=tips).add_params(near)


def difference(tables: Tables, study: Study, unit: str) -> Layers | None:
    """Paired improvement over the baseline along the run, with its band and the margin; ``None`` without."""
    import altair as alt

    rows = lines.compared(study, unit)
    if not rows:
        return None
    axis = alt.Axis(labelExpr=SIGNED, tickCount=5)
    scale = alt.Scale(zero=False, nice=False, padding=4)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", axis=axis, title=f"improvement in {study['watched']}", scale=scale)

    chart = alt.Chart(data(tables, rows)).transform_filter("indexof(shown, datum.arm) >= 0")
    chart = chart.encode(_x(unit), color=color(study))
    margin = study["margin"] or 0
    ground = alt.Chart(data(tables, [{"low": -margin, "high": margin, "zero": 0}]))
    layers = [
        ground.mark_rect(style="margin").encode(y("low"), y2="high:Q"),
        ground.mark_rule(style="zero").encode(y("zero")),
        chart.mark_area(opacity=0.18, clip=True).encode(y("low"), y2="high:Q"),
        chart.mark_line(strokeWidth=2.25, clip=True).encode(y("gain")),
        _hover(chart, y("gain"), ["gain", "low", "high", "pairs"], unit),
    ]
    return alt.layer(*layers, width="container", height=300).add_params(_shown(study))
