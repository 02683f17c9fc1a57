"""Runs that ended, as sweeps over configurations: what each showed early, and at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regimes.core.errors import DeclarationError, ResumeError, nearest
from regimes.core.paths import expand, get
from regimes.engine import records
from regimes.engine.result import RunResult
from regimes.study.audit.gathered import PastRun, gather, past_run
from regimes.study.design import is_number
from regimes.study.early_rules import Point
from regimes.study.study import Study

#: Fewest configurations of which ranks say anything.
LEAST = 4


@dataclass(frozen=True)
class Ended:
    """A run that ended: its regime, its seed, what it ended with (nothing where it diverged), its records."""

    regime: Any
    seed: int
    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, run: PastRun | RunResult) -> Ended:
        """Read it."""
        rows = run.records if isinstance(run, RunResult) else records.read(run.path)[0]
        return cls(run.regime, run.seed, run.metrics, [row for row in rows if "trial" not in row])


def ended_runs(runs: Any) -> tuple[list[Ended], list[str], dict[str, str]]:
    """Return the runs, sentences on what was left out, and which direction of a metric studies there declare as better.

    See `regimes.study.early_signal`. Where studies do not agree on a direction, none is declared.

    Raises
    ------
    DeclarationError
        Runs of several workloads, or programs.
    ResumeError
        If there are none, or one of them cannot be read.
    """
    if isinstance(runs, Study):
        if runs.folder is None:
            raise ResumeError("the study has no folder, and so no runs")
        runs = runs.folder
    if isinstance(runs, str | Path):
        found = gather(Path(runs), trials=True)
        if len(found.groups) > 1:
            raise DeclarationError(
                f"got runs of {len(found.groups)} kinds below {runs}, whose workload, budget, data or program differ; "
                "allowed: a folder with those of one",
                "runs",
            )
        return [Ended.of(run) for run in found.groups[0].runs], found.said, _declared(found.questions)
    made: list[PastRun | RunResult] = []
    for one in runs:
        run = one if isinstance(one, RunResult) else past_run(Path(one), trials=True)
        if isinstance(run, str):
            raise ResumeError(f"{one} is no run that could be read: {run}")
        made.append(run)
    kinds = {run.workload.name if isinstance(run, RunResult) else run.declared["workload"] for run in made}
    if len(kinds) > 1:
        raise DeclarationError(f"got runs of {', '.join(sorted(kinds))}; allowed: of one workload", "runs")
    return [Ended.of(run) for run in made], [], {}


def _declared(questions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for asked in questions:
        if "metric" in asked and "better" in asked:
            found.setdefault(asked["metric"], set()).add(asked["better"])
    return {metric: words.pop() for metric, words in found.items() if len(words) == 1}


def points_of(
    runs: Sequence[Ended], metric: str, at: float, final: str, directions: tuple[str, str], within: str | None
) -> tuple[list[Point], list[str]]:
    """Return what each run showed early and at its end, lower being better, and what was left out.

    Of a run that diverged nobody may know how long it would have been: then it is left out.

    Raises
    ------
    DeclarationError
        A metric, or a path of the regime, that there is not.
    """
    lengths = {run.regime.hash: len(run.rows) for run in runs if run.metrics}
    common = set(lengths.values())
    signs = [1.0 if direction == "lower" else -1.0 for direction in directions]
    points, unknown = [], 0
    for run in runs:
        length = lengths.get(run.regime.hash) or (max(common) if len(common) == 1 else None)
        if length is None:
            unknown += 1
            continue
        early = signs[0] * _early(run, metric, at, length)
        ended = signs[1] * _number(run.metrics, final) if run.metrics else math.inf
        group = None if within is None else _group(run.regime, within)
        points.append(Point(run.regime.hash, run.seed, _worst(early), _worst(ended), group))
    return points, [
        f"left out: {unknown} that diverged, after a share of their steps that is not known"
    ] if unknown else []


def _early(run: Ended, metric: str, at: float, length: int) -> float:
    """Mean of what was measured in the second half of the steps up to a share; not finite where it diverged before."""
    last = max(math.floor(at * length), 1)
    window = [row[metric] for row in run.rows[math.floor(at * length / 2) : last] if metric in row]
    if window:
        return float(np.mean([value if is_number(value) else math.nan for value in window]))
    if len(run.rows) < last:
        return math.inf
    known = sorted({name for row in run.rows for name in row if is_number(row[name])} - {"step", "samples", "tokens"})
    if metric in known:
        raise DeclarationError(
            f"got '{metric}', which was not measured from {at / 2:.0%} to {at:.0%} of the steps; allowed: a later share, or "
            "runs that measure it more often",
            "at",
        )
    raise DeclarationError(f"there is no '{metric}' in the records; {nearest(metric, known)}", "metric")


def _number(metrics: Mapping[str, float], final: str) -> float:
    if final not in metrics:
        raise DeclarationError(f"there is no final metric '{final}'; {nearest(final, list(metrics))}", "final")
    return float(metrics[final])


def _worst(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _group(regime: Any, path: str) -> str:
    try:
        return repr(get(regime, expand(regime, path)[0]))
    except DeclarationError as why:
        raise why.within("within") from None


def sweeps_of(points: Sequence[Point]) -> list[list[Point]]:
    """Return the points of every seed on which enough configurations were run; their final is the mean over its seeds."""
    by_seed: dict[int, dict[str, Point]] = {}
    finals: dict[str, dict[int, float]] = {}
    for point in points:
        by_seed.setdefault(point.seed, {})[point.configuration] = point
        finals.setdefault(point.configuration, {})[point.seed] = point.final
    truth = {name: float(np.mean(list(found.values()))) for name, found in finals.items()}
    return [
        [point.with_truth(truth[name]) for name, point in found.items()]
        for _, found in sorted(by_seed.items())
        if len(found) >= LEAST
    ]
