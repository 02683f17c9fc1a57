"""The study in a terminal: sentence, table, what would decide the undecided."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regimes.study.sentences import left

STYLES = {"better": "bold green", "worse": "bold red", "same": "cyan", "undecided": "yellow", "none": "dim"}
MARKS = {"better": "▲ better", "worse": "▼ worse", "same": "= same", "undecided": "? undecided", "none": "· none"}


def duration(seconds: float) -> str:
    """Return seconds in words.

    Examples
    --------
    >>> duration(42.4), duration(200), duration(9000)
    ('42 s', '3.3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def table(facts: dict[str, Any]) -> Table:
    """Return the rich table of a study."""
    k = len(facts["arms"]) - 1
    tuning = f", {facts['trials']} tuning trials each" if facts["trials"] else ""
    made = Table(title=f"{facts['metric']} after {facts['budget']}, {runs(facts)}{tuning}", title_justify="left")
    made.caption = f"decides at: {facts['margin']:g}; difference: positive is better; {facts['workload']['scale']}"
    made.caption_justify = "left"
    made.add_column("arm", no_wrap=True)
    made.add_column("mean", justify="right")
    made.add_column(f"vs {facts['baseline']} ({facts['level']:.0%}, {k} arm{'s' if k > 1 else ''})", justify="right")
    made.add_column("verdict", no_wrap=True)
    made.add_column("cost", justify="right")
    made.add_column("to decide")
    for arm in facts["arms"]:
        made.add_row(*_row(arm, facts))
    return made


def runs(facts: dict[str, Any]) -> str:
    """Return how many runs the arms have, in words.

    Examples
    --------
    >>> arms = [{"values": [1.0, 2.0, 1.5], "absent": []}, {"values": [1.0, 2.0, None], "absent": [2]}]
    >>> runs({"seeds": [0, 1, 2], "paired": True, "arms": arms[:1]}), runs({"seeds": [0, 1], "paired": False, "arms": arms})
    ('3 paired seeds', '2 to 3 runs per arm, not paired')
    >>> runs({"seeds": [0, 1, 2], "paired": True, "arms": arms})
    '2 to 3 paired seeds'
    """
    counts = sorted({len(arm["values"]) - len(arm["absent"]) for arm in facts["arms"] if not left(arm)})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    end = "" if number == "1" else "s"
    return f"{number} paired seed{end}" if facts["paired"] else f"{number} run{end} per arm, not paired"


def _row(arm: dict[str, Any], facts: dict[str, Any]) -> list[Any]:
    base = next(other for other in facts["arms"] if other["name"] == facts["baseline"])
    found, cost = arm["comparison"], arm["cost"]
    mean = "-" if arm["mean"] is None else f"{arm['mean']:.4g}{of_runs(arm)}"
    price = _price(cost)
    if arm["name"] == facts["baseline"]:
        return [arm["name"], mean, "baseline", "-", price, ""]
    if left(arm):
        rung = arm["rungs"][-1]
        return [
            arm["name"],
            "-",
            "-",
            Text(f"left at rung {left(arm)}", style="dim"),
            price,
            f"{rung['place']} of {rung['of']}",
        ]
    if found is None:
        broken = any(one.get("failed") for one in (arm, base))
        remedy = "runs that do not fail" if broken else ""
        return [arm["name"], mean, "-", "failed" if broken else "not finished", price, remedy]
    gap = f"{_end(found['difference'], '-')} [{_end(found['low'], '-inf')}, {_end(found['high'], '+inf')}]"
    verdict = Text(MARKS[found["verdict"]], style=STYLES[found["verdict"]])
    return [arm["name"], mean, gap, verdict, price, _to_decide(found, arm, base)]


def _price(cost: dict[str, Any]) -> str:
    """Work against the baseline's; time, where nobody counts work."""
    if cost["ratio"]:
        return f"{cost['ratio']:.2f}x"
    return f"{cost['seconds_ratio']:.2f}x time" if cost.get("seconds_ratio") else "-"


def of_runs(arm: dict[str, Any]) -> str:
    """Return how many runs a mean is of, where some diverged: they have no number to average.

    Examples
    --------
    >>> of_runs({"values": [2.0, None, 2.5]}), of_runs({"values": [2.0, 2.5]})
    (' (2 of 3)', '')
    """
    runs = len(arm["values"]) - len(arm.get("absent", ()))
    ended = sum(value is not None for value in arm["values"])
    return "" if ended == runs else f" ({ended} of {runs})"


def _end(value: float | None, unbounded: str) -> str:
    return unbounded if value is None else f"{value:+.4f}"


def _to_decide(found: dict[str, Any], arm: dict[str, Any], base: dict[str, Any]) -> str:
    """Return what would decide an undecided arm: the first thing that stands in its way."""
    if found["verdict"] not in ("undecided", "none"):
        return ""
    edge = [
        a["tuning"].get("advice") or "tune over a wider range"
        for a in (arm, base)
        if a["tuning"] and a["tuning"]["on_edge"]
    ]
    if edge:
        return " and ".join(dict.fromkeys(edge))
    if arm["diverged"] or base["diverged"]:
        return "runs that do not diverge"
    if arm.get("not_a_number") or base.get("not_a_number"):
        return "a metric that is a number"
    if found.get("one_observation"):
        return "more seeds" if found.get("n", 2) < 2 else "seeds that change the runs"
    if found["more_seeds"] is None:
        return "more tuning trials" if arm["tuning"] or base["tuning"] else "over 10,000 seeds"
    took = "" if found["more_seconds"] is None else f" ({duration(found['more_seconds'])})"
    return f"{found['more_seeds']} more seed{'s' if found['more_seeds'] > 1 else ''}{took}"


def text(facts: dict[str, Any], width: int = 120) -> str:
    """Return sentence, table and what one seed would have said, as plain text."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, markup=False)
    console.print(facts["sentence"], highlight=False)
    console.print(table(facts))
    if facts["one_seed_sentence"]:
        console.print(facts["one_seed_sentence"], highlight=False)
    for lamp in facts["lamps"]:
        if not lamp["ok"]:
            console.print(f"note: {lamp['name']}? {lamp['text']}", highlight=False)
    for note in facts["notes"]:
        console.print(f"note: {note}", highlight=False)
    return out.getvalue().rstrip("\n")
