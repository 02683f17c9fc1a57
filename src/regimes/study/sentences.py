"""What a study says in words: the verdicts, what one seed would have said, and whether to trust it."""

from __future__ import annotations

from typing import Any

from regimes.study.one_run import one_run_sentence
from regimes.study.sign_flip import least_rank_p, least_seeds


def sentence(facts: dict[str, Any]) -> str:
    """Return the verdicts as one sentence."""
    found = {arm["name"]: arm["comparison"] for arm in facts["arms"] if arm["comparison"]}
    words = []
    for verdict in ("better", "worse"):
        those = {name: c for name, c in found.items() if c["verdict"] == verdict}
        if those:
            at = f" at equal {facts['equal']}" if facts["equal"] else ""
            words.append(f"{_by_how_much(those, verdict, facts['baseline'])} in {facts['metric']}{at}")
    for verdict, word in (("same", "the same"), ("undecided", "undecided")):
        names = [name for name, c in found.items() if c["verdict"] == verdict]
        if names:
            words.append(f"{_and(names)} {'is' if len(names) == 1 else 'are'} {word}")
    alone = [arm for arm in facts["arms"] if arm["comparison"] and arm["comparison"]["verdict"] == "none"]
    if alone:
        words.append(one_run_sentence(alone, facts["metric"]))
    gone = [arm["name"] for arm in facts["arms"] if left(arm)]
    if gone:
        arms = _and(gone) if len(gone) < 4 else f"{len(gone)} arms"
        words.append(f"{arms} left in the rungs, and {'is' if len(gone) == 1 else 'are'} not judged")
    missing = [arm["name"] for arm in facts["arms"] if not arm["comparison"] and arm["name"] != facts["baseline"]]
    missing = [name for name in missing if name not in gone]
    if missing:
        words.append(f"{_and(missing)} cannot be judged")
    broken = [f"{arm['failed']} of {arm['name']}" for arm in facts["arms"] if arm.get("failed")]
    if broken:
        words.append(f"runs failed ({_and(broken)}), which says nothing about a regime")
    lost = [f"{arm['diverged']} of {arm['name']}" for arm in facts["arms"] if arm.get("diverged")]
    if lost:
        words.append(f"{_of_each(facts)}{_and(lost)} diverged, and count as worst")
    without = [f"{arm['not_a_number']} of {arm['name']}" for arm in facts["arms"] if arm.get("not_a_number")]
    if without:
        words.append(
            f"{facts['metric']} is not a number in {_and(without)}, though the loss is finite; they count as worst"
        )
    return "; ".join(words) + "."


def left(arm: dict[str, Any]) -> int | None:
    """Return in which rung an arm left a study that is halved; None where it did not.

    Examples
    --------
    >>> left({"rungs": [{"stays": True}, {"stays": False}]}), left({"rungs": [{"stays": True}]}), left({})
    (2, None, None)
    """
    rungs = arm.get("rungs") or []
    return len(rungs) if rungs and not rungs[-1]["stays"] else None


def _of_each(facts: dict[str, Any]) -> str:
    """How many runs each arm has, where it is the same number."""
    counts = {len(facts["seeds"]) - len(arm["absent"]) for arm in facts["arms"]}
    return f"of {counts.pop()} runs each, " if len(counts) == 1 else ""


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
    said = [
        f"{arm['name']} wins {arm['comparison']['one_seed_wins']} times in {arm['comparison']['pairs']}"
        for arm in facts["arms"]
        if arm["comparison"] and arm["comparison"]["one_seed_wins"] is not None and arm["comparison"]["pairs"] > 1
    ]
    return f"Judged by one seed, {_and(said)}." if said else None


#: Arms whose operations, trials and scoring included, differ by more than this factor are not at equal work.
_AS_MUCH_WORK = 1.1


def lamps(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the six lamps: should you trust this?"""
    made = (_budgets, _bracketed, _enough, _differ, _apart, _diverged)
    return [lamp(facts) for lamp in made]


def _lamp(name: str, ok: bool, text: str, link: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "text": text, "link": link}


def _budgets(facts: dict[str, Any]) -> dict[str, Any]:
    if facts["equal"] is None:
        return _lamp("budgets equal", False, f"nobody counts what a run takes: {facts['budget']}", "#cost")
    amounts = [arm["cost"].get(facts["equal"]) or 0.0 for arm in facts["arms"] if arm["cost"].get("steps")]
    spread = (max(amounts) - min(amounts)) / max(max(amounts), 1e-30) if amounts else 0.0
    text = f"all arms trained on {facts['budget']}, equal within {spread:.1%}"
    ratios = {arm["name"]: arm["cost"].get("ratio") or 1.0 for arm in facts["arms"]}
    apart = {name: ratio for name, ratio in ratios.items() if max(ratio, 1.0 / ratio) > _AS_MUCH_WORK}
    if apart:
        times = _and([f"{name} took {ratio:.3g} times" for name, ratio in apart.items()])
        text += f", but not in work: {times} the baseline's operations"
    return _lamp("budgets equal", spread < 0.01 and not apart, text, "#cost")


def _bracketed(facts: dict[str, Any]) -> dict[str, Any]:
    if not facts["trials"]:
        text = "nothing was tuned: the verdict is about these settings only"
        return _lamp("tuning bracketed", False, text, "#sensitivity")
    edge = [arm for arm in facts["arms"] if arm["tuning"] and arm["tuning"]["on_edge"]]
    if edge:
        # By advice, so that each arm is told what helps it.
        told = {advice: [a["name"] for a in edge if a["tuning"]["advice"] == advice] for advice in _advices(edge)}
        text = "; ".join(f"{_and(names)}: {advice}" for advice, names in told.items())
        return _lamp(
            "tuning bracketed", False, f"the best trial lies at the edge of what was tried: {text}", "#sensitivity"
        )
    return _lamp(
        "tuning bracketed",
        True,
        f"{facts['trials']} trials per arm, every best one inside its range",
        "#sensitivity",
    )


def _advices(arms: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(arm["tuning"]["advice"] for arm in arms))


def _enough(facts: dict[str, Any]) -> dict[str, Any]:
    compared = [arm for arm in facts["arms"] if arm["comparison"]]
    unit = "seeds" if facts["paired"] else "runs"
    n = _span([arm["comparison"]["n"] for arm in compared] or [len(facts["seeds"])])
    alone = [arm["name"] for arm in compared if arm["comparison"]["verdict"] == "none"]
    if alone:
        return _lamp("enough seeds", False, f"one run each of {', '.join(alone)}: nothing is decided", "#seeds")
    open_arms = [arm["name"] for arm in compared if arm["comparison"]["verdict"] == "undecided"]
    if open_arms:
        text = f"{n} {unit} do not decide {', '.join(open_arms)} at the margin {facts['margin']:g}"
        return _lamp("enough seeds", False, text, "#seeds")
    least = least_seeds(facts["level"], max(len(compared), 1))
    if facts["paired"] and min((arm["comparison"]["n"] for arm in compared), default=least) < least:
        text = f"{n} seeds decide only if differences are normally distributed; without that it takes {least}"
        return _lamp("enough seeds", False, text, "#seeds")
    if not facts["paired"] and any(_ranks_mute(arm, facts, len(compared)) for arm in compared):
        text = f"{n} runs decide only if runs are normally distributed; in ranks so few cannot be told apart"
        return _lamp("enough seeds", False, text, "#seeds")
    return _lamp("enough seeds", True, f"{n} {unit} decide every arm at the margin {facts['margin']:g}", "#seeds")


def _ranks_mute(arm: dict[str, Any], facts: dict[str, Any], comparisons: int) -> bool:
    """Whether a rank test on the runs of an arm and the baseline could show nothing at this level."""
    base = next(one for one in facts["arms"] if one["name"] == facts["baseline"])
    runs = [len(one["values"]) - len(one["absent"]) for one in (arm, base)]
    return least_rank_p(*runs) > (1 - facts["level"]) / comparisons


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _differ(facts: dict[str, Any]) -> dict[str, Any]:
    n, told = len(facts["seeds"]), []
    same = [arm["name"] for arm in facts["arms"] if arm["repeats"]]
    if same:
        told.append(f"the seed changed nothing in {_and(same)}")
    if facts["baseline"] not in same:
        shifted = [
            arm["name"]
            for arm in facts["arms"]
            if arm["comparison"] and arm["comparison"]["one_observation"] and arm["name"] not in same
        ]
        if shifted:
            told.append(f"every seed gave the same difference between {facts['baseline']} and {_and(shifted)}")
    if told and n > 1:
        return _lamp("seeds differ", False, f"{'; '.join(told)}: {n} seeds are one observation", "#seeds")
    return _lamp("seeds differ", True, "no arm repeats itself from seed to seed", "#seeds")


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
    failures = [failure for arm in facts["arms"] for failure in arm["failures"]]
    failed = sum(failure.get("failed", not failure.get("diverged", True)) for failure in failures)
    diverged = sum(failure.get("diverged", True) for failure in failures)
    without = len(failures) - failed - diverged
    told = [f"{diverged} runs diverged, and count as the worst"] if diverged else []
    if without:
        told.append(
            f"in {without} {facts['metric']} is not a number though the loss is finite; they count as the worst"
        )
    if failed:
        told.append(f"{failed} failed, and are no values")
    return _lamp("no divergence", not failures, "; ".join(told) or "no run diverged or failed", "#failures")
