"""A study as one plain dict: what is printed, reported and stored."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from regimes.core.errors import RegimesError
from regimes.study import courses, statistics
from regimes.study.arms import Arm
from regimes.study.choice import choose
from regimes.study.earlier import to_decide
from regimes.study.judge import number, repeats
from regimes.study.sentences import lamps, one_seed_sentence, sentence
from regimes.study.subject import Described
from regimes.study.tasks import Outcome


def facts_of(
    design: Any, name: str, subject: Described, arms: list[Arm], command: str | None, notes: Sequence[str]
) -> dict[str, Any]:
    """Return judged arms as one plain dict; `regimes.report` says what it holds."""
    base = next(arm for arm in arms if arm.name == design.baseline)
    described = subject.facts(design.budget)
    told = {arm.name: subject.arm_facts(arm.chosen, base.chosen) for arm in arms}
    cited = {source: text for found in told.values() for source, text in found.pop("citations", {}).items()}
    points = courses.most_points(arms)
    facts = {
        "schema": 1,
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "command": command or "regimes.compare(...)",
        "decide_command": None,
        "workload": {
            "name": subject.name,
            "parameters": described["parameters"],
            "fingerprint": ", ".join(subject.fingerprint().values()),
            "scale": described["scale"],
        },
        "metric": design.metric,
        "better": design.better,
        "margin": design.margin,
        "equal": design.equal,
        "budget": design.budget,
        "level": design.level,
        "baseline": design.baseline,
        "paired": design.paired,
        "looks": None if design.looks is None else list(design.looks.sizes),
        "seeds": list(design.seeds),
        "trials": design.trials,
        "arms": [_arm_facts(design, arm, base, subject, points) | told[arm.name] for arm in arms],
        "slices": _slices(design, arms, base),
        "environment": subject.environment(),
        "citations": [{"name": named, "source": source} for named, source in sorted(cited.items())],
        "notes": [*notes, *filter(None, [subject.promise()])],
    }
    undecided = [arm.comparison["more_seeds"] for arm in arms if arm.comparison and arm.comparison["more_seeds"]]
    if undecided:
        facts["notes"].insert(len(notes), to_decide(len(design.seeds) + max(undecided)))
    if undecided and command and command.startswith("regimes compare "):
        facts["decide_command"] = f"{command} --seeds {len(design.seeds) + max(undecided)}"
    facts["sentence"], facts["one_seed_sentence"] = sentence(facts), one_seed_sentence(facts)
    facts["lamps"] = lamps(facts)
    return facts


def _arm_facts(design: Any, arm: Arm, base: Arm, subject: Any, points: int) -> dict[str, Any]:
    run = set(arm.seeds)
    by_seed = dict(zip(arm.seeds, arm.values(design.metric)))
    values = [by_seed.get(seed, math.nan) for seed in design.seeds]
    finite = [value for value in values if math.isfinite(value)]
    lost = [o for o in arm.outcomes if not _metric_alone(o, design.metric)]
    return {
        "name": arm.name,
        "values": [number(float(value)) for value in values],
        "absent": [seed for seed in design.seeds if seed not in run],
        "mean": float(np.mean(finite)) if finite else None,
        "sd": float(np.std(finite, ddof=1)) if len(finite) > 1 else None,
        "repeats": repeats(arm, design.metric),
        "comparison": arm.comparison,
        "rungs": arm.rungs,
        "cost": _cost(arm, base),
        "curves": [courses.curve(o, design.metric, points) for o in arm.outcomes if o.curve],
        "tuning": _tuning(design, arm, subject),
        "inside": courses.inside(arm),
        "diverged": sum(not o.failed and not math.isfinite(by_seed[o.task.seed]) for o in lost),
        "not_a_number": len(arm.outcomes) - len(lost),
        "failed": len(arm.failed),
        "failures": [
            {"seed": o.task.seed, "what": o.failure or _why_no_number(o, design.metric), "traceback": o.traceback}
            | {"diverged": not o.failed and not _metric_alone(o, design.metric), "failed": o.failed}
            for o in [*arm.trials, *arm.choosing, *arm.outcomes]
            if o.failure
            or (o.task.seed in by_seed and o.task.trial is None and not math.isfinite(by_seed[o.task.seed]))
        ],
        "reused": sum(o.reused for o in arm.outcomes),
    }


def _metric_alone(outcome: Outcome, metric: str) -> bool:
    """Whether a run ended with a finite loss, and the metric is no number all the same."""
    loss = outcome.metrics.get(f"{metric.partition('/')[0]}/loss", math.nan)
    return math.isfinite(loss) and not math.isfinite(outcome.metrics.get(metric, math.nan))


def _why_no_number(outcome: Outcome, metric: str) -> str:
    if _metric_alone(outcome, metric):
        return f"{metric} is not a number, though the loss is finite"
    return "the metric is not finite"


def _cost(arm: Arm, base: Arm) -> dict[str, Any]:
    flops, base_flops = (_flops(one) for one in (arm, base))
    tuning = [o for o in [*arm.trials, *arm.choosing] if o.work]
    return {
        "steps": arm.mean([o.steps for o in arm.outcomes]),
        "samples": arm.mean_work("samples"),
        "tokens": arm.mean([o.tokens for o in arm.outcomes]),
        "flops": arm.mean_work("flops"),
        "side_flops": arm.mean_work("side_flops"),
        "seconds": arm.seconds,
        "peak_memory": None,
        "tuning_flops": sum(o.work["flops"] + o.work["side_flops"] for o in tuning),
        "tuning_seconds": sum(o.seconds or 0.0 for o in tuning),
        "ratio": flops / base_flops if flops is not None and base_flops else None,
        "seconds_ratio": arm.seconds / base.seconds if arm.seconds is not None and base.seconds else None,
    }


def _flops(arm: Arm) -> float | None:
    parts = [arm.mean_work(name) for name in ("flops", "side_flops")]
    return None if None in parts else sum(part for part in parts if part is not None)


def _tuning(design: Any, arm: Arm, subject: Any) -> dict[str, Any] | None:
    if not design.trials:
        return None
    try:
        found = choose(arm.trials, design, list(arm.values(design.metric)))
    except RegimesError:
        found = None
    rows, best_of_k = [], []
    best = -math.inf if design.better == "higher" else math.inf
    for outcome in arm.trials:
        value = outcome.metrics.get(design.tuning_metric, math.nan)
        finite = math.isfinite(value)
        if finite:
            best = max(best, value) if design.better == "higher" else min(best, value)
        best_of_k.append(best if math.isfinite(best) else None)
        rows.append(
            {
                "values": subject.tuned_values(outcome.task.declared, list(design.ranges)),
                "metric": value if finite else None,
                "diverged": not finite and not outcome.failed,
                "failed": outcome.failed,
                "chosen": found is not None and outcome.task.trial == found.trial,
            }
        )
    return {
        "paths": list(design.ranges),
        "trials": rows,
        "on_edge": found is None or not found.bracketed,
        "advice": _advice(arm) if found is None else found.advice,
        "best_of_k": best_of_k,
        "chosen_values": subject.tuned_values(arm.chosen, list(design.ranges)),
        "fitted": found is not None and found.fitted,
        "tuning_sd": None if found is None or not math.isfinite(found.sd) else found.sd,
    }


def _advice(arm: Arm) -> str:
    if any(trial.failed for trial in arm.trials):
        return "trials that do not fail"
    return "tune over another range: no trial ended in a number"


def _slices(design: Any, arms: list[Arm], base: Arm) -> list[dict[str, Any]]:
    split, _, rest = design.metric.partition("/")
    if not rest or "/" in rest or not base.outcomes or not design.paired:
        return []
    names = [
        n
        for n in base.outcomes[0].metrics
        if n.startswith(f"{split}/") and n.endswith(f"/{rest}") and n != design.metric
    ]
    return [{"source": name.split("/")[1], "arms": _slice(design, arms, base, name)} for name in names]


def _slice(design: Any, arms: list[Arm], base: Arm, name: str) -> dict[str, Any]:
    gains, theirs = {}, set(base.seeds)
    for arm in (arm for arm in arms if arm is not base and arm.comparison is not None):
        seeds = [seed for seed in arm.seeds if seed in theirs]
        gain = statistics.improvement(arm.values(name, seeds), base.values(name, seeds), design.better)
        if np.isfinite(gain).all():
            gains[arm.name] = gain
    repeated = [arm.name for arm in arms if repeats(arm, design.metric) or repeats(base, design.metric)]
    found = statistics.simultaneous_paired_intervals(gains, design.level, repeated) if gains else {}
    return {arm: {"difference": i.mean, "low": number(i.low), "high": number(i.high)} for arm, i in found.items()}
