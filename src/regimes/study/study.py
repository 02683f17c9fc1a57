"""A study: what every arm gave, the verdicts, and the forms in which a person reads them."""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regimes.core import display
from regimes.core.errors import RegimesError
from regimes.core.paths import expand, get, walk
from regimes.core.regime import Regime
from regimes.engine.compile import compile_regime, epochs
from regimes.engine.folder import write_json
from regimes.study import statistics
from regimes.study.choice import choose
from regimes.study.judge import judge, number, repeats
from regimes.study.tasks import Outcome


@dataclass
class Arm:
    """One arm of a study.

    Parameters
    ----------
    name : str
    declared, chosen : Regime
        As given, and as tuning left it.
    outcomes : list of Outcome
        One per seed, in the order of the study's seeds.
    trials : list of Outcome
        The tuning trials.
    """

    name: str
    declared: Regime
    chosen: Regime
    outcomes: list[Outcome]
    trials: list[Outcome]
    comparison: dict[str, Any] | None = field(default=None)

    def values(self, metric: str) -> np.ndarray:
        """Final metric per seed; NaN where the run diverged, or gave nothing."""
        return np.array([o.metrics.get(metric, math.nan) for o in self.outcomes], dtype=float)

    @property
    def failed(self) -> list[Outcome]:
        """Runs, trials included, that came to nothing for a reason that is not the regime's: the arm cannot be judged."""
        return [o for o in [*self.trials, *self.outcomes] if o.failed]

    @property
    def seconds(self) -> float:
        """Mean measured seconds of a run."""
        return float(np.mean([o.seconds for o in self.outcomes])) if self.outcomes else 0.0

    def mean_work(self, name: str) -> float:
        """Mean of one account of work."""
        found = [o.work[name] for o in self.outcomes if o.work]
        return float(np.mean(found)) if found else 0.0


class Study:
    """Arms compared at equal budget over paired seeds.

    Print it, write its report, or read `to_dict()`: one plain dict holds everything that is shown.
    """

    def __init__(self, facts: dict[str, Any], folder: Path | None = None) -> None:
        self._facts, self.folder = facts, folder

    @classmethod
    def of(
        cls,
        design: Any,
        name: str,
        workload: Any,
        arms: list[Arm],
        command: str | None,
        folder: Path,
        notes: list[str],
    ) -> Study:
        """Judge finished arms."""
        judge(design, arms)
        return cls(facts_of(design, name, workload, arms, command, folder, notes), folder)

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read a study's folder or its study.json."""
        file = Path(path)
        file = file / "study.json" if file.is_dir() else file
        return cls(json.loads(file.read_text()), file.parent)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return self._facts

    def save(self) -> Path | None:
        """Write study.json into the study's folder."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "study.json", self._facts)
        return self.folder / "study.json"

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report: one file, offline."""
        from regimes.report import write

        target = Path(path) if path is not None else (self.folder or Path(".")) / "report.html"
        return write(self._facts, target)

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict of each arm but the baseline."""
        return {arm["name"]: arm["comparison"]["verdict"] for arm in self._facts["arms"] if arm["comparison"]}

    def __str__(self) -> str:
        from regimes.study.table import text

        return text(self._facts)

    def __repr__(self) -> str:
        return f"Study({self._facts['name']!r}: {self._facts['sentence']})"

    _repr_html_ = display.html


def facts_of(
    design: Any,
    name: str,
    workload: Any,
    arms: list[Arm],
    command: str | None,
    folder: Path,
    notes: list[str],
) -> dict[str, Any]:
    """Return the study as one plain dict: what is printed, reported and stored."""
    base = next(arm for arm in arms if arm.name == design.baseline)
    parameters = sum(p.numel() for p in workload.build(0).parameters())
    scale = (
        f"{parameters / 1e6:.2f} M parameters, {design.budget}"
        if parameters > 1e4
        else f"{parameters} parameters, {design.budget}"
    )
    facts = {
        "schema": 1,
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "command": command or "regimes.compare(...)",
        "decide_command": None,
        "workload": {
            "name": workload.name,
            "parameters": parameters,
            "fingerprint": ", ".join(workload.fingerprint().values()),
            "scale": scale,
        },
        "metric": design.metric,
        "better": design.better,
        "margin": design.margin,
        "equal": design.equal,
        "budget": design.budget,
        "level": design.level,
        "baseline": design.baseline,
        "seeds": list(design.seeds),
        "trials": len(design.points),
        "arms": [_arm_facts(design, arm, base, workload) for arm in arms],
        "slices": _slices(design, arms, base),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "regimes": _version(),
            "platform": platform.platform(terse=True),
            "device": workload.device.type,
            "threads": torch.get_num_threads(),
        },
        "citations": _citations(arms),
        "notes": notes,
    }
    undecided = [arm.comparison["more_seeds"] for arm in arms if arm.comparison and arm.comparison["more_seeds"]]
    if undecided and command:
        facts["decide_command"] = f"{command} --seeds {len(design.seeds) + max(undecided)}"
    from regimes.study.sentences import lamps, one_seed_sentence, sentence

    facts["sentence"], facts["one_seed_sentence"] = sentence(facts), one_seed_sentence(facts)
    facts["lamps"] = lamps(facts)
    return facts


def _version() -> str:
    from importlib.metadata import version

    return version("regimes")


def _arm_facts(design: Any, arm: Arm, base: Arm, workload: Any) -> dict[str, Any]:
    values = arm.values(design.metric)
    finite = values[np.isfinite(values)]
    return {
        "name": arm.name,
        "regime": repr(arm.chosen),
        "diff": [
            {"path": d.path, "from": d.old, "to": d.new}
            for d in (base.chosen.diff(arm.chosen) if arm is not base else [])
        ],
        "schedules": _schedules(arm.chosen, workload),
        "values": [float(v) if math.isfinite(v) else None for v in values],
        "mean": float(finite.mean()) if len(finite) else None,
        "sd": float(finite.std(ddof=1)) if len(finite) > 1 else None,
        "repeats": repeats(arm, design.metric),
        "comparison": arm.comparison,
        "cost": _cost(arm, base),
        "curves": [_curve(o, design.metric) for o in arm.outcomes if o.curve],
        "tuning": _tuning(design, arm),
        "inside": _inside(arm),
        "diverged": sum(
            not o.failed and not math.isfinite(value) for o, value in zip(arm.outcomes, values, strict=True)
        ),
        "failed": len(arm.failed),
        "failures": [
            {"seed": o.task.seed, "what": o.failure or "the metric is not finite", "traceback": o.traceback}
            | {"diverged": not o.failed}
            for o in [*arm.trials, *arm.outcomes]
            if o.failure or (o.task.trial is None and not math.isfinite(o.metrics.get(design.metric, math.nan)))
        ],
        "reused": sum(o.reused for o in arm.outcomes),
    }


def _cost(arm: Arm, base: Arm) -> dict[str, Any]:
    flops, base_flops = (a.mean_work("flops") + a.mean_work("side_flops") for a in (arm, base))
    tuning = [o for o in arm.trials if o.work]
    return {
        "steps": float(np.mean([o.steps for o in arm.outcomes])) if arm.outcomes else 0.0,
        "samples": arm.mean_work("samples"),
        "tokens": float(np.mean([o.tokens for o in arm.outcomes])) if arm.outcomes else 0.0,
        "flops": arm.mean_work("flops"),
        "side_flops": arm.mean_work("side_flops"),
        "seconds": arm.seconds,
        "peak_memory": None,
        "tuning_flops": sum(o.work["flops"] + o.work["side_flops"] for o in tuning),
        "tuning_seconds": sum(o.seconds for o in tuning),
        "ratio": flops / base_flops if base_flops else None,
        "seconds_ratio": arm.seconds / base.seconds if base.seconds else None,
    }


def _curve(outcome: Outcome, metric: str) -> dict[str, Any]:
    name = metric if any(metric in row for row in outcome.curve) else "val/" + metric.split("/", 1)[1]
    rows = [row for row in outcome.curve if name in row]
    steps = [row["step"] + 1 for row in rows]
    per_step = outcome.work["flops"] / outcome.steps if outcome.steps else 0.0
    seconds = outcome.seconds / outcome.steps if outcome.steps else 0.0
    return {
        "seed": outcome.task.seed,
        "x": {
            "step": steps,
            "samples": [row["samples"] for row in rows],
            "tokens": [row["tokens"] for row in rows],
            "flops": [per_step * step for step in steps],
            "seconds": [seconds * step for step in steps],
        },
        "value": [row[name] if isinstance(row[name], int | float) else None for row in rows],
    }


def _tuning(design: Any, arm: Arm) -> dict[str, Any] | None:
    if not design.points:
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
                "values": _tuned_values(design, outcome.task.regime),
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
        "chosen_values": _tuned_values(design, arm.chosen),
        "fitted": found is not None and found.fitted,
        "tuning_sd": None if found is None or not math.isfinite(found.sd) else found.sd,
    }


def _advice(arm: Arm) -> str:
    if any(trial.failed for trial in arm.trials):
        return "trials that do not fail"
    return "tune over another range: no trial ended in a number"


def _tuned_values(design: Any, regime: Regime) -> dict[str, float]:
    """The tuned knobs' values in a regime; of several places that a pattern fits, the first."""
    return {pattern: float(get(regime, expand(regime, pattern)[0])) for pattern in design.ranges}


def _schedules(regime: Regime, workload: Any) -> list[dict[str, Any]]:
    from regimes.core.progress import Progress

    fractions = [i / 100 for i in range(101)]
    found = []
    for phase in compile_regime(regime, epochs(regime, workload.view("train")), workload.example_tokens()):
        lead = f"{phase.name}." if len(regime.phases) > 1 else ""
        for path, function in phase.functions.items():
            values = [function(Progress(fraction=f, run_fraction=f)) for f in fractions]
            found.append({"path": lead + path, "fraction": fractions, "values": values})
    return found


def _inside(arm: Arm) -> dict[str, Any]:
    """Courses of the first seed's run: training loss, and what probes measured."""
    if not arm.outcomes or not arm.outcomes[0].inside:
        return {}
    rows = arm.outcomes[0].inside
    skip = {"step", "phase", "samples", "tokens", "knobs", "skipped", "examples", "layer"}
    names = [n for row in rows for n in row if n not in skip and not n.startswith(("val/", "test/"))]
    out = {}
    for name in dict.fromkeys(names):
        kept = [row for row in rows if isinstance(row.get(name), int | float)]
        if kept:
            out["training loss" if name == "loss" else name] = {
                "x": [row["tokens"] for row in kept],
                "value": [row[name] for row in kept],
            }
    return out


def _slices(design: Any, arms: list[Arm], base: Arm) -> list[dict[str, Any]]:
    split, _, rest = design.metric.partition("/")
    if "/" in rest or not base.outcomes:
        return []
    names = [
        n
        for n in base.outcomes[0].metrics
        if n.startswith(f"{split}/") and n.endswith(f"/{rest}") and n != design.metric
    ]
    out = []
    for name in names:
        gains = {}
        for arm in arms:
            if arm is not base and arm.comparison is not None:
                gain = statistics.improvement(arm.values(name), base.values(name), design.better)
                if np.isfinite(gain).all():
                    gains[arm.name] = gain
        repeated = [arm.name for arm in arms if repeats(arm, design.metric) or repeats(base, design.metric)]
        found = statistics.simultaneous_paired_intervals(gains, design.level, repeated) if gains else {}
        arms_found = {
            arm: {"difference": i.mean, "low": number(i.low), "high": number(i.high)} for arm, i in found.items()
        }
        out.append({"source": name.split("/")[1], "arms": arms_found})
    return out


def _citations(arms: list[Arm]) -> list[dict[str, str]]:
    found: dict[str, str] = {}
    for arm in arms:
        for _, value in walk(arm.chosen):
            card = getattr(type(value), "card", None)
            if card is not None and card.source != "folklore":
                found[type(value).__name__] = card.source
    return [{"name": name, "source": source} for name, source in sorted(found.items())]
