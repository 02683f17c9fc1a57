"""The forest plot as positions in percent, drawn by the template as SVG that stretches with the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .facts import GLYPHS, Study, left, lost, others, seed_differences, trained
from .text import decimals, interval, price, signed

Span = tuple[float, float]
SIDES = {"gains": "↑ gains", "loses": "↓ loses", "either": "either way", "": "–"}


def window(intervals: Sequence[Span], margin: float, dots: Sequence[float] = ()) -> Span:
    """The stretch of the axis that is drawn.

    It holds the margin, every interval and every dot, unless one arm is so far off that it would squeeze all
    others into a line: nothing beyond eight times the median arm (or ten margins) is followed.

    Examples
    --------
    >>> window([(0.06, 0.09), (-0.01, 0.02)], 0.02)
    (-0.0266, 0.0966)
    >>> window([(0.06, 0.09), (-0.01, 0.02), (-5.0, -4.0)], 0.02)
    (-0.0266, 0.0966)
    """
    far = sorted(max(abs(low), abs(high)) for low, high in intervals) or [margin]
    limit = max(10 * margin, 8 * far[(len(far) - 1) // 2])
    inside = [end for span in intervals for end in span if abs(end) <= limit]
    inside += [dot for dot in dots if abs(dot) <= limit]
    low, high = min([*inside, -margin]), max([*inside, margin])
    pad = 0.06 * ((high - low) or 1.0)
    return round(low - pad, 9), round(high + pad, 9)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two ends.

    Examples
    --------
    >>> ticks(-0.03, 0.1)
    [-0.02, 0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    """
    raw = (high - low) / wanted
    base = 10 ** math.floor(math.log10(raw))
    step = min((base * m for m in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / raw)))
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def frame(span: Span, margin: float) -> dict[str, Any]:
    """Axis, zero line and margin band in percent of the width."""
    marks = ticks(*span)
    gap = marks[1] - marks[0] if len(marks) > 1 else span[1]
    return {
        "span": span,
        "ticks": [{"at": _percent(t, span), "label": signed(t, decimals(10 * gap))} for t in marks],
        "zero": _percent(0.0, span),
        "band": _percent(-margin, span),
        "band_width": _percent(margin, span) - _percent(-margin, span),
        "margin": margin,
    }


def bar(comparison: Mapping[str, Any], span: Span) -> dict[str, Any]:
    """An interval clipped to the axis; one without ends runs over all of it, where a middle is known.

    ``left`` and ``right`` tell on which sides it goes on, ``outside`` that its middle is not shown, ``gone``
    that nothing of it is.
    """
    low, high, middle = comparison["low"], comparison["high"], comparison["difference"]
    if middle is None:
        return {}
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    shown = {"low": _percent(low, span), "high": _percent(high, span), "middle": _percent(middle, span)}
    clipped: dict[str, Any] = {key: min(max(at, 0.0), 100.0) for key, at in shown.items()}
    clipped |= {"left": low < span[0], "right": high > span[1], "outside": not span[0] <= middle <= span[1]}
    clipped["gone"] = high < span[0] or low > span[1]
    return clipped


def forest(study: Study) -> dict[str, Any]:
    """One row per arm but the baseline, with its interval, its verdict and a dot per seed."""
    margin, digits = study["margin"] or 0.0, decimals(study["margin"])
    arms = [arm for arm in others(study) if arm["comparison"]]
    dots = {arm["name"]: seed_differences(study, arm) for arm in others(study)}
    spans = [
        (arm["comparison"]["low"], arm["comparison"]["high"])
        for arm in arms
        if arm["comparison"]["low"] is not None and arm["comparison"]["high"] is not None
    ]
    span = window(spans, margin or 1e-9, [d for values in dots.values() for d in values if d is not None])
    rows = []
    for arm in others(study):
        comparison = arm["comparison"]
        row: dict[str, Any] = {"name": arm["name"], "lost": len(lost(study, arm)), "of": trained(arm)}
        row["dots"] = [
            _dot(seed, d, i, span)
            for i, (seed, d) in enumerate(zip(study["seeds"], dots[arm["name"]]))
            if d is not None
        ]
        if comparison:
            row |= {
                "verdict": comparison["verdict"],
                "glyph": GLYPHS[comparison["verdict"]],
                "difference": signed(comparison["difference"], digits),
                "interval": _ends(comparison, digits),
                "bar": bar(comparison, span),
                "price": price(comparison["more_seeds"], comparison["more_seconds"]),
            }
        else:
            row["word"] = left(arm) or "not compared"
        rows.append(row)
    return {"frame": frame(span, margin), "rows": rows}


def slices(study: Study) -> dict[str, Any] | None:
    """The same per source: one group per source, one row per arm; ``None`` where nothing was sliced."""
    if not study["slices"]:
        return None
    digits, margin = decimals(study["margin"]), study["margin"] or 0.0
    entries = [(item["source"], item["arms"]) for item in study["slices"]]
    spans = [
        (one["low"], one["high"])
        for _, arms in entries
        for one in arms.values()
        if one.get("low") is not None and one.get("high") is not None
    ]
    span = window(spans, margin or 1e-9)
    groups = []
    for source, arms in entries:
        rows = []
        for name, one in arms.items():
            full = {"difference": None, "low": None, "high": None} | one
            text = {
                "difference": signed(full["difference"], digits),
                "interval": _ends(full, digits),
            }
            rows.append(
                {
                    "name": name,
                    "bar": bar(full, span),
                    "side": _side(full),
                    "side_word": SIDES[_side(full)],
                    **text,
                }
            )
        groups.append({"source": source, "rows": rows})
    return {"frame": frame(span, margin), "groups": groups}


def _ends(one: Mapping[str, Any], digits: int) -> str:
    """An interval in words; empty where there is no difference either."""
    return "" if one["difference"] is None else interval(one["low"], one["high"], digits)


def _side(one: Mapping[str, Any]) -> str:
    """A pointwise reading, in other words than a verdict's: slices are looked at, not decided."""
    if one["low"] is None or one["high"] is None:
        return ""
    return "gains" if one["low"] > 0 else "loses" if one["high"] < 0 else "either"


def _percent(value: float, span: Span) -> float:
    return round(100 * (value - span[0]) / (span[1] - span[0]), 3)


def _dot(seed: int, value: float, index: int, span: Span) -> dict[str, Any]:
    """A seed's dot; ``level`` spreads neighbors over three heights, ``outside`` puts it at the edge."""
    at = min(max(_percent(value, span), 0.7), 99.3)
    outside = not span[0] <= value <= span[1]
    return {"seed": seed, "at": at, "level": index % 3, "value": value, "outside": outside}
