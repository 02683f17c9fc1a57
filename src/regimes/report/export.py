"""Figures as data for the page and as SVG and PDF files for a paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from . import charts, panels
from .charts import Tables
from .curves import default_unit, units
from .facts import Study, others, panelled, seed_differences
from .lines import Lines, Rows
from .normal import normal
from .palette import theme
from .tuning import trials

WIDTH, SMALL = 640, 320


def slug(text: str) -> str:
    """A file name for a name that a person typed.

    Examples
    --------
    >>> slug('a/b <c>'), slug('..')
    ('a-b-c', 'unnamed')
    """
    return re.sub(r"[^\w]+", "-", text).strip("-") or "unnamed"


def tuned(study: Study) -> list[tuple[int, str]]:
    """(arm number, tuned path) of the arms with panels that have trials."""
    arms = [(number, study["arms"][number]) for number in panelled(study)]
    return [(number, path) for number, arm in arms if trials(arm) for path in arm["tuning"]["paths"]]


def quantities(study: Study) -> list[str]:
    """Names of what was measured inside the runs, in order of first appearance."""
    return list(dict.fromkeys(name for arm in study["arms"] for name in arm["inside"]))


def slopes(study: Study) -> list[int]:
    """Numbers of the arms with panels that share finished seeds with the baseline: a line of one seed says what the table says."""
    arms = study["arms"]
    shared = {i: [d for d in seed_differences(study, arms[i]) if d is not None] for i in panelled(study)[1:]}
    return [i for i, differences in shared.items() if len(differences) > 1]


Draw = Callable[[Tables], Any]


def page_charts(study: Study) -> dict[str, Draw]:
    """Every chart of the page by key; charts with switches have a key per position of the switches."""
    found: dict[str, Draw] = {}
    drawn = Lines(study)
    for unit in units(study):
        found[f"curves/{unit}/linear"] = partial(charts.curves, study=study, drawn=drawn, unit=unit)
        found[f"curves/{unit}/log"] = partial(charts.curves, study=study, drawn=drawn, unit=unit, log=True)
        found[f"difference/{unit}"] = partial(charts.difference, study=study, drawn=drawn, unit=unit)
    found |= {"best-of-k": partial(panels.best_of_k, study=study), "cost": partial(panels.cost, study=study)}
    for number, path in tuned(study):
        arm = study["arms"][number]
        found[f"sensitivity/{number}/{path}"] = partial(panels.sensitivity, study=study, arm=arm, path=path)
    for number in slopes(study):
        found[f"seeds/{number}"] = partial(panels.slopes, study=study, arm=study["arms"][number])
    for name in quantities(study):
        found[f"inside/{name}"] = partial(panels.inside, study=study, name=name)
    return found


def specifications(study: Study, found: Mapping[str, Draw]) -> tuple[dict[str, Any], Tables]:
    """Vega-Lite of every chart that has something to draw, and all their tables, each once.

    A specification's ``tables`` lists the names of those it reads.
    """
    shared: Tables = Tables()
    named: dict[int, tuple[Rows, str]] = {}
    specs = {}
    for key, draw in found.items():
        tables = Tables(named)
        chart = draw(tables)
        if chart is not None:
            spec = chart.to_dict(validate=False)
            specs[key] = {part: spec[part] for part in spec if part not in ("config", "$schema")}
            specs[key]["tables"] = list(tables)
            charts.fill(specs[key], study)
            shared |= tables
    return specs, shared


def figures(study: Study, folder: str | Path) -> list[Path]:
    """Write every figure of the report as SVG and as PDF, in light colors, on white, with a legend.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`.
    folder
        Made if missing; files of the same name are replaced.

    Returns
    -------
    list of Path
        The files written.
    """
    study, folder = normal(study), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = _for_paper(study)
    specs, tables = specifications(study, {name: draw for name, (draw, _) in found.items()})
    written = []
    for name, spec in specs.items():
        ready = _titled(spec, found[name][1]) | {"datasets": {used: tables[used] for used in spec["tables"]}}
        for suffix, convert in _converters().items():
            path = folder / f"{name}.{suffix}"
            path.write_bytes(convert(ready))
            written.append(path)
    return written


def _converters() -> dict[str, Callable[[dict[str, Any]], bytes]]:
    import vl_convert

    def svg(spec: dict[str, Any]) -> bytes:
        return vl_convert.vegalite_to_svg(spec, config=theme("light", "white")).encode()

    def pdf(spec: dict[str, Any]) -> bytes:
        return vl_convert.vegalite_to_pdf(spec, config=theme("light", "white"))

    return {"svg": svg, "pdf": pdf}


def _for_paper(study: Study) -> dict[str, tuple[Draw, str]]:
    """One chart and its title per file name; switches in their first position.

    A title makes it a small figure without legend: it is about one arm, or named nowhere else.
    """
    arms, unit = study["arms"], default_unit(study)
    page = page_charts(study)
    found: dict[str, tuple[Draw, str]] = {"forest": (partial(panels.forest, study=study), "")}
    plain = {
        "curves": f"curves/{unit}/linear",
        "difference": f"difference/{unit}",
        "best-of-k": "best-of-k",
        "cost": "cost",
    }
    found |= {name: (page[key], "") for name, key in plain.items() if key in page}
    for i, path in tuned(study):
        name = arms[i]["name"]
        drawn = page[f"sensitivity/{i}/{path}"]
        found[f"sensitivity-{i}-{slug(name)}-{slug(path)}"] = (drawn, f"{name}: {study['watched']}")
    for i in slopes(study):
        name = arms[i]["name"]
        found[f"seeds-{i}-{slug(name)}"] = (page[f"seeds/{i}"], f"{name}: {study['metric']}")
    for i, name in enumerate(quantities(study)):
        found[f"inside-{i}-{slug(name)}"] = (partial(panels.inside, study=study, name=name, titled=True), "")
    for i, path in enumerate(changed_paths(study)):
        found[f"schedule-{i}-{slug(path)}"] = (partial(panels.schedule, study=study, path=path), "")
    return found


def changed_paths(study: Study) -> list[str]:
    """Paths whose schedule in some arm is not the baseline's."""
    base = {drawn["path"]: drawn["values"] for drawn in study["arms"][0]["schedules"]}
    changed = [d["path"] for arm in others(study) for d in arm["schedules"] if base.get(d["path"]) != d["values"]]
    return list(dict.fromkeys(changed))


def _titled(spec: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A fixed width, and a title or the legend, both of which on the page are HTML."""
    ready = {part: value for part, value in spec.items() if part != "tables"}
    if title:
        return ready | {"title": title, "width": SMALL}
    for layer in [ready, *ready.get("layer", [])]:
        color = layer.get("encoding", {}).get("color", {})
        color.pop("legend", None)
        if color:
            color["title"] = None
    return ready | {"width": WIDTH}
