"""What a guard found, in words: a sentence, a text for the terminal, a comment in Markdown."""

from __future__ import annotations

from typing import Any

from regimes.study.guard.trace import Place
from regimes.study.table import duration

_MARKS = {"same": "✅", "better": "⬆️", "worse": "❌", "undecided": "❔", "failed": "❌"}


def sentence(facts: dict[str, Any]) -> str:
    """Return what was found, in one sentence.

    Examples
    --------
    >>> facts = {"verdict": "same", "metric": "val/loss", "margin": 0.003, "bitwise": False, "seconds": 84.0,
    ...          "comparison": {"difference": 0.0004, "low": -0.0011, "high": 0.0019, "pairs": 8}, "step_time":
    ...          {"text": "step time +4% [3, 5]"}, "first_difference": {"step": 17, "part": "`optimizer.step`",
    ...          "detail": ""}, "failure": None, "traced": 100, "watched_seed": 7}
    >>> print(sentence(facts))
    val/loss same within 0.003 (8 pairs, 84 s); step time +4% [3, 5]; the first step that differs is 17, in `optimizer.step`
    >>> print(sentence(facts | {"bitwise": True}))
    bitwise the same: val/loss and all 100 steps of seed 7 (84 s)
    """
    if facts["verdict"] == "failed":
        return f"head does not run: {facts['failure']}"
    if facts["bitwise"]:
        seen = f"{facts['metric']} and all {facts['traced']} steps of seed {facts['watched_seed']}"
        return f"bitwise the same: {seen if facts['traced'] else 'the same code'} ({duration(facts['seconds'])})"
    parts = [_judged(facts)]
    if facts["step_time"] is not None:
        parts.append(facts["step_time"]["text"])
    if facts["first_difference"] is not None:
        parts.append(str(Place(**facts["first_difference"])))
    return "; ".join(parts)


def _judged(facts: dict[str, Any]) -> str:
    """The verdict on paired runs."""
    found, metric = facts["comparison"], facts["metric"]
    took = f"({found['pairs']} pairs, {duration(facts['seconds'])})"
    if facts["verdict"] == "same":
        return f"{metric} same within {facts['margin']:g} {took}"
    if None in (found["difference"], found["low"], found["high"]):
        return f"{metric} undecided: the seeds show no spread that could be told from chance {took}"
    low, high = sorted((-found["low"], -found["high"]) if facts["better"] == "lower" else (found["low"], found["high"]))
    change = -found["difference"] if facts["better"] == "lower" else found["difference"]
    return f"{metric} {facts['verdict']}: {change:+.3g} [{low:+.3g}, {high:+.3g}] at a margin of {facts['margin']:g} {took}"


def text(facts: dict[str, Any]) -> str:
    """Return what a terminal shows."""
    versions = f"{facts['workload']}: {facts['base']['name']} -> {facts['head']['name']}"
    lines = [f"{facts['verdict']}: {sentence(facts)}", f"  {versions}"]
    lines += [f"  {line}" for line in _more(facts)]
    return "\n".join(lines)


def markdown(facts: dict[str, Any]) -> str:
    """Return a comment for a pull request."""
    head = f"{_MARKS[facts['verdict']]} **{facts['verdict']}** `{facts['workload']}`: {sentence(facts)}"
    versions = f"`{facts['base']['name']}` → `{facts['head']['name']}`, {facts['file']}"
    return "\n".join([head, "", versions, *(f"- {line}" for line in _more(facts))]) + "\n"


def _more(facts: dict[str, Any]) -> list[str]:
    """What would decide it, and what should be known."""
    said, found = [], facts["comparison"]
    if facts["verdict"] == "undecided" and found is not None:
        more = found["more_seeds"]
        if found["one_observation"]:
            said.append("seeds that change the runs would decide it: every pair differed by the same")
        else:
            said.append(
                f"{more} more seeds would decide it" if more else "no number of seeds below 10,000 would decide it"
            )
    return [*said, *(f"note: {note}" for note in facts["notes"])]
