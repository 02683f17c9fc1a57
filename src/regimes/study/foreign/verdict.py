"""Is it better, or was it the seed? For runs that somebody else made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError
from regimes.study import earlier
from regimes.study.arms import Arm
from regimes.study.design import Design, check_assume, check_better, check_question
from regimes.study.foreign.choice import chosen
from regimes.study.foreign.pairs import refuse_too_few, without_partner
from regimes.study.foreign.rows import Rows, rows_of
from regimes.study.foreign.runs import Reader, Run, diverged_later, judged_at
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
    assume: str | None = None,
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
        The column that tells the arms apart; its content is a label, kept as the text that stands there.
    metric : str
        The column of the metric.
    margin : float
        The smallest difference that matters, in the metric's unit. There is no default.
    seed : str, optional
        The column of the seed: runs of one seed are compared with one another; 3, "3" and 3.0 are one seed, "003" is
        another. Without it nothing is paired, and the intervals are Welch's.
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
        What a NaN means: a run that diverged counts as the worst, one without a value is left out, as a whole where
        it is a curve with NaN at any step. A run that diverged after the step at which all are judged is judged there,
        and told. An infinite value always counts as diverged; an empty cell is a value that is missing.
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
    assume : "normal", optional
        Allow fewer seeds than a test without assumptions needs, as in `regimes.compare`: verdicts then rest on paired
        differences (without seeds, on runs) that are normally distributed.
    name : str, optional
        For titles; default the file's.
    out : path, optional
        A folder for the study and its report, new or of this very study.

    Returns
    -------
    Study

    Raises
    ------
    DeclarationError
        A column that is not there, or twice; two rows for one run, runs of unequal length, unfinished runs or NaN without
        a word on what they mean, a name that the pattern does not fit, no seed that two arms share, more than one and
        fewer than could show anything; an `out` that holds another study.

    Examples
    --------
    >>> runs = {"opt": ["sgd"] * 6 + ["muon"] * 6, "seed": [*range(6)] * 2,
    ...         "val/loss": [2.50, 2.52, 2.47, 2.51, 2.49, 2.53, 2.41, 2.44, 2.39, 2.43, 2.42, 2.44]}
    >>> found = verdict(runs, arm="opt", seed="seed", metric="val/loss", margin=0.02)
    >>> found.verdicts
    {'muon': 'better'}
    >>> print(found.to_dict()["sentence"])
    muon is better than sgd by 0.0817 [0.0738, 0.0896] in val/loss.
    """
    found, read = chosen(rows_of(frame), where or {}, pattern, unfinished)
    step = step or found.step
    check_assume(assume)
    asked = Reader(found, arm, metric, seed, step, nan)
    runs = asked.runs()
    if len({run.arm for run in runs}) < 2:
        raise DeclarationError(f"got column '{arm}', which tells fewer than two arms apart that have runs", "arm")
    position, said = judged_at(runs, at)
    said += diverged_later(runs, position)
    arms = _arms(runs, metric, position)
    first = check_question(list(arms), baseline, margin, level)
    if seed is not None:
        said += without_partner(arms, first)
    if assume is None:
        refuse_too_few(arms, first, level, seed is not None)
    design = Design(
        baseline=first, metric=metric, better=check_better(metric, better), margin=float(margin), seeds=_seeds(arms),
        search=Search("quasi", {}, 0, "lower"), equal="steps" if step and position is not None else None, level=float(level),
        names=tuple(arms), budget=_budget(step, position), tuning_metric=metric, paired=seed is not None,
    )  # fmt: skip
    title = name or Path(found.name).stem
    subject = Finished(found, len(runs), metric)
    folder = None if out is None else Path(out)
    made = [Arm(label, label, label, outcomes, []) for label, outcomes in arms.items()]
    lender = None if noise is None else lender_of(noise, None, subject, design)
    study = Study.of(design, title, subject, made, "regimes.verdict(...)", folder, [*read, *asked.said, *said], lender)
    if folder is not None:
        record = _record(design, subject, arms)
        earlier.refuse_other(folder, record)
        study.save()
        earlier.remember(folder, record)
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


def _arms(runs: Sequence[Run], metric: str, position: Any) -> dict[str, list[Outcome]]:
    arms: dict[str, list[Outcome]] = {}
    for run in runs:
        end = max(run.course) if position is None else position
        curve = [{"step": at - 1, metric: value} for at, value in sorted(run.course.items()) if at <= end]
        outcome = Outcome(
            Task(run.arm, run.arm, run.seed), {metric: run.course[end]}, curve if len(curve) > 1 else [], [], {},
            end or None, None, None, "", False,
        )  # fmt: skip
        arms.setdefault(run.arm, []).append(outcome)
    # A tracker tells runs in whatever order they began or were kept; sums depend on it in their last digits.
    return {name: sorted(outcomes, key=lambda o: _ordered(o.task.seed)) for name, outcomes in arms.items()}


def _ordered(seed: Any) -> tuple[int, float, str]:
    """Numbers first."""
    return (0, seed, "") if isinstance(seed, int | float) else (1, 0.0, str(seed))


def _seeds(arms: Mapping[str, Sequence[Outcome]]) -> tuple[Any, ...]:
    found = dict.fromkeys(o.task.seed for outcomes in arms.values() for o in outcomes)
    return tuple(sorted(found, key=_ordered))


def _record(design: Design, subject: Finished, arms: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """What the study asked, and of which values: where both are equal, it is the same study."""
    values = {
        name: {str(o.task.seed): repr(o.metrics[design.metric]) for o in outcomes} for name, outcomes in arms.items()
    }
    asked = design.record(subject, {name: name for name in arms}) | {"paired": design.paired, "values": values}
    del asked["data"]  # a column that nobody asked for makes no other study
    return asked


def _budget(step: str | None, position: Any) -> str:
    if step is None:
        return "the end of each run"
    return "each run's last step" if position is None else f"{position:g} steps"
