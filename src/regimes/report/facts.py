"""What the report reads off a study: order of arms, paired differences, who wins what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Study = Mapping[str, Any]

VERDICTS = ("better", "worse", "same", "undecided", "none")
GLYPHS = {"better": "▲", "worse": "▼", "same": "=", "undecided": "?", "none": "·"}


def baseline(study: Study) -> Mapping[str, Any]:
    """The arm all others are compared with."""
    return study["arms"][0]


def others(study: Study) -> list[Mapping[str, Any]]:
    """Every arm but the baseline, in the order they were declared."""
    return study["arms"][1:]


def sign(study: Study) -> float:
    """+1 where more is better, -1 where less is: multiplies a raw difference into an improvement."""
    return 1.0 if study["better"] == "higher" else -1.0


def lost(study: Study, arm: Mapping[str, Any]) -> set[int]:
    """Seeds on which an arm was trained, and ended without a value."""
    absent = set(arm["absent"])
    return {seed for seed, value in zip(study["seeds"], arm["values"]) if value is None and seed not in absent}


def left(arm: Mapping[str, Any]) -> str | None:
    """Where an arm left a study that is halved, in words; ``None`` where it did not."""
    rungs = arm["rungs"]
    if not rungs or rungs[-1]["stays"]:
        return None
    return f"left at rung {len(rungs)}, {rungs[-1]['place']} of {rungs[-1]['of']}"


def trained(arm: Mapping[str, Any]) -> int:
    """On how many seeds an arm was trained: fewer than there are where the study needed no more of it."""
    return len(arm["values"]) - len(arm["absent"])


def seed_differences(study: Study, arm: Mapping[str, Any]) -> list[float | None]:
    """Improvement over the baseline seed by seed, positive = better, ``None`` where either run diverged."""
    pairs = zip(arm["values"], baseline(study)["values"])
    return [None if a is None or b is None else sign(study) * (a - b) for a, b in pairs]


#: Arms that get panels of their own: a page is read, and each panel is drawn by a script.
PANELS = 32


def panelled(study: Study) -> list[int]:
    """Numbers of the arms that get panels of their own: the baseline, and those whose mean differs most from its."""
    base = baseline(study)["mean"]

    def apart(number: int) -> float:
        mean = study["arms"][number]["mean"]
        return -abs(mean - base) if mean is not None and base is not None else 0.0

    compared = sorted(range(1, len(study["arms"])), key=apart)
    return [0, *sorted(compared[:PANELS])]


def panels_note(study: Study) -> str:
    """What is said where not all arms have panels of their own; empty where they have."""
    if len(study["arms"]) <= PANELS + 1:
        return ""
    return (
        f"Drawn for {PANELS} of the {len(study['arms'])} arms: those whose mean {study['metric']} differs most from that "
        f"of {study['baseline']}. The tables hold all."
    )


def influence(study: Study, arm: Mapping[str, Any]) -> str:
    """One sentence on what leaving out one seed does to the verdict.

    ``leave_one_out`` may hold an entry for every seed or only for those that make a pair.
    """
    verdict, without = arm["comparison"]["verdict"], arm["comparison"]["leave_one_out"] or []
    paired = [seed for seed, d in zip(study["seeds"], seed_differences(study, arm)) if d is not None]
    left_out = study["seeds"] if len(without) == len(study["seeds"]) else paired
    turned = [(seed, other) for seed, other in zip(left_out, without) if other not in (verdict, None)]
    if not without:
        return "not computed"
    if not turned:
        return "unchanged without any one seed"
    return "; ".join(f"without seed {seed}: {other}" for seed, other in turned)


def failures(study: Study) -> list[dict[str, Any]]:
    """Everything that went wrong, one row each; a seed without a value is listed even if unexplained."""
    rows = []
    for arm in study["arms"]:
        told = {failure["seed"] for failure in arm["failures"]}
        rows += [{"arm": arm["name"], "seed": item["seed"], "what": item["what"]} for item in arm["failures"]]
        gone = lost(study, arm) - told
        silent = [seed for seed in study["seeds"] if seed in gone]
        rows += [{"arm": arm["name"], "seed": seed, "what": "no final value"} for seed in silent]
    return rows


def pareto(study: Study) -> list[str]:
    """Names of the arms that no other arm beats in both cost and mean metric, cheapest first."""
    known = [arm for arm in study["arms"] if arm["mean"] is not None and arm["cost"]["ratio"] is not None]
    known.sort(key=lambda arm: (arm["cost"]["ratio"], -sign(study) * arm["mean"]))
    front: list[str] = []
    best = -math.inf
    for arm in known:
        quality = sign(study) * arm["mean"]
        if quality > best:
            front.append(arm["name"])
            best = quality
    return front
