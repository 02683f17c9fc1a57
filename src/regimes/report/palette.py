"""The only place of colors: arms, verdicts and the theme of every chart, light and dark.

The arms' colors were searched so that any two stay far apart for normal, protan, deutan and tritan eyes (a
test measures it), much of it by lightness; the baseline is always grey. Verdicts always come with a word and
a glyph, so their color is never alone.
"""

from __future__ import annotations

from typing import Any

ARMS = {
    "light": ["#6b7280", "#2d74ba", "#dc765d", "#104c2d", "#9947ee", "#b68c07", "#5a286f", "#12a2b6"],
    "dark": ["#9aa3b2", "#3b8bd8", "#f78a69", "#78ffc1", "#a35cff", "#ffc634", "#e23d7d", "#e5c7ff"],
}
VERDICTS = {
    "light": {"better": "#00695c", "worse": "#b3400a", "same": "#4a5361", "undecided": "#86590a", "none": "#4a5361"},
    "dark": {"better": "#4fd6b4", "worse": "#ff9b66", "same": "#b4bcc8", "undecided": "#efc457", "none": "#b4bcc8"},
}
INK = {
    "light": {"text": "#1c2128", "soft": "#5c6672", "line": "#e3e6ea", "page": "#ffffff", "wash": "#f6f7f8"},
    "dark": {"text": "#e8eaed", "soft": "#9aa4b0", "line": "#2c323a", "page": "#14171b", "wash": "#1b1f25"},
}
MODES = ("light", "dark")
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def theme(mode: str, background: str | None = None) -> dict[str, Any]:
    """The Vega-Lite configuration of a mode (``light`` or ``dark``); charts themselves name no color."""
    ink, verdict = INK[mode], VERDICTS[mode]
    axis = {
        "labelColor": ink["soft"],
        "titleColor": ink["soft"],
        "gridColor": ink["line"],
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
    }
    return {
        "background": background or "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "axisX": {"grid": False, "labelFlush": True, "tickCount": 5, "titleAnchor": "end"},
        "axisY": {"tickCount": 5},
        "title": {"color": ink["text"], "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 12},
        "legend": {"symbolOpacity": 1, "labelColor": ink["text"], "orient": "top", "title": None, "labelFontSize": 12},
        "range": {"category": ARMS[mode]},
        "style": {
            "margin": {"color": ink["soft"], "opacity": 0.14},
            "zero": {"color": ink["soft"], "strokeWidth": 1},
            "hatch": {"color": verdict["worse"], "strokeWidth": 1, "opacity": 0.45},
            "label": {"color": ink["text"], "fontSize": 12},
            "chosen": {"color": ink["text"], "strokeWidth": 1.75},
            "diverged": {"color": verdict["worse"], "strokeWidth": 2},
            "fit": {"color": ink["soft"], "strokeWidth": 1.5, "strokeDash": [4, 3]},
            "rose": {"color": verdict["better"], "strokeWidth": 1.5},
            "fell": {"color": verdict["worse"], "strokeWidth": 1.5, "strokeDash": [4, 3]},
            "seed": {"color": ink["soft"], "opacity": 0.7},
            "interval": {"color": ink["text"], "strokeWidth": 2},
        },
    }


def css_variables(mode: str) -> str:
    """The same colors as custom properties, for the page."""
    named = INK[mode] | VERDICTS[mode] | {f"arm-{i}": color for i, color in enumerate(ARMS[mode])}
    return " ".join(f"--{name}: {color};" for name, color in named.items())
