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
from regimes.core.files import read_json
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.engine import records
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
        first, *others = {run.regime.hash: run.regime for run in self.runs}.values()
        found = {d.path: d.old for other in others for d in first.diff(other)}
        return dict(sorted(found.items()))

    def at(self, regime: Regime, path: str) -> str | None:
        """What a regime has at a path that is varied."""
        found = {d.path: d.new for d in self.runs[0].regime.diff(regime)}
        return found.get(path, self.varied[path])

    def arms(self, metric: str) -> dict[str, Arm]:
        """The regimes by hash, in the order in which they were first run, with an outcome per seed, by seed as in a study."""
        made: dict[str, Arm] = {}
        for run in self.runs:
            name = run.regime.hash
            arm = made.setdefault(name, Arm(name, run.regime, run.regime, [], []))
            if run.seed not in arm.seeds:  # the same run twice is one run
                arm.outcomes.append(_outcome(run, metric))
        for arm in made.values():
            arm.outcomes.sort(key=lambda outcome: outcome.task.seed)
        return made

    def of(self, arm: Arm) -> list[PastRun]:
        """The runs of an arm."""
        return [run for run in self.runs if run.regime.hash == arm.name]


def _outcome(run: PastRun, metric: str) -> Outcome:
    value = run.metrics.get(metric, math.nan)
    return Outcome(
        Task(run.regime.hash, run.regime, run.seed), {metric: value}, [], [], {}, None, None, run.seconds,
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
    for file in root.rglob("run.json"):
        read = past_run(file.parent, trials)
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


def past_run(folder: Path, trials: bool = False) -> PastRun | str:
    """Return a run, or why it is left out."""
    row = folders.facts_of(folder)
    if row is None:
        return "unreadable"
    if row["status"] not in ("finished", "diverged"):
        return "not finished"
    declared = read_json(folder / "run.json")
    if declared.get("lineage") is not None:
        return "forks"
    if row["seed"] >= TUNING_SEED and not trials:
        return "tuning trials"
    try:
        regime = parse(declared["regime"])
    except DeclarationError:
        return "with classes of your own that are not imported here"
    if not isinstance(regime, Regime):
        return "unreadable"
    metrics = {name: float(v) for name, v in row["metrics"].items() if is_number(v)}
    return PastRun(folder, declared, regime, metrics, records.seconds(folder), folders.study_of(folder, row["key"]))


def _questions(root: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted(root.rglob("study.json")):
        try:
            found.append(read_json(file))
        except ResumeError:
            continue
    return found


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
