"""The small charts: sensitivity, best of k, seed slopes, quality against cost, what happened inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regimes.core.thinning import envelope

from . import tuning
from .charts import SIGNED, Tables, color, data
from .curves import LEAST, ROWS
from .facts import GLYPHS, Study, baseline, others, pareto, seed_differences

if TYPE_CHECKING:
    import altair as alt

    Layers = alt.LayerChart | alt.FacetChart


CROSS = "M-0.7,-0.7L0.7,0.7M-0.7,0.7L0.7,-0.7"


def short_path(path: str) -> str:
    """The last two fields of a knob path: enough for an axis.

    Examples
    --------
    >>> short_path("*.optimizer.lr.peak"), short_path("batch_size")
    ('lr.peak', 'batch_size')
    """
    return ".".join(path.split(".")[-2:])


def sensitivity(tables: Tables, study: Study, arm: Mapping[str, Any], path: str) -> Layers:
    """All trials over one tuned knob, the best ringed, their fit, the value used, the diverging end hatched."""
    import altair as alt

    panel = tuning.panel(study, arm, path)
    tried = sorted({row["x"] for row in panel["rows"]})
    axis = alt.Axis(title=short_path(path), format=".2~g", values=tried, labelOverlap="greedy", labelSeparation=8)
    scale = alt.Scale(type="log" if panel["log"] else "linear", domain=list(panel["x"]), nice=False)
    x = alt.X("x:Q", scale=scale, axis=axis)
    heights = alt.Scale(domain=sorted(panel["y"]), nice=False)
    y = alt.Y("y:Q", scale=heights, axis=alt.Axis(title=None, format="~g", tickCount=4))
    rows = [row | {"arm": arm["name"]} for row in panel["rows"]]
    tips = [
        alt.Tooltip("x:Q", title=short_path(path)),
        alt.Tooltip("metric:Q", format=".4~g"),
        alt.Tooltip("kind:N"),
    ]
    dots = alt.Chart(data(tables, rows)).encode(x, y, tooltip=tips)
    beyond = "triangle-up" if study["better"] == "lower" else "triangle-down"

    def kind(name: str) -> alt.Chart:
        return dots.transform_filter(f"datum.kind == '{name}'")

    layers = [
        alt.Chart(data(tables, tuning.hatching(panel))).mark_rule(style="hatch").encode(x, y, x2="x2:Q", y2="y2:Q"),
        alt.Chart(data(tables, panel["fit"])).mark_line(style="fit", clip=True).encode(x, y),
        kind("trial").mark_circle(size=70, opacity=1).encode(color=color()),
        kind("above").mark_point(shape=beyond, filled=True, size=70, opacity=1).encode(color=color()),
        kind("diverged").mark_point(style="diverged", shape=CROSS, size=90),
        dots.transform_filter("datum.chosen").mark_point(style="chosen", size=220),
    ]
    if panel["used"] is not None:
        layers.insert(0, alt.Chart(data(tables, [{"x": panel["used"]}])).mark_rule(style="zero").encode(x))
    return alt.layer(*layers, width="container", height=190)


def best_of_k(tables: Tables, study: Study) -> Layers | None:
    """Best metric among the first k trials; ``None`` where no arm kept it."""
    import altair as alt

    rows = [
        {"arm": arm["name"], "k": k, "best": best}
        for arm in study["arms"]
        for k, best in enumerate((arm["tuning"] or {}).get("best_of_k") or [], 1)
    ]
    if not rows:
        return None
    axis = alt.Axis(title="tuning trials", format="d", values=sorted({row["k"] for row in rows}))
    chart = alt.Chart(data(tables, rows)).encode(
        alt.X("k:Q", axis=axis, scale=alt.Scale(zero=False)),
        alt.Y(
            "best:Q",
            title=f"best {study['watched']} so far",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(format="~g"),
        ),
        color=color(),
        tooltip=["arm:N", "k:Q", alt.Tooltip("best:Q", format=".4~g")],
    )
    steps = chart.mark_line(interpolate="step-after", strokeWidth=2)
    return alt.layer(steps, chart.mark_circle(size=45, opacity=1)).properties(width="container", height=220)


def slopes(tables: Tables, study: Study, arm: Mapping[str, Any]) -> Layers:
    """One line per seed from the baseline's value to the arm's; dashed where the arm lost."""
    import altair as alt

    sides = {"baseline": baseline(study)["values"], "arm": arm["values"]}
    gains = seed_differences(study, arm)
    rows = [
        {"seed": seed, "side": side, "value": value, "won": gain > 0}
        for side, values in sides.items()
        for seed, value, gain in zip(study["seeds"], values, gains)
        if value is not None and gain is not None
    ]
    axis = alt.Axis(title=None, labelAngle=0, labelFlush=False, labelPadding=10)
    chart = alt.Chart().encode(
        alt.X("side:N", sort=["baseline", "arm"], axis=axis, scale=alt.Scale(type="point", padding=0.25)),
        alt.Y(
            "value:Q",
            title=None,
            scale=alt.Scale(zero=False),
            axis=alt.Axis(format="~g", tickCount=4),
        ),
        detail="seed:N",
        tooltip=["seed:N", "side:N", alt.Tooltip("value:Q", format=".5~g")],
    )
    sides_of = {"rose": [row for row in rows if row["won"]], "fell": [row for row in rows if not row["won"]]}
    layers = [
        chart.properties(data=data(tables, some)).mark_line(style=style, point={"style": style})
        for style, some in sides_of.items()
        if some
    ]
    return alt.layer(*layers, width="container", height=200)


def cost(tables: Tables, study: Study) -> Layers | None:
    """Mean metric against cost, one standard deviation as bar, the Pareto front as a step line."""
    import altair as alt

    front = pareto(study)
    rows = [
        {
            "arm": arm["name"],
            "cost": arm["cost"]["ratio"],
            "mean": arm["mean"],
            "low": arm["mean"] - (arm["sd"] or 0),
            "high": arm["mean"] + (arm["sd"] or 0),
            "front": arm["name"] in front,
        }
        for arm in study["arms"]
        if arm["mean"] is not None and arm["cost"]["ratio"] is not None
    ]
    if not rows:
        return None
    low, high = min(row["cost"] for row in rows), max(row["cost"] for row in rows)
    pad = max(0.12 * (high - low), 0.02)
    costs = alt.Scale(domain=[low - pad, high + pad], nice=False)
    x = alt.X("cost:Q", scale=costs, axis=alt.Axis(title="FLOPs over the baseline's", format=".2f"))
    heights = alt.Scale(zero=False)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=heights, title=study["metric"], axis=alt.Axis(format="~g"))

    tips = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("cost:Q", format=".3f"),
        alt.Tooltip("mean:Q", format=".5~g"),
        alt.Tooltip("front:N"),
    ]
    chart = alt.Chart(data(tables, rows)).encode(x, color=color(), tooltip=tips)
    best = alt.Chart(data(tables, [row for row in rows if row["front"]])).encode(x)
    middle = (low + high) / 2
    right, left = f"datum.cost <= {middle}", f"datum.cost > {middle}"
    named = best.encode(y("mean"), text="arm:N")
    layers = [
        best.mark_line(style="fit", interpolate="step-after").encode(y("mean"), order="cost:Q"),
        chart.mark_rule(strokeWidth=2).encode(y("low"), y2="high:Q"),
        chart.mark_circle(size=110, opacity=0.9).encode(y("mean")),
        named.transform_filter(right).mark_text(style="label", align="left", dx=10, dy=-10),
        named.transform_filter(left).mark_text(style="label", align="right", dx=-10, dy=10),
    ]
    return alt.layer(*layers, width="container", height=260)


def inside_stretches(study: Study) -> int:
    """Of each line of what happened inside."""
    return max(LEAST, min(200, ROWS // (2 * len(study["arms"]))))


def inside(tables: Tables, study: Study, name: str, titled: bool = False) -> alt.Chart:
    """One quantity of the runs' inside, a line per arm; logarithmic where it spans a factor of 30.

    The page has its name as a heading; ``titled`` writes it at the axis.
    """
    import altair as alt

    rows = [
        {"arm": arm["name"], "x": x, "value": value}
        for arm in study["arms"]
        if name in arm["inside"]
        for x, value in envelope(arm["inside"][name]["x"], arm["inside"][name]["value"], inside_stretches(study))
    ]
    found = [row["value"] for row in rows]
    log = bool(found) and min(found) > 0 and max(found) / min(found) > 30
    title = _unit(study, max((row["x"] for row in rows), default=0))
    chart = alt.Chart(data(tables, rows)).mark_line(strokeWidth=1.75)
    return chart.encode(
        alt.X("x:Q", scale=alt.Scale(nice=False), axis=alt.Axis(title=title, labelOverlap=True)),
        alt.Y(
            "value:Q",
            scale=alt.Scale(type="log" if log else "linear"),
            axis=alt.Axis(title=name if titled else None, format="~g"),
        ),
        color=color(),
        tooltip=["arm:N", alt.Tooltip("x:Q", format=".4~s"), alt.Tooltip("value:Q", format=".4~g")],
    ).properties(width="container", height=170)


def _unit(study: Study, last: float) -> str | None:
    """What an x that ends at ``last`` most likely counts: the smallest amount of the run that it fits in."""
    if last <= 1:
        return "fraction of the run"
    for key in ("steps", "samples", "tokens"):
        totals = [arm["cost"][key] for arm in study["arms"] if arm["cost"][key]]
        if totals and last <= 1.02 * max(totals):
            return key
    return None


def schedule(tables: Tables, study: Study, path: str) -> alt.Chart:
    """One scheduled knob over the run, a line per arm that has it (for export; the page draws its own)."""
    import altair as alt

    rows = [
        {"arm": arm["name"], "fraction": at, "value": value}
        for arm in study["arms"]
        for drawn in arm["schedules"]
        if drawn["path"] == path
        for at, value in envelope(drawn["fraction"], drawn["values"])
    ]
    chart = alt.Chart(data(tables, rows)).mark_line(strokeWidth=2)
    return chart.encode(
        alt.X("fraction:Q", axis=alt.Axis(title="fraction of the run", format="%")),
        alt.Y("value:Q", axis=alt.Axis(title=path, format="~g")),
        color=color(),
    ).properties(width="container", height=200)


def forest(tables: Tables, study: Study) -> Layers | None:
    """The forest plot for a paper (the page draws its own, which needs no script)."""
    import altair as alt

    arms = [arm for arm in others(study) if arm["comparison"] and arm["comparison"]["low"] is not None]
    if not arms:
        return None
    order = [arm["name"] for arm in arms]
    rows = [{"arm": arm["name"]} | arm["comparison"] for arm in arms]
    for row in rows:
        row["word"] = f"{GLYPHS[row['verdict']]} {row['verdict']}"
    seeds = [
        {"arm": arm["name"], "seed": seed, "gain": gain}
        for arm in arms
        for seed, gain in zip(study["seeds"], seed_differences(study, arm))
        if gain is not None
    ]
    margin = study["margin"] or 0
    y = alt.Y("arm:N", sort=order, axis=alt.Axis(title=None, grid=False), scale=alt.Scale(paddingInner=0.5))
    axis = alt.Axis(title=f"improvement in {study['metric']} over {study['baseline']}", labelExpr=SIGNED, grid=False)
    main = alt.Chart(
        data(tables, [{key: value for key, value in row.items() if key != "leave_one_out"} for row in rows])
    )
    ground = alt.Chart(data(tables, [{"low": -margin, "high": margin, "zero": 0}]))
    layers = [
        ground.mark_rect(style="margin").encode(alt.X("low:Q", axis=axis), x2="high:Q"),
        ground.mark_rule(style="zero").encode(alt.X("zero:Q")),
        main.mark_rule(style="interval").encode(alt.X("low:Q"), y, x2="high:Q"),
        main.mark_point(style="interval", filled=True, size=80, shape="diamond", opacity=1).encode(
            alt.X("difference:Q"), y
        ),
        alt.Chart(data(tables, seeds)).mark_circle(style="seed", size=18, yOffset=12).encode(alt.X("gain:Q"), y),
        main.mark_text(style="label", dy=-12).encode(alt.X("difference:Q"), y, text="word:N"),
    ]
    return alt.layer(*layers, width="container", height={"step": 52})
