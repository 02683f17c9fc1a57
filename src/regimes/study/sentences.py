"""What a study says in words: the verdicts, what one seed would have said, and whether to trust it."""

from __future__ import annotations

from typing import Any


def sentence(facts: dict[str, Any]) -> str:
    """Return the verdicts as one sentence."""
    found = {arm["name"]: arm["comparison"] for arm in facts["arms"] if arm["comparison"]}
    words = []
    for verdict in ("better", "worse"):
        those = {name: c for name, c in found.items() if c["verdict"] == verdict}
        if those:
            words.append(
                f"{_by_how_much(those, verdict, facts['baseline'])} in {facts['metric']} at equal {facts['equal']}"
            )
    for verdict, word in (("same", "the same"), ("undecided", "undecided")):
        names = [name for name, c in found.items() if c["verdict"] == verdict]
        if names:
            words.append(f"{_and(names)} {'is' if len(names) == 1 else 'are'} {word}")
    missing = [arm["name"] for arm in facts["arms"] if not arm["comparison"] and arm["name"] != facts["baseline"]]
    if missing:
        words.append(f"{_and(missing)} did not finish")
    return "; ".join(words) + "."


def _by_how_much(those: dict[str, Any], verdict: str, baseline: str) -> str:
    """Say of one arm, or of several at once, by how much it is better or worse."""
    sizes = {}
    for name, found in those.items():
        low, high = sorted((abs(found["low"]), abs(found["high"])))
        sizes[name] = f"{abs(found['difference']):.3g} [{low:.3g}, {high:.3g}]"
    if len(sizes) == 1:
        ((name, size),) = sizes.items()
        return f"{name} is {verdict} than {baseline} by {size}"
    return f"{_and([f'{name} (by {size})' for name, size in sizes.items()])} are {verdict} than {baseline}"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def one_seed_sentence(facts: dict[str, Any]) -> str | None:
    """Return how often each arm would have won, had it been judged by one seed."""
    n = len(facts["seeds"])
    said = [
        f"{arm['name']} wins {arm['comparison']['one_seed_wins']} times in {n}"
        for arm in facts["arms"]
        if arm["comparison"]
    ]
    return f"Judged by one seed, {_and(said)}." if said else None


def lamps(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the five lamps: should you trust this?"""
    return [_budgets(facts), _bracketed(facts), _enough(facts), _apart(facts), _diverged(facts)]


def _lamp(name: str, ok: bool, text: str, link: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "text": text, "link": link}


def _budgets(facts: dict[str, Any]) -> dict[str, Any]:
    amounts = [arm["cost"].get(facts["equal"], 0.0) for arm in facts["arms"] if arm["cost"].get("steps")]
    spread = (max(amounts) - min(amounts)) / max(max(amounts), 1e-30) if amounts else 0.0
    text = f"all arms trained on {facts['budget']}, equal within {spread:.1%}"
    return _lamp("budgets equal", spread < 0.01, text, "#cost")


def _bracketed(facts: dict[str, Any]) -> dict[str, Any]:
    if not facts["trials"]:
        return _lamp(
            "tuning bracketed",
            False,
            "nothing was tuned: the verdict is about these settings only",
            "#sensitivity",
        )
    edge = [arm["name"] for arm in facts["arms"] if arm["tuning"] and arm["tuning"]["on_edge"]]
    if edge:
        return _lamp(
            "tuning bracketed",
            False,
            f"the best trial of {', '.join(edge)} is at the edge of what was tried",
            "#sensitivity",
        )
    return _lamp(
        "tuning bracketed",
        True,
        f"{facts['trials']} trials per arm, every best one inside its range",
        "#sensitivity",
    )


def _enough(facts: dict[str, Any]) -> dict[str, Any]:
    open_arms = [
        arm["name"] for arm in facts["arms"] if arm["comparison"] and arm["comparison"]["verdict"] == "undecided"
    ]
    n = len(facts["seeds"])
    if open_arms:
        return _lamp(
            "enough seeds",
            False,
            f"{n} seeds do not decide {', '.join(open_arms)} at the margin {facts['margin']:g}",
            "#seeds",
        )
    return _lamp("enough seeds", True, f"{n} seeds decide every arm at the margin {facts['margin']:g}", "#seeds")


def _apart(facts: dict[str, Any]) -> dict[str, Any]:
    if not facts["trials"]:
        return _lamp("test apart from tuning", True, "nothing was tuned", "#sensitivity")
    if facts["metric"].startswith("test/"):
        return _lamp("test apart from tuning", True, "tuned on val, judged on test, on other seeds", "#sensitivity")
    return _lamp(
        "test apart from tuning",
        False,
        "tuned and judged on the same val data (on other seeds)",
        "#sensitivity",
    )


def _diverged(facts: dict[str, Any]) -> dict[str, Any]:
    count = sum(len(arm["failures"]) for arm in facts["arms"])
    text = "no run diverged or failed" if not count else f"{count} runs diverged or failed, and count as the worst"
    return _lamp("no divergence", not count, text, "#failures")
