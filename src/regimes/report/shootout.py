"""A shoot-out as a table, as Markdown and as a picture of its performance profiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Largest factor on the axis of the profiles.
MOST = 4.0


def rows(facts: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: score, then by workload steps to the target (seconds) and the final metric with its verdict."""
    names = list(facts["workloads"])
    header = ["arm", "score"]
    for name in names:
        header += [f"{name}: steps to {facts['targets'][name]:.4g}", f"{name}: final"]
    found = []
    for arm, score in facts["scores"].items():
        row = [arm, f"{score:.2f}"]
        for name in names:
            row += [_steps(facts, arm, name), _final(facts, arm, name)]
        found.append(row)
    return header, found


def _steps(facts: Mapping[str, Any], arm: str, name: str) -> str:
    if arm not in facts["finals"][name]:
        return "-"
    steps, seconds = facts["steps"][arm][name], facts["seconds"][arm][name]
    if steps is None:
        return "missed"
    return f"{steps:.0f}" if seconds is None else f"{steps:.0f} ({seconds:.1f} s)"


def _final(facts: Mapping[str, Any], arm: str, name: str) -> str:
    if arm not in facts["finals"][name]:
        return "-"
    mean, verdict = facts["finals"][name][arm], facts["verdicts"][name].get(arm)
    told = "none" if mean is None else f"{mean:.4g}"
    return told if verdict is None else f"{told} {verdict}"


def text(facts: Mapping[str, Any]) -> str:
    """Return the table for a terminal: each workload's columns below each other where they are many."""
    header, body = rows(facts)
    widths = [max(len(row[place]) for row in [header, *body]) for place in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *body]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(facts: Mapping[str, Any]) -> str:
    """Return the table, the picture and how to read them, as Markdown."""
    header, body = rows(facts)
    table = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body]]
    said = (
        "Score: the mean share, over factors from 1 to 4, of workloads on which an arm is at most so many times as slow as "
        "the fastest arm, in steps until the mean curve of its seeds reaches the target; a curve that does not, or of which "
        "a seed diverged, is a miss, and so is a workload on which an arm was not trained (-). Targets: what the baseline's "
        "mean curve has reached at the declared share of its course. Seconds are of runs trained side by side, comparable "
        "within one workload only. Verdicts are against the baseline, at the margin of the workload's study."
    )
    return "\n".join([*table, "", said, "", "![performance profiles](profiles.svg)", ""])


def write(facts: Mapping[str, Any], folder: Path) -> None:
    """Write ``shootout.md`` and ``profiles.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shootout.md").write_text(markdown(facts), encoding="utf-8")
    (folder / "profiles.svg").write_text(picture(facts), encoding="utf-8")


def picture(facts: Mapping[str, Any]) -> str:
    """Return the performance profiles as SVG: a staircase for each arm, the highest scores in color."""
    import altair as alt
    import vl_convert

    from regimes.study.profiles import performance_profile

    profiles = performance_profile(facts["steps"])
    order = list(facts["scores"])
    points = []
    for arm in order:
        ratios = sorted(ratio for ratio in profiles[arm].ratios.values() if ratio <= MOST)
        for factor in [1.0, *ratios, MOST]:
            points.append({"arm": arm, "factor": factor, "share": profiles[arm].at(factor)})
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_line(interpolate="step-after")
        .encode(
            alt.X("factor:Q", title="times the steps of the fastest").scale(type="log", domain=[1, MOST], nice=False),
            alt.Y("share:Q", title="share of workloads").scale(domain=[0, 1]),
            alt.Color("arm:N", sort=order, title=None, scale=alt.Scale(scheme="tableau20")),
        )
        .properties(width=520, height=320)
    )
    drawn: str = vl_convert.vegalite_to_svg(chart.to_dict())
    return drawn
