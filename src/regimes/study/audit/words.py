"""What an audit found, in words."""

from __future__ import annotations

from typing import Any

from regimes.study.audit.implied import STANDINGS
from regimes.study.table import duration


def sentence(facts: dict[str, Any]) -> str:
    """Return the audit in one sentence.

    Examples
    --------
    >>> made = [{"standing": "stands"}, {"standing": "one run each"}, {"standing": "stands"}]
    >>> sentence({"runs": 9, "regimes": 3, "comparisons": made})
    '9 runs of 3 regimes imply 3 comparisons: 2 stand, 1 with one run each'
    """
    found = [one["standing"] for one in facts["comparisons"]]
    plural = {
        "stands": "{} stand{}",
        "reverses on other seeds": "{} reverse{} on other seeds",
        "never decided": "{} never decided",
        "one run each": "{} with one run each",
        "no common seed": "{} without a common seed",
    }
    parts = [plural[s].format(found.count(s), "s" if found.count(s) == 1 else "") for s in STANDINGS if s in found]
    head = f"{_number(facts['runs'], 'run')} of {_number(facts['regimes'], 'regime')}"
    if not parts:
        return f"{head} imply no comparison: no two differ in little"
    return f"{head} imply {_number(len(found), 'comparison')}: {', '.join(parts)}"


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def text(facts: dict[str, Any]) -> str:
    """Return what a terminal shows."""
    lines = [
        sentence(facts) + ".",
        f"Intervals hold together at {facts['level']:.0%}; a positive difference is better.",
    ]
    lines = lines if facts["comparisons"] else lines[:1]
    for standing in STANDINGS:
        members = [one for one in facts["comparisons"] if one["standing"] == standing]
        if members:
            lines += ["", f"{standing}:", *(f"  {_line(one)}" for one in members)]
    if facts["reruns"]:
        lines += ["", "re-runs, most comparisons decided per second first:"]
        lines += [line for place, rerun in enumerate(facts["reruns"], 1) for line in _rerun(place, rerun)]
    return "\n".join([*lines, *(f"note: {note}" for note in facts["notes"])])


def _line(one: dict[str, Any]) -> str:
    return f"{one['context']}: {one['changes']}: {_found(one)}"


def _found(one: dict[str, Any]) -> str:
    """The verdict on the seeds that there are, and what the seeds say one by one."""
    found, metric, number = one["comparison"], one["metric"], len(one["seeds"])
    if found is None:
        return "they were trained on different seeds"
    if number == 1:
        return f"{metric} {one['gains'][0]:+.4g} on seed {one['seeds'][0]} alone"
    ends = [_end(found["low"], "-inf"), _end(found["high"], "+inf")]
    mean = "-" if found["difference"] is None else f"{found['difference']:+.4g}"
    wins = f"better on {found['one_seed_wins']} of {number} seeds"
    return f"{found['verdict']}, {metric} {mean} [{ends[0]}, {ends[1]}] at a margin of {one['margin']:g}, {wins}"


def _end(value: float | None, unbounded: str) -> str:
    return unbounded if value is None else f"{value:+.4g}"


def _rerun(place: int, rerun: dict[str, Any]) -> list[str]:
    runs = sum(len(one["seeds"]) for one in rerun["runs"])
    lead = "at least " if rerun["assumed"] else ""
    settled = [f"{context}: {changes}" for context, changes in zip(rerun["contexts"], rerun["settles"])]
    head = f"{lead}{_number(runs, 'run')}, {duration(rerun['seconds'])}, for {'; and '.join(settled)}"
    lines = rerun["commands"] or [
        f"seeds {', '.join(map(str, one['seeds']))} of {one['regime']}" for one in rerun["runs"]
    ]
    return [f"  {place}. {head}", *(f"     {line}" for line in lines)]
