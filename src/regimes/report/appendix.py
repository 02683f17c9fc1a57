"""What the sections from the cost on say, as plain values for the template; no markup here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from . import export, panels
from .facts import Study, failures, others
from .tables import bibtex, csv_table, latex_table, markdown_table, methods_paragraph
from .text import count, duration, listing, memory, percent, times

__all__ = ["cost", "failures", "inside", "notable", "take"]

COST_COLUMNS = (
    ("steps", "steps", count),
    ("samples", "samples", count),
    ("tokens", "tokens", count),
    ("flops", "FLOPs", count),
    ("side_flops", "side FLOPs", count),
    ("seconds", "time", duration),
    ("peak_memory", "peak memory", memory),
    ("tuning_flops", "tuning FLOPs", count),
    ("tuning_seconds", "tuning time", duration),
    ("ratio", "cost", times),
)
NOTABLE = 0.05


def cost(study: Study) -> dict[str, Any]:
    """The cost table without the columns that nobody filled."""
    filled = [c for c in COST_COLUMNS if any(arm["cost"][c[0]] is not None for arm in study["arms"])]
    rows = [
        {"name": arm["name"], "cells": [show(arm["cost"][key]) for key, _, show in filled]} for arm in study["arms"]
    ]
    total = [arm["cost"]["tuning_seconds"] for arm in study["arms"] if arm["cost"]["tuning_seconds"]]
    return {
        "heading": [title for _, title, _ in filled],
        "rows": rows,
        "tuning": duration(sum(total)) if total else "",
    }


def inside(study: Study) -> dict[str, Any]:
    """Quantities in which arms differ notably, and those in which they hardly do."""
    found = [
        {"key": f"inside/{name}", "name": name, "notable": notable(study, name)} for name in export.quantities(study)
    ]
    return {
        "notable": [one for one in found if one["notable"]],
        "alike": [one for one in found if not one["notable"]],
        "note": _inside_note(study),
    }


def _inside_note(study: Study) -> str:
    """What is drawn of long courses; empty where all of them is."""
    courses = [course for arm in study["arms"] for course in arm["inside"].values()]
    drawn = 2 * panels.inside_stretches(study) + 2
    if all(course.get("of", len(course["x"])) <= min(len(course["x"]), drawn) for course in courses):
        return ""
    return "Lines go through the lowest and the highest value of each of equal stretches: no spike is left out."


def notable(study: Study, name: str) -> bool:
    """Whether some arm is off the first by over 5% of the quantity's mean size, averaged over the run."""
    import numpy as np

    arms = [arm["inside"][name] for arm in study["arms"] if name in arm["inside"]]
    known = [[(x, v) for x, v in zip(one["x"], one["value"]) if v is not None] for one in arms]
    known = [points for points in known if points]
    if len(known) < 2 or len(known) < len(study["arms"]):
        return True
    x = np.array([x for x, _ in known[0]])
    base = np.array([v for _, v in known[0]])
    size = float(np.abs(base).mean()) or 1.0
    return any(np.abs(np.interp(x, *np.array(points).T) - base).mean() > NOTABLE * size for points in known[1:])


def take(study: Study) -> dict[str, Any]:
    """Everything to copy or to save; files are data links, so they need no script."""
    texts = [
        ("Methods paragraph", methods_paragraph(study) + "\n", "methods.txt"),
        ("Table, Markdown", markdown_table(study), "table.md"),
        ("Table, LaTeX", latex_table(study), "table.tex"),
        ("Every final value, CSV", csv_table(study), "values.csv"),
        ("BibTeX of the methods", bibtex(study), "methods.bib"),
    ]
    regimes = [
        (f"Regime of {arm['name']}", arm["regime"] + "\n", f"{export.slug(arm['name'])}.regime.txt")
        for arm in study["arms"]
        if arm["regime"]
    ]
    undecided = [arm for arm in others(study) if arm["comparison"] and arm["comparison"]["verdict"] == "undecided"]
    seconds = [arm["comparison"]["more_seconds"] for arm in undecided if arm["comparison"]["more_seconds"] is not None]
    work = study["workload"]
    return {
        "texts": [_text(*entry) for entry in texts if entry[1].strip()],
        "regimes": [_text(*entry) for entry in regimes],
        "undecided": listing([arm["name"] for arm in undecided]),
        "price": duration(sum(seconds)) if seconds else "",
        "facts": _facts(study, work),
    }


def _text(title: str, text: str, file: str) -> dict[str, str]:
    return {
        "title": title,
        "text": text,
        "file": file,
        "href": f"data:text/plain;charset=utf-8,{quote(text)}",
    }


def _facts(study: Study, work: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("workload", work.get("name")),
        ("parameters", count(work["parameters"]) if work.get("parameters") else None),
        ("data fingerprint", work.get("fingerprint")),
        ("seeds", ", ".join(str(seed) for seed in study["seeds"])),
        ("level", percent(study["level"])),
        *study["environment"].items(),
    ]
    return [(str(key), str(value)) for key, value in facts if value not in (None, "")]
