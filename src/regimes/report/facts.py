"""What the report reads off a study: checked input, order of arms, paired differences, who wins what."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Study = Mapping[str, Any]

SCHEMA = 1
REQUIRED = ("name", "metric", "better", "margin", "baseline", "seeds", "sentence", "arms")
DEFAULTS: dict[str, Any] = {
    "created": None,
    "command": None,
    "decide_command": None,
    "workload": {},
    "equal": None,
    "budget": None,
    "level": 0.95,
    "one_seed_sentence": None,
    "lamps": [],
    "slices": [],
    "environment": {},
    "citations": [],
    "notes": [],
    "watched": None,
}
ARM_DEFAULTS: dict[str, Any] = {
    "regime": None,
    "diff": [],
    "schedules": [],
    "values": [],
    "mean": None,
    "sd": None,
    "comparison": None,
    "cost": {},
    "curves": [],
    "tuning": None,
    "inside": {},
    "failures": [],
    "reused": 0,
    "absent": [],
    "rungs": [],
}
WORKLOAD_KEYS = ("name", "parameters", "fingerprint", "scale")
COMPARISON_KEYS = (
    "difference",
    "low",
    "high",
    "p_sign_flip",
    "more_seeds",
    "more_seconds",
    "correlation",
    "leave_one_out",
)
COST_KEYS = (
    "steps",
    "samples",
    "tokens",
    "flops",
    "side_flops",
    "seconds",
    "peak_memory",
    "tuning_flops",
    "tuning_seconds",
    "ratio",
)
VERDICTS = ("better", "worse", "same", "undecided", "none")
GLYPHS = {"better": "▲", "worse": "▼", "same": "=", "undecided": "?", "none": "·"}


def finite(value: Any) -> Any:
    """A copy of plain data in which every number that is not finite is ``None`` (JSON has no NaN).

    Examples
    --------
    >>> finite({"a": [1.0, float("nan")], "b": "x"})
    {'a': [1.0, None], 'b': 'x'}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float):  # numpy's float64 too: made plain
        return float(value) if math.isfinite(value) else None
    return value


def normal(study: Study) -> dict[str, Any]:
    """Check a study and fill what may be missing, so that everything after it can index without asking.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`.

    Returns
    -------
    dict
        A deep copy: optional keys present, ``None`` in place of NaN, the baseline as first arm.

    Raises
    ------
    ValueError
        Foreign schema, a missing key, an unknown direction, verdict or baseline, values that do not match
        the seeds, two arms of one name.
    """
    if study.get("schema") != SCHEMA:
        raise ValueError(f"study['schema'] is {study.get('schema')!r}; this report reads schema {SCHEMA} only")
    missing = [key for key in REQUIRED if key not in study]
    if missing:
        raise ValueError(f"the study has no {missing[0]!r}; a report needs {', '.join(REQUIRED)}")
    clean = DEFAULTS | finite(study)
    clean |= {key: default for key, default in DEFAULTS.items() if clean[key] is None and default is not None}
    clean["watched"] = clean["watched"] or re.sub("^test/", "val/", clean["metric"])
    clean["workload"] = dict.fromkeys(WORKLOAD_KEYS) | clean["workload"]
    if clean["better"] not in ("lower", "higher"):
        raise ValueError(f"study['better'] is {clean['better']!r}; allowed: 'lower', 'higher'")
    arms = [_normal_arm(arm, clean["seeds"]) for arm in clean["arms"]]
    names = [arm["name"] for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"two arms are named {max(names, key=names.count)!r}; every arm needs its own name")
    if clean["baseline"] not in names:
        near = difflib.get_close_matches(str(clean["baseline"]), names, 1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise ValueError(f"study['baseline'] is {clean['baseline']!r}, which is no arm of {names}{hint}")
    clean["arms"] = sorted(arms, key=lambda arm: arm["name"] != clean["baseline"])
    return clean


def _normal_arm(arm: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    if "name" not in arm:
        raise ValueError(f"an arm has no 'name'; its keys are {sorted(arm)}")
    full = ARM_DEFAULTS | arm
    full |= {key: default for key, default in ARM_DEFAULTS.items() if full[key] is None}
    full["values"] = full["values"] or [None] * len(seeds)
    if len(full["values"]) != len(seeds):
        raise ValueError(
            f"arm {arm['name']!r} has {len(full['values'])} values for {len(seeds)} seeds; "
            "write one per seed, null where the run diverged"
        )
    full["cost"] = dict.fromkeys(COST_KEYS) | full["cost"]
    full["comparison"] = full["comparison"] or None
    if full["comparison"] is not None:
        verdict = full["comparison"].get("verdict")
        if verdict not in VERDICTS:
            raise ValueError(f"arm {arm['name']!r} has verdict {verdict!r}; allowed: {', '.join(VERDICTS)}")
        full["comparison"] = dict.fromkeys(COMPARISON_KEYS) | full["comparison"]
    return full


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
        silent = [seed for seed in study["seeds"] if seed in lost(study, arm) - told]
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
