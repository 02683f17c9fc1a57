"""The runs below a folder, grouped by what makes them comparable."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, ResumeError
from regimes.core.files import read_json, told_by
from regimes.core.notation import parse
from regimes.core.paths import Difference
from regimes.core.regime import Regime
from regimes.engine import records, standing
from regimes.study import folders
from regimes.study.arms import Arm
from regimes.study.design import is_number
from regimes.study.tasks import TUNING_SEED, Outcome, Task


@dataclass(frozen=True)
class PastRun:
    """A run that ended: finished, or given up.

    Parameters
    ----------
    path : Path
    declared : dict
        Its run.json.
    regime : Regime
    metrics : dict
        Empty where it diverged.
    seconds : float
        Measured.
    study : str or None
        The folder of the study that it is of.
    """

    path: Path
    declared: dict[str, Any]
    regime: Regime
    metrics: dict[str, float]
    seconds: float
    study: str | None

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.declared["identity"]["seed"])

    @cached_property
    def name(self) -> str:
        """The hash of its regime."""
        return self.regime.hash

    @property
    def kind(self) -> str:
        """What two runs share that may be compared: everything about them but regime and seed, and the budget."""
        own = self.declared["identity"]
        # Modules that stand outside the package may be those of one regime alone; what the workload reaches is in "(".
        program = {name: found for name, found in own["sources"].items() if name.startswith(("regimes.", "("))}
        program.pop("(regime)", None)
        same = {name: own[name] for name in ("data", "loss", "metrics", "device", "versions")}
        budget = str(self.regime.budget)
        return json.dumps([self.declared["workload"], budget, same, program], sort_keys=True)


@dataclass
class Group:
    """Runs that may be compared: one workload, data, budget and program.

    Parameters
    ----------
    runs : list of PastRun
        The oldest first.
    """

    runs: list[PastRun] = field(default_factory=list)

    @property
    def workload(self) -> str:
        """By name."""
        return str(self.runs[0].declared["workload"])

    @property
    def budget(self) -> str:
        """In words."""
        return str(self.runs[0].regime.budget)

    @property
    def data(self) -> str:
        """The beginnings of the digests of its data, as run.json has them."""
        return ", ".join(dict.fromkeys(found[:6] for found in self.runs[0].declared["identity"]["data"].values()))

    @cached_property
    def varied(self) -> dict[str, str | None]:
        """Where its regimes differ from the one that was run first, and what that one has there."""
        found = {d.path: d.old for differences in self._apart.values() for d in differences}
        return dict(sorted(found.items()))

    def at(self, name: str, path: str) -> str | None:
        """What a regime, by its hash, has at a path that is varied."""
        return next((d.new for d in self._apart[name] if d.path == path), self.varied[path])

    @cached_property
    def _apart(self) -> dict[str, list[Difference]]:
        """How every regime differs from the one that was run first, by its hash."""
        first = self.runs[0].regime
        return {name: first.diff(runs[0].regime) for name, runs in self.by_name.items()}

    @cached_property
    def by_name(self) -> dict[str, list[PastRun]]:
        """The runs of every regime, by its hash, the oldest first."""
        found: dict[str, list[PastRun]] = {}
        for run in self.runs:
            found.setdefault(run.name, []).append(run)
        return found

    def arms(self, metric: str) -> dict[str, Arm]:
        """The regimes by hash, in the order in which they were first run, with an outcome per seed, by seed as in a study."""
        made: dict[str, Arm] = {}
        for name, runs in self.by_name.items():
            by_seed = {run.seed: run for run in reversed(runs)}  # the same run twice is one run
            outcomes = [_outcome(run, metric) for _, run in sorted(by_seed.items())]
            made[name] = Arm(name, runs[0].regime, runs[0].regime, outcomes, [])
        return made

    def of(self, arm: Arm) -> list[PastRun]:
        """The runs of an arm."""
        return self.by_name[arm.name]


def _outcome(run: PastRun, metric: str) -> Outcome:
    value = run.metrics.get(metric, math.nan)
    return Outcome(
        Task(run.name, run.regime, run.seed), {metric: value}, [], [], {}, None, None, run.seconds,
        str(run.declared["key"]), True,
    )  # fmt: skip


@dataclass(frozen=True)
class Gathered:
    """Everything below a folder.

    Parameters
    ----------
    groups : list of Group
    questions : list of dict
        What studies below it asked: their study.json.
    runs : int
        Runs that were read.
    said : list of str
        What was left out.
    """

    groups: list[Group]
    questions: list[dict[str, Any]]
    runs: int
    said: list[str]


def gather(root: Path, trials: bool = False) -> Gathered:
    """Read all runs and studies below a folder; `trials` takes in what tuned, or chose arms, and was never judged.

    Raises
    ------
    ResumeError
        If there are no runs.
    """
    found: dict[str, Group] = {}
    left: dict[str, int] = {}
    runs: list[PastRun] = []
    parsed: dict[str, Any] = {}
    for place in folders.runs(root):
        read = past_run(Path(place), trials, parsed)
        if isinstance(read, str):
            left[read] = left.get(read, 0) + 1
        else:
            runs.append(read)
    if not runs:
        how = f": {_counted(left)}" if left else ""
        raise ResumeError(f"there are no finished runs of regimes below {root}{how}{folders.of_commands(root)}")
    for run in sorted(runs, key=lambda run: (str(run.declared["created"]), str(run.path))):
        found.setdefault(run.kind, Group()).runs.append(run)
    groups = list(found.values())
    said = [f"left out: {_counted(left)}"] if left else []
    return Gathered(groups, _questions(root), len(runs), [*said, *_apart(groups)])


def _counted(left: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in left.items())


def past_run(folder: Path, trials: bool = False, parsed: dict[str, Any] | None = None) -> PastRun | str:
    """Return a run, or why it is left out; `parsed` keeps regimes by their text, as runs of many seeds share one."""
    row = standing.facts_of(folder)
    if row is None:
        return "unreadable"
    if row["status"] not in ("finished", "diverged"):
        return "not finished"
    declared = read_json(folder / "run.json")
    if declared.get("lineage") is not None:
        return "forks"
    if row["seed"] >= TUNING_SEED and not trials:
        return "tuning trials"
    parsed, text = {} if parsed is None else parsed, declared["regime"]
    try:
        regime = parsed[text] = parsed[text] if text in parsed else parse(text)
    except DeclarationError:
        return "with classes of your own that are not imported here"
    if not isinstance(regime, Regime):
        return "unreadable"
    metrics = {name: float(v) for name, v in row["metrics"].items() if is_number(v)}
    return PastRun(folder, declared, regime, metrics, records.seconds(folder), folders.study_of(folder, row["key"]))


def _questions(root: Path) -> list[dict[str, Any]]:
    files = sorted(Path(place, "study.json") for place, names in folders.walk(root) if "study.json" in names)
    return [question for file in files if (question := told_by(file))]


def _apart(groups: Sequence[Group]) -> Iterable[str]:
    """Say where runs of one workload and budget may not be compared, as their program or data is not the same."""
    count: dict[tuple[str, str], int] = {}
    for group in groups:
        place = group.workload, group.budget
        count[place] = count.get(place, 0) + 1
    for (workload, budget), number in count.items():
        if number > 1:
            yield (
                f"runs of {workload} over {budget} stand in {number} groups that are not compared: their data, program, "
                "versions or device differ"
            )
