"""Is it better, or was it the seed? For runs that somebody else made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show
from regimes.study.arms import Arm
from regimes.study.design import Design, check_better, check_question, is_number
from regimes.study.foreign.choice import chosen
from regimes.study.foreign.rows import Rows, rows_of
from regimes.study.one_run import lender_of
from regimes.study.search import Search
from regimes.study.study import Study
from regimes.study.subject import package_version
from regimes.study.tasks import Outcome, Task

#: What the judge needs to know of somebody else's runs, and cannot.
PROMISE = (
    "these runs were read, not made: whether runs of one seed shared initial weights and data order, whether every arm "
    "was tuned as much, and whether runs were left out, is not known here"
)


def verdict(
    frame: Any,
    *,
    arm: str,
    metric: str,
    margin: float,
    seed: str | None = None,
    better: str | None = None,
    baseline: str | None = None,
    level: float = 0.95,
    step: str | None = None,
    at: str | int | None = None,
    nan: str | None = None,
    where: Mapping[str, Any] | None = None,
    noise: Study | str | Path | None = None,
    pattern: str | None = None,
    unfinished: str | None = None,
    name: str | None = None,
    out: str | Path | None = None,
) -> Study:
    """Say of runs that are finished, whoever made them, whether an arm is better, or whether it was the seed.

    The verdicts, intervals and report are those of `regimes.compare`: paired t intervals of the improvement over the
    baseline, simultaneous over the arms, on the seeds that both have. What cannot be known is asked for or said, and
    never guessed.

    Parameters
    ----------
    frame : DataFrame, mapping of columns, list of rows, or path
        One row per run, or one per run and step. A path leads to a .csv, .tsv, .json or .jsonl file, or to what a
        tracker keeps: TensorBoard event files, an mlflow store, wandb's offline folders, a ``trainer_state.json``.
    arm : str
        The column that tells the arms apart.
    metric : str
        The column of the metric.
    margin : float
        The smallest difference that matters, in the metric's unit. There is no default.
    seed : str, optional
        The column of the seed: runs of one seed are compared with one another. Without it nothing is paired, and the
        intervals are Welch's.
    better : "lower" or "higher"
        Default: lower for a name that ends in "loss"; must be said for anything else.
    baseline : str, optional
        The arm that others are compared with; default the first that occurs.
    level : float
        Simultaneous confidence. Default 0.95.
    step : str, optional
        The column of the step, where a run has many rows.
    at : "last", "common" or int, optional
        Where runs end at different steps: each at its own last, all at the last step that all have, or all at this.
    nan : "diverged" or "missing", optional
        What a NaN means: a run that diverged counts as the worst, one without a value is left out. An infinite value
        always counts as diverged; an empty cell is a value that is missing.
    where : mapping, optional
        Only rows with these values in these columns; None is a cell that is empty.
    pattern : str, optional
        Takes more columns from the runs' names (column ``run``): a regular expression of the whole name with a named
        group per column, ``r"(?P<opt>\\w+)-s(?P<seed>\\d+)"``. A name that it does not fit is refused.
    unfinished : "used" or "missing", optional
        What is done with runs that their tracker calls running, crashed, failed or killed: they are judged at what
        there is of them, or left out, which flatters an arm whose runs fail. Without a word they are refused.
    noise : Study or path, optional
        Of arms with one run: a study whose paired noise the difference is held against.
    name : str, optional
        For titles; default the file's.
    out : path, optional
        A folder for the study and its report.

    Returns
    -------
    Study

    Raises
    ------
    DeclarationError
        A column that is not there, two rows for one run, runs of unequal length, unfinished runs or NaN without a word on
        what they mean, a name that the pattern does not fit, no seed that two arms share.

    Examples
    --------
    >>> runs = {"opt": ["sgd"] * 4 + ["muon"] * 4, "seed": [0, 1, 2, 3] * 2,
    ...         "val/loss": [2.50, 2.52, 2.47, 2.51, 2.41, 2.44, 2.39, 2.43]}
    >>> found = verdict(runs, arm="opt", seed="seed", metric="val/loss", margin=0.02)
    >>> found.verdicts
    {'muon': 'better'}
    >>> print(found.to_dict()["sentence"])
    muon is better than sgd by 0.0825 [0.0745, 0.0905] in val/loss.
    """
    found, read = chosen(rows_of(frame), where or {}, pattern, unfinished)
    step = step or found.step
    asked = _Asked(found, arm, metric, seed, step, nan)
    runs = asked.runs()
    position, said = _judged_at(runs, at)
    arms = _arms(runs, metric, position)
    first = check_question(list(arms), baseline, margin, level)
    if seed is not None:
        said += _unpaired(arms, first)
    design = Design(
        baseline=first, metric=metric, better=check_better(metric, better), margin=float(margin), seeds=_seeds(arms),
        search=Search("quasi", {}, 0, "lower"), equal="steps" if step and position is not None else None, level=float(level),
        names=tuple(arms), budget=_budget(step, position), tuning_metric=metric, paired=seed is not None,
    )  # fmt: skip
    title = name or Path(found.name).stem
    subject = Finished(found, len(runs), metric)
    folder = None if out is None else Path(out)
    made = [Arm(label, label, label, outcomes, []) for label, outcomes in arms.items()]
    lender = None if noise is None else lender_of(noise, None, title, metric, design.better)
    study = Study.of(design, title, subject, made, "regimes.verdict(...)", folder, [*read, *asked.said, *said], lender)
    study.save()
    return study


@dataclass(frozen=True)
class Finished:
    """Finished runs of somebody else, as the subject of a study.

    Parameters
    ----------
    found : Rows
    runs : int
    metric : str
    """

    found: Rows
    runs: int
    metric: str

    @property
    def name(self) -> str:
        """Where they come from."""
        return self.found.name

    def fingerprint(self) -> dict[str, str]:
        """Digest of the rows."""
        return {"rows": self.found.digest}

    def facts(self, budget: str) -> dict[str, Any]:
        """How many runs there are; of what size nobody says."""
        return {"parameters": None, "scale": f"{self.runs} runs of {self.found.name}"}

    def environment(self) -> dict[str, Any]:
        """Where the verdict was made; where the runs were, is not known."""
        return package_version()

    def arm_facts(self, chosen: Any, baseline: Any) -> dict[str, Any]:
        """A name is all that is known of an arm."""
        return {"regime": str(chosen), "diff": [], "schedules": []}

    def promise(self) -> str:
        """What cannot be known."""
        return PROMISE


@dataclass(frozen=True)
class _Run:
    """One run: its arm, its seed (or number), and its metric by step (step 0 where there are none)."""

    arm: str
    seed: Any
    course: dict[Any, float]


class _Asked:
    """Reads runs from rows."""

    def __init__(
        self, found: Rows, arm: str, metric: str, seed: str | None, step: str | None, nan: str | None
    ) -> None:  # fmt: skip
        for key, column in (
            ("arm", arm),
            ("metric", metric),
            ("seed", seed),
            ("step", step),
        ):
            if column is not None and column not in found.columns:
                raise DeclarationError(f"there is no column '{column}'; {nearest(str(column), found.columns)}", key)
        if nan not in (None, "diverged", "missing"):
            raise DeclarationError(f"got {show(nan)}; allowed: 'diverged' or 'missing'", "nan")
        self.rows = found.rows
        self.arm, self.metric, self.seed, self.step, self.nan = arm, metric, seed, step, nan
        self.said: list[str] = []

    def runs(self) -> list[_Run]:
        """Return the runs, in the order in which they occur."""
        courses: dict[tuple[str, Any], dict[Any, float]] = {}
        empty: set[tuple[str, Any]] = set()
        for number, row in enumerate(self.rows):
            place = self._place(number, row)
            value = self._value(row)
            if value is None:
                empty.add(place)
                continue
            at = 0 if self.step is None else self._step(row)
            course = courses.setdefault(place, {})
            if at in course:
                self._twice(place, at)
            course[at] = value
        missing = [f"{arm}, {self._label(seed)}" for arm, seed in empty if (arm, seed) not in courses]
        if missing:
            self.said.append(f"without a value of {self.metric}, and left out: {'; '.join(sorted(missing))}")
        return [_Run(arm, seed, course) for (arm, seed), course in courses.items()]

    def _place(self, number: int, row: Mapping[str, Any]) -> tuple[str, Any]:
        arm = row.get(self.arm)
        seed = row.get(self.seed) if self.seed is not None else self._unnamed(number, row)
        for key, value in ((self.arm, arm), (self.seed, seed)):
            if value is None or value != value:
                raise DeclarationError(f"row {number} says nothing in column '{key}'; leave it out with where", "frame")
        return str(arm), seed

    def _unnamed(self, number: int, row: Mapping[str, Any]) -> Any:
        """What tells runs apart that have no seed: the row, or the run's name among curves."""
        if self.step is None:
            return number
        if row.get("run") is None:
            raise DeclarationError(
                "a table of curves without seeds needs a column 'run' that tells its runs apart", "seed"
            )
        return row["run"]

    def _label(self, seed: Any) -> str:
        return f"row {seed}" if self.seed is None and self.step is None else f"seed {seed}"

    def _step(self, row: Mapping[str, Any]) -> Any:
        found = row.get(self.step)  # type: ignore[arg-type]
        if not is_number(found):
            raise DeclarationError(f"got {show(found)} in column '{self.step}'; allowed: a number", "step")
        return found

    def _value(self, row: Mapping[str, Any]) -> float | None:
        value = row.get(self.metric)
        if value is None:
            return None
        if not is_number(value):
            raise DeclarationError(f"got {show(value)} in column '{self.metric}'; allowed: numbers", "metric")
        if not math.isnan(value):
            return float(value)
        if self.nan is None:
            raise DeclarationError(
                f"column '{self.metric}' holds NaN; say what it means: 'diverged' (counts as the worst) or 'missing' "
                "(left out, which flatters an arm whose runs fail)",
                "nan",
            )
        return math.nan if self.nan == "diverged" else None

    def _twice(self, place: tuple[str, Any], at: Any) -> None:
        arm, seed = place
        if self.step is None:
            hint = "name the column of the steps (step=) if rows are points of a curve, or choose rows with where"
        else:
            hint = "choose rows with where"
        at_step = "" if self.step is None else f" at step {at}"
        raise DeclarationError(f"arm '{arm}' has two rows for {self._label(seed)}{at_step}; {hint}", "frame")


def _judged_at(runs: Sequence[_Run], at: str | int | None) -> tuple[Any, list[str]]:
    """Return the step at which all runs are judged, None for each at its own last; and what to say of it."""
    ends = sorted({max(run.course) for run in runs})
    if at not in (None, "last", "common") and not is_number(at):
        raise DeclarationError(f"got {show(at)}; allowed: 'last', 'common' or a step", "at")
    if len(ends) == 1 and at in (None, "last", "common"):
        return ends[0], []
    common = set.intersection(*(set(run.course) for run in runs))
    if at is None:
        shared = f" ({max(common):g})" if common else ", of which there is none"
        raise DeclarationError(
            f"runs end between step {ends[0]:g} and {ends[-1]:g}; say 'common' (all at the last step that all have"
            f"{shared}), 'last' (each at its own end, so at unequal budgets) or a step",
            "at",
        )
    if at == "last":
        return None, [f"runs end between step {ends[0]:g} and {ends[-1]:g}, and each is judged at its own end"]
    wanted = max(common, default=None) if at == "common" else at
    lacking = [run for run in runs if wanted not in run.course]
    if lacking:
        raise DeclarationError(f"run {lacking[0].arm}, seed {lacking[0].seed}, has no value at step {wanted}", "at")
    return wanted, [f"judged at step {wanted:g}; runs end between step {ends[0]:g} and {ends[-1]:g}"]


def _arms(runs: Sequence[_Run], metric: str, position: Any) -> dict[str, list[Outcome]]:
    arms: dict[str, list[Outcome]] = {}
    for run in runs:
        end = max(run.course) if position is None else position
        curve = [{"step": at - 1, metric: value} for at, value in sorted(run.course.items()) if at <= end]
        outcome = Outcome(
            Task(run.arm, run.arm, run.seed), {metric: run.course[end]}, curve if len(curve) > 1 else [], [], {},
            end or None, None, None, "", False,
        )  # fmt: skip
        arms.setdefault(run.arm, []).append(outcome)
    return arms


def _seeds(arms: Mapping[str, Sequence[Outcome]]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(o.task.seed for outcomes in arms.values() for o in outcomes))


def _unpaired(arms: Mapping[str, Sequence[Outcome]], baseline: str) -> list[str]:
    """Say which runs have no partner; refuse arms without any."""
    base, said = {o.task.seed for o in arms[baseline]}, []
    for name, outcomes in arms.items():
        mine = {o.task.seed for o in outcomes}
        if not mine & base:
            raise DeclarationError(
                f"arm '{name}' shares no seed with the baseline '{baseline}'; leave seed out to compare without pairs",
                "seed",
            )
        for lonely, owner in ((mine - base, name), (base - mine, baseline)):
            if lonely:
                listed = ", ".join(map(str, sorted(lonely, key=str)))
                said.append(f"{name} against {baseline} without seed {listed} of {owner}, which has no partner")
    return said


def _budget(step: str | None, position: Any) -> str:
    if step is None:
        return "the end of each run"
    return "each run's last step" if position is None else f"{position:g} steps"
