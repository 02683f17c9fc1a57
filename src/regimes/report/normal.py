"""A study as the report reads it: checked, with all keys, the baseline first, its curves in arrays."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .facts import VERDICTS, Study

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


class Normal(dict[str, Any]):
    """A study that `normal` has checked: everything after it can index without asking."""


def finite(value: Any) -> Any:
    """A copy of plain data in which every number that is not finite is ``None`` (JSON has no NaN).

    Examples
    --------
    >>> finite({"a": [1.0, float("nan")], "b": "x"})
    {'a': [1.0, None], 'b': 'x'}
    """
    if isinstance(value, (list, tuple)):
        if {*map(type, value)} <= {float, int} and all(map(math.isfinite, value)):  # a long course, most often
            return list(value)
        return [finite(item) for item in value]
    if isinstance(value, (dict, Mapping)):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, float):  # numpy's float64 too: made plain
        return float(value) if math.isfinite(value) else None
    return value


def normal(study: Study) -> Normal:
    """Check a study and fill what may be missing, so that everything after it can index without asking.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`.

    Returns
    -------
    Normal
        A deep copy: optional keys present, ``None`` in place of NaN, the baseline as first arm; curves are arrays, in which
        NaN stands. One that is normal already is returned as it is.

    Raises
    ------
    ValueError
        Foreign schema, a missing key, an unknown direction, verdict or baseline, values that do not match
        the seeds, two arms of one name.
    """
    if isinstance(study, Normal):
        return study
    if study.get("schema") != SCHEMA:
        raise ValueError(f"study['schema'] is {study.get('schema')!r}; this report reads schema {SCHEMA} only")
    missing = [key for key in REQUIRED if key not in study]
    if missing:
        raise ValueError(f"the study has no {missing[0]!r}; a report needs {', '.join(REQUIRED)}")
    clean = Normal(DEFAULTS | finite({key: value for key, value in study.items() if key != "arms"}))
    clean.update({key: default for key, default in DEFAULTS.items() if clean[key] is None and default is not None})
    clean["watched"] = clean["watched"] or re.sub("^test/", "val/", clean["metric"])
    clean["workload"] = dict.fromkeys(WORKLOAD_KEYS) | clean["workload"]
    if clean["better"] not in ("lower", "higher"):
        raise ValueError(f"study['better'] is {clean['better']!r}; allowed: 'lower', 'higher'")
    arms = [_normal_arm(arm, clean["seeds"]) for arm in study["arms"]]
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
    full = ARM_DEFAULTS | finite({key: value for key, value in arm.items() if key != "curves"})
    full["curves"] = [_normal_curve(curve) for curve in arm.get("curves") or []]
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


def _normal_curve(curve: Mapping[str, Any]) -> dict[str, Any]:
    """A curve in arrays: over the units in which it was measured, with what each of its points stands for.

    That is itself, where the curve was not thinned.
    """
    value = _array(curve["value"])
    low, high = (_array(curve["value"] if curve.get(end) is None else curve[end]) for end in ("low", "high"))
    found = {unit: _array(at) for unit, at in curve["x"].items() if at is not None and len(at) == len(value) > 0}
    x = {unit: at for unit, at in found.items() if (at[1:] >= at[:-1]).all() and not np.isnan(at[:1]).any()}
    return {
        "seed": curve["seed"],
        "x": x,
        "value": value,
        "low": low,
        "high": high,
        "of": curve.get("of") or len(value),
    }


def _array(values: Sequence[float | None]) -> np.ndarray:
    found = np.array(values, dtype=float)
    found[~np.isfinite(found)] = math.nan
    return found
