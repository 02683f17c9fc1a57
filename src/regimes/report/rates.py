"""The picture of a search for a learning rate: loss over rate, a line for each length of run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


def picture(found: Any, path: Path) -> Path:
    """Draw a `regimes.study.tune_lr.TunedRate` as SVG.

    Runs that diverged stand as crosses at the top; the band is the safe interval, the line the recommended rate, the
    dashed line the edge of divergence.

    Parameters
    ----------
    found : TunedRate
    path : Path
        File to write.
    """
    import altair as alt
    import vl_convert

    rows = [
        {"rate": rate, "loss": loss, "budget": rung.length}
        for rung in found.rungs
        for rate, loss in zip(rung.rates, rung.losses)
    ]
    ended = [row for row in rows if math.isfinite(row["loss"])]
    top = max(row["loss"] for row in ended)
    lost = [row | {"loss": top} for row in rows if not math.isfinite(row["loss"])]
    order = list(dict.fromkeys(rung.length for rung in found.rungs))
    x = alt.X("rate:Q", title="peak learning rate").scale(type="log", nice=False)
    y = alt.Y("loss:Q", title=found.metric).scale(type="log", zero=False, nice=False)
    color = alt.Color("budget:N", title="runs", sort=order)
    lines = alt.Chart(alt.Data(values=ended)).mark_line(point=True).encode(x, y, color)
    crosses = alt.Chart(alt.Data(values=lost)).mark_point(shape="cross", size=80).encode(x, y, color)
    own = found.found
    band = (
        alt.Chart(alt.Data(values=[{"low": own.low, "high": own.high}]))
        .mark_rect(opacity=0.15)
        .encode(x=alt.X("low:Q").scale(type="log"), x2="high:Q")
    )
    rules = [{"rate": own.rate, "what": "recommended"}]
    rules += [] if own.edge is None else [{"rate": own.edge, "what": "edge of divergence"}]
    dash = alt.StrokeDash("what:N", title=None, sort=["recommended", "edge of divergence"])
    marks = alt.Chart(alt.Data(values=rules)).mark_rule().encode(alt.X("rate:Q").scale(type="log"), dash)
    chart = alt.layer(band, lines, crosses, marks).properties(width=480, height=300)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(vl_convert.vegalite_to_svg(chart.to_dict()), encoding="utf-8")
    return path
