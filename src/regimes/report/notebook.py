"""Small HTML for notebooks: what a Regime, a Plan, a RunResult and a Study show as the last line of a cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from regimes.core import paths, thinning
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Schedule

_STYLE = (
    "<style>.regimes{font:13px/1.5 system-ui,sans-serif}.regimes table{border-collapse:collapse;margin:.4em 0}"
    ".regimes th,.regimes td{text-align:left;padding:.15em .9em .15em 0;vertical-align:middle;background:none}"
    ".regimes th{font-weight:600;border-bottom:1px solid currentColor}.regimes code{font-size:12px;background:none}"
    ".regimes svg{display:block}.regimes .soft{opacity:.7}</style>"
)
#: A verdict is a word and a sign, never a color alone.
_SIGNS = {"better": "▲", "worse": "▼", "same": "=", "undecided": "?", "none": "·"}
_WIDTH, _HEIGHT = 160, 28
#: Of a line, two points each at most.
_STRETCHES = 100


class Html(str):
    """Text that is HTML already."""


def page(*parts: str) -> str:
    """Return parts (escaped unless they are `Html`) as one block with its style."""
    return f'{_STYLE}<div class="regimes">{"".join(_safe(part) for part in parts)}</div>'


def _safe(value: Any) -> str:
    return str(value) if isinstance(value, Html) else escape(str(value))


def paragraph(text: Any, soft: bool = False) -> Html:
    """Return a paragraph."""
    return Html(f'<p class="soft">{_safe(text)}</p>' if soft else f"<p>{_safe(text)}</p>")


def code(text: Any) -> Html:
    """Return text as code."""
    return Html(f"<code>{_safe(text)}</code>")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Html:
    """Return a table; cells are escaped unless they are `Html`."""
    top = "".join(f"<th>{_safe(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return Html(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def curve(values: Sequence[float], label: str) -> Html:
    """Return a line through the finite values, drawn in the color of the text; of many, through their extremes.

    Parameters
    ----------
    values : sequence of float
        At equal distances.
    label : str
        What a screen reader says.
    """
    finite = [(place, value) for place, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return Html("")
    heights = [value for _, value in finite]
    low, high = min(heights), max(heights)
    last = max(len(values) - 1, 1)
    kept = thinning.extremes(heights, _STRETCHES)
    if len(kept) < len(finite):
        label += f", the lowest and the highest of each of {_STRETCHES} stretches"
    points = " ".join(
        f"{1 + place / last * (_WIDTH - 2):.1f},{_HEIGHT - 2 - _share(value, low, high) * (_HEIGHT - 4):.1f}"
        for place, value in (finite[at] for at in kept)
    )
    return Html(
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<polyline fill="none" stroke="currentColor" stroke-width="1.5" points="{points}"/></svg>'
    )


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (value - low) / (high - low)


# -- regimes -----------------------------------------------------------------------------------------------------


def regime_html(regime: Any) -> str:
    """Return a regime as a table of its phases' fields, every schedule drawn."""
    rows = []
    for phase in regime.phases:
        lead = "" if len(regime.phases) == 1 else f"{phase.name}."
        budget = phase.budget if phase.budget is not None else regime.budget
        rows.append([f"{lead}budget", code(budget), ""])
        for text in phase.printed_arguments()[1:]:
            name, _, value = text.partition("=")
            if name != "budget":
                rows.append([lead + name, code(value), ""])
        for path, value, _ in paths.knobs(phase):
            if isinstance(value, Schedule):
                rows.append([lead + path, code(value), _sketch(value, lead + path)])
    return page(table(["Regime", "", ""], rows), paragraph(f"hash {regime.hash}", soft=True))


def _sketch(schedule: Schedule, path: str) -> Html:
    try:
        values = [schedule(place / 80) for place in range(81)]
    except DeclarationError:  # Durations in steps or tokens: without a run their share is not known
        return Html("")
    return curve(values, f"{path} over its phase, from {values[0]:.3g} to {values[-1]:.3g}")


# -- plans -------------------------------------------------------------------------------------------------------


def plan_html(plan: Any) -> str:
    """Return a plan: phases, memory, time, groups, schedules."""
    facts = plan.to_dict()
    phases = [
        [p["name"], p["budget"], ("" if p["exact"] else "~") + f"{p['steps']:,}", f"{p['samples']:,}",
         f"{p['tokens']:,}", f"{p['flops']:.3g}", "-" if p["seconds"] is None else f"{p['seconds']:.3g} s"]
        for p in facts["phases"]
    ]  # fmt: skip
    drawn = [
        [f"{phase.name}.{c.path}", code(c.declared), curve(c.values, c.path), f"peak {c.peak:.3g}"]
        for phase in plan.phases
        for c in phase.curves
    ]
    groups = [
        [code(g.match), code(g.rule), g.tensors, f"{g.parameters:,}", ", ".join(g.names)]
        for phase in plan.phases
        for g in phase.groups
    ]
    took = "not measured" if plan.seconds is None else f"about {plan.seconds:.3g} s"
    parts = [
        paragraph(f"{plan.workload}, seed {plan.seed}: {plan.parameters:,} trained parameters; time: {took}; "
                  f"memory: {plan.memory.total / 1e6:.3g} MB, activations not counted"),
        table(["phase", "budget", "steps", "samples", "tokens", "FLOPs", "time"], phases),
    ]  # fmt: skip
    if groups:
        parts.append(table(["match", "rule", "tensors", "parameters", "for example"], groups))
    if drawn:
        parts.append(table(["knob", "declared", "", ""], drawn))
    return page(*parts)


# -- runs --------------------------------------------------------------------------------------------------------


def run_html(result: Any) -> str:
    """Return what came of a run: metrics and the course of the training loss."""
    losses = [row["loss"] for row in result.records if isinstance(row.get("loss"), int | float)]
    rows: list[list[Any]] = [[name, f"{value:.5g}"] for name, value in result.metrics.items()]
    if losses:
        rows.append(["training loss", curve(losses, f"from {losses[0]:.3g} to {losses[-1]:.3g}")])
    where = f"; {result.folder}" if result.folder else ""
    return page(
        paragraph(f"{result.workload.name}, seed {result.seed}: {result.steps} steps, {result.seconds:.3g} s{where}"),
        table([f"at the {result.weights} weights", ""], rows),
        *[paragraph(f"note: {note}", soft=True) for note in result.notes],
    )


# -- studies -----------------------------------------------------------------------------------------------------


def study_html(study: Any) -> str:
    """Return a study: its sentence and one row per arm."""
    facts = study.to_dict()
    head = ["arm", f"mean {facts['metric']}", f"vs {facts['baseline']}", "verdict", "to decide"]
    rows = [_arm_row(arm, facts) for arm in facts["arms"]]
    lamps = [paragraph(f"note: {lamp['name']}? {lamp['text']}", soft=True) for lamp in facts["lamps"] if not lamp["ok"]]
    said = [paragraph(facts["one_seed_sentence"])] if facts["one_seed_sentence"] else []
    return page(paragraph(facts["sentence"]), table(head, rows), *said, *lamps)


def _arm_row(arm: dict[str, Any], facts: dict[str, Any]) -> list[Any]:
    ended = [value for value in arm["values"] if value is not None]
    runs = len(arm["values"]) - len(arm.get("absent", ()))
    of = "" if len(ended) == runs else f" ({len(ended)} of {runs})"
    mean = "-" if arm["mean"] is None else f"{arm['mean']:.4g}{of}"
    found = arm["comparison"]
    if found is None:
        return [arm["name"], mean, "baseline" if arm["name"] == facts["baseline"] else "-", "", ""]
    gap = f"{_end(found['difference'], '-')} [{_end(found['low'], '-inf')}, {_end(found['high'], '+inf')}]"
    verdict = f"{_SIGNS[found['verdict']]} {found['verdict']}"
    more = f"{found['more_seeds']} more seeds" if found["more_seeds"] else ""
    return [arm["name"], mean, gap, verdict, more]


def _end(value: float | None, unbounded: str) -> str:
    return unbounded if value is None else f"{value:+.4f}"
