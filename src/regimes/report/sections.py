"""What the sections up to the seeds say, as plain values for the template; no markup here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from regimes.core.thinning import envelope

from . import curves as lines
from . import export, tuning
from .facts import Study, baseline, failures, influence, lost, others, panelled, seed_differences
from .text import DASH, decimals, listing, plain, signed

ANCHORS = {
    "trust": "Trust",
    "differs": "Differences",
    "curves": "Curves",
    "sensitivity": "Sensitivity",
    "seeds": "Seeds",
    "cost": "Cost",
    "inside": "Inside",
    "slices": "Slices",
    "failures": "Failures",
    "take": "Take it with you",
}


def trust(study: Study) -> dict[str, Any]:
    """The lamps; a link to anything but an anchor of this page is dropped."""
    here = {f"#{anchor}" for anchor in ANCHORS if anchor != "slices" or study["slices"]}
    lamps = [lamp | {"link": lamp.get("link") if lamp.get("link") in here else None} for lamp in study["lamps"]]
    return {"lamps": lamps, "one_seed": study["one_seed_sentence"], "scale": study["workload"].get("scale")}


def sentence(study: Study) -> list[tuple[str, bool]]:
    """The sentence in pieces; names and intervals are marked, so that no line breaks inside them."""
    names = sorted((arm["name"] for arm in study["arms"] if arm["name"]), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, names), r"\[[^\[\]]{1,40}\]"])
    return [(part, i % 2 == 1) for i, part in enumerate(re.split(f"({pattern})", study["sentence"])) if part]


def differs(study: Study) -> list[dict[str, Any]]:
    """Per arm: its edits, and every schedule that is not the baseline's, drawn over the baseline's."""
    base = {drawn["path"]: drawn for drawn in baseline(study)["schedules"]}
    shown = {study["arms"][number]["name"] for number in panelled(study)}
    return [
        {
            "name": arm["name"],
            "diff": [{key: short_numbers(text) for key, text in edit.items()} for edit in arm["diff"]],
            "schedules": [
                _panel(drawn, base.get(drawn["path"]))
                for drawn in arm["schedules"]
                if arm["name"] in shown and base.get(drawn["path"], {}).get("values") != drawn["values"]
            ],
        }
        for arm in others(study)
    ]


def short_numbers(text: str | None) -> str:
    """Long numbers with four digits; all of them stand in the resolved regimes.

    Examples
    --------
    >>> short_numbers("AdamW(lr=Cosine(0.008416242745472416), betas=(0.9, 0.95), seed=1234567)")
    'AdamW(lr=Cosine(0.008416…), betas=(0.9, 0.95), seed=1234567)'
    """
    if text is None:  # a place that only one of two regimes has: another number of phases, say
        return "(nothing)"
    return re.sub(r"\d*\.\d{6,}(e[-+]?\d+)?", lambda found: f"{float(found[0]):.4g}…", text)


def _panel(drawn: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, Any]:
    """A schedule as SVG points in a box of 100 by 100, from 0 (or its lowest value) up to its highest.

    Baseline and arm share the axis unless one would be a flat line on it (rates of different optimizers).
    """
    mine = envelope(drawn["fraction"], drawn["values"])
    theirs = envelope(base["fraction"], base["values"]) if base else []
    top = [max((abs(v) for _, v in points), default=0) for points in (mine, theirs)]
    together = not theirs or max(top) <= 20 * min(top)
    heights = [v for _, v in mine + (theirs if together else [])] or [0.0]
    low, high = min(0.0, *heights), max(0.0, *heights)
    text = "" if together else f"baseline not drawn: its highest value is {top[1]:.3g}"
    return {
        "path": drawn["path"],
        "points": _polyline(mine, low, high),
        "base": _polyline(theirs, low, high) if together else "",
        "top": f"{high:.3g}",
        "bottom": f"{low:.3g}",
        "note": text,
        "first": f"{mine[0][1]:.3g}" if mine else DASH,
        "last": f"{mine[-1][1]:.3g}" if mine else DASH,
    }


def _polyline(points: list[tuple[float, float]], low: float, high: float) -> str:
    span = (high - low) or 1.0
    return " ".join(f"{100 * x:.2f},{100 - 100 * (y - low) / span:.2f}" for x, y in points)


def learning(study: Study) -> dict[str, Any]:
    """Switches of the curves, and how early each arm is as good as the baseline in the end."""
    known = lines.units(study)
    shown = [unit for unit in known if unit in ("samples", "tokens", "flops", "seconds")] or known
    early = []
    for arm in others(study):
        cells = [_reach(lines.reach(study, arm, unit)) for unit in shown]
        early.append({"name": arm["name"], "cells": cells})
    missing = {arm["name"]: lost(study, arm) for arm in study["arms"]}
    gone = [row for row in failures(study) if row["seed"] in missing[row["arm"]]]
    return {
        "units": [(unit, lines.UNITS[unit]) for unit in known],
        "unit": lines.default_unit(study),
        "can_log": not any((curve["low"] <= 0).any() for arm in study["arms"] for curve in arm["curves"]),
        "each": bool(lines.faint_stretches(study)),
        "note": lines.note(study),
        "early_units": [lines.UNITS[unit] for unit in shown],
        "early": early,
        "lost": listing([f"seed {row['seed']} of {row['arm']}" for row in gone]),
    }


def _reach(found: Mapping[str, Any] | None) -> dict[str, str]:
    if found is None:
        return {"main": DASH, "note": ""}
    some = "" if found["reached"] == found["of"] else f"{found['reached']} of {found['of']} seeds"
    if found["median"] is None:
        return {"main": "not reached", "note": some}
    span = f"[{100 * found['first']:.0f}, {100 * found['last']:.0f}]"
    return {"main": f"{100 * found['median']:.0f}%", "note": f"{span} {some}".strip()}


def sensitivity(study: Study) -> dict[str, Any]:
    """A panel per tuned knob, who was not tuned or not bracketed, and the luck of the draw."""
    arms = study["arms"]
    panels = []
    for number, path in export.tuned(study):
        drawn = tuning.panel(study, arms[number], path)
        best = [trial["values"].get(path) for trial in tuning.trials(arms[number]) if trial["chosen"]]
        panels.append(
            {
                "key": f"sensitivity/{number}/{path}",
                "name": arms[number]["name"],
                "path": path,
                "best": f"{best[0]:.3g}" if best and isinstance(best[0], (int, float)) else DASH,
                "used": None if drawn["used"] is None else f"{drawn['used']:.3g}",
                "trials": len(drawn["rows"]),
                "diverged": sum(row["kind"] == "diverged" for row in drawn["rows"]),
                "on_edge": bool(arms[number]["tuning"].get("on_edge")),
                "advice": arms[number]["tuning"].get("advice") or "tune over a wider range",
            }
        )
    return {
        "panels": panels,
        "untuned": listing([arm["name"] for arm in arms if not tuning.trials(arm)]),
        "luck": tuning.luck(study),
        "trials": _trial_rows(study),
    }


def _trial_rows(study: Study) -> list[dict[str, Any]]:
    rows = []
    for arm in study["arms"]:
        for trial in tuning.trials(arm):
            values = ", ".join(
                f"{p} = {v:.4g}" if isinstance(v, float) else f"{p} = {v}" for p, v in trial["values"].items()
            )
            metric = "diverged" if trial["diverged"] else plain(trial["metric"], decimals(study["margin"]))
            rows.append({"arm": arm["name"], "setting": values, "metric": metric, "chosen": trial["chosen"]})
    return rows


def seeds(study: Study) -> dict[str, Any]:
    """Per arm: who won how many seeds, run-to-run sd, correlation, sign-flip p, the most extreme seed."""
    digits, drawn = decimals(study["margin"]), export.slopes(study)
    table, panels = [], []
    for number, arm in enumerate(study["arms"]):
        row = {
            "name": arm["name"],
            "sd": plain(arm["sd"], digits + 1),
            "correlation": DASH,
            "p": DASH,
            "without": DASH,
        }
        if number and arm["comparison"]:
            one = arm["comparison"]
            row |= {"correlation": plain(one["correlation"], 2), "p": _p(one["p_sign_flip"])}
            row["without"] = influence(study, arm)
        table.append(row)
        if number in drawn:
            gains = [gain for gain in seed_differences(study, arm) if gain is not None]
            panels.append(
                {
                    "key": f"seeds/{number}",
                    "name": arm["name"],
                    "won": sum(g > 0 for g in gains),
                    "of": len(gains),
                }
            )
    return {"panels": panels, "table": table, "values": _value_rows(study, digits)}


def _p(value: float | None) -> str:
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _value_rows(study: Study, digits: int) -> list[dict[str, Any]]:
    rows = []
    for arm in study["arms"]:
        gains = seed_differences(study, arm)
        cells = [
            {
                "value": "diverged" if v is None else plain(v, digits),
                "gain": "" if arm is baseline(study) else signed(g, digits),
            }
            for v, g in zip(arm["values"], gains)
        ]
        rows.append({"name": arm["name"], "cells": cells})
    return rows
