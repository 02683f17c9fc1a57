"""One HTML file that needs nothing from anywhere; text, tables and forest plot even without its script."""

from __future__ import annotations

import functools
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from . import appendix, export, sections
from .facts import Study, lost, panels_note
from .forest import forest, slices
from .library import digest, library, pack
from .normal import normal
from .palette import ARMS, MODES, css_variables, theme
from .text import decimals, percent, plain
from .tuning import trials

SECTIONS = {
    sections: ("sentence", "trust", "differs", "learning", "sensitivity", "seeds"),
    appendix: ("cost", "inside", "failures", "take"),
}


def render(study: Study) -> str:
    """The report of a comparison as one HTML page.

    The page loads nothing (its content-security policy forbids it), shows its sentence, tables and forest
    plot without a script, and carries one compressed copy of Vega for the other charts.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`. It is not changed.

    Returns
    -------
    str
        HTML, about half a megabyte.

    Raises
    ------
    ValueError
        The study is of a foreign schema or contradicts itself; the sentence says where.
    """
    study = normal(study)
    script = _file("page.js")
    specs, tables = export.specifications(study, export.page_charts(study))
    payload = {
        "specs": specs,
        "tables": {name: _columns(rows) for name, rows in tables.items()},
        "themes": {mode: theme(mode) for mode in MODES},
        "arms": [arm["name"] for arm in study["arms"]],
    }
    packed = pack(json.dumps(payload, separators=(",", ":"), allow_nan=False))
    return (
        _environment()
        .get_template("template.html.j2")
        .render(
            study=study,
            level=percent(study["level"]),
            margin=f"{study['margin'] or 0:g}",
            baseline_mean=plain(study["arms"][0]["mean"], decimals(study["margin"])),
            lost_baseline=len(lost(study, study["arms"][0])),
            forest=forest(study),
            slices=slices(study),
            tried=max(len(trials(arm)) for arm in study["arms"]),
            panels_note=panels_note(study),
            **{name: getattr(room, name)(study) for room, names in SECTIONS.items() for name in names},
            anchors=sections.ANCHORS,
            figures=specs,
            hue={arm["name"]: i % len(ARMS["light"]) for i, arm in enumerate(study["arms"])},
            colors={mode: css_variables(mode) for mode in MODES},
            style=_file("style.css"),
            script=script,
            hashes=[digest(script), library().digest],
            library=library().packed,
            payload=packed,
        )
    )


def write(study: Study, path: str | Path) -> Path:
    """Write the report to a file, all of it or nothing.

    The page is filled in beside its place and renamed, so a reader never sees half of one and a failure
    leaves the previous report as it was.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`.
    path
        The file, or an existing folder, which then gets ``report.html``.

    Returns
    -------
    Path
        The file written.
    """
    target = Path(path)
    if target.is_dir():
        target = target / "report.html"
    html = render(study)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(html)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return target


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows by column: a third of the text, and a fraction of it where it is compressed."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


@functools.cache
def _environment() -> Any:
    import jinja2

    loader = jinja2.DictLoader({"template.html.j2": _file("template.html.j2")})
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
