"""One frozen set of settings for several workloads, chosen by how fast it reaches their targets."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, show
from regimes.core.regime import Regime
from regimes.engine.workload import Workload
from regimes.study.design import check_better, is_number
from regimes.study.own import Own
from regimes.study.pool import Pool
from regimes.study.profiles import profile_score
from regimes.study.ranges import Range, between, tuned
from regimes.study.search import Search, Shares
from regimes.study.tasks import TUNING_SEED, Outcome, Task


@dataclass(frozen=True)
class Setting:
    """One point that was tried on every workload.

    Parameters
    ----------
    values : dict of str to float
        What stands at each tuned path.
    shares : dict of str to float
        Its place in each range.
    steps : dict of str to int or None
        After how many steps it reached each workload's target; None where it did not.
    score : float
        Its profile score among all that were tried.
    """

    values: dict[str, float]
    shares: Shares
    steps: dict[str, int | None]
    score: float


@dataclass(frozen=True)
class Calibration:
    """What calibrating chose.

    Parameters
    ----------
    tune : dict of str to Range
    settings : tuple of Setting
        In the order in which they were tried.
    """

    tune: dict[str, Range]
    settings: tuple[Setting, ...]

    @property
    def chosen(self) -> Setting:
        """The setting of the highest score, the first of several. Its score is that of a winner: too high."""
        return max(self.settings, key=lambda setting: setting.score)

    def regime(self, declared: Regime) -> Regime:
        """Return a regime, of any workload, with the chosen settings in it."""
        return tuned(declared, self.tune, self.chosen.shares)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        tried = [asdict(setting) for setting in self.settings]
        return {
            "tune": {path: repr(range_) for path, range_ in self.tune.items()},
            "chosen": self.chosen.values,
            "settings": tried,
        }

    def __str__(self) -> str:
        values = ", ".join(f"{path} = {value:.4g}" for path, value in self.chosen.values.items())
        steps = self.chosen.steps
        hit = ", ".join(f"{name} after {count} steps" for name, count in steps.items() if count is not None)
        missed = ", ".join(name for name, count in steps.items() if count is None)
        return (
            f"{values}: profile score {self.chosen.score:.3f}, the best of {len(self.settings)} (a winner's: too high); "
            f"{hit}{f'; missed: {missed}' if missed else ''}"
        )


def calibrate(
    workloads: Mapping[str, Workload],
    regimes: Regime | Mapping[str, Regime],
    tune: Mapping[str, Range],
    trials: int,
    targets: Mapping[str, float],
    *,
    metric: str = "val/loss",
    better: str | None = None,
    out: str | Path = "runs/calibration",
    workers: int = 1,
    validate: str = "5%",
    progress: bool | None = None,
) -> Calibration:
    """Choose one set of settings that serves several workloads, to be used on others as it is.

    A rule without rates still has settings. What it can do without tuning is what it does with one frozen set of them: so
    `trials` points are laid out as tuning lays them out (a scrambled Halton sequence), each is trained on every workload,
    and the one of the highest profile score is chosen (`regimes.profile_score`, of steps until the workload's target).

    Parameters
    ----------
    workloads : mapping of names to Workload
    regimes : Regime, or mapping of workloads to Regime
        What is trained, each with its own budget.
    tune : mapping of path pattern to `between`
        Absolute ranges: a setting is the same number everywhere.
    trials : int
        Points.
    targets : mapping of workloads to numbers
        What the metric has to reach.
    metric : str
        Of validation data. Default ``val/loss``.
    better : "lower" or "higher"
        Default: lower for losses; must be said for anything else.
    out : path
        A folder, with one of runs for each workload; what is there is not computed again.
    workers : int
        Runs side by side.
    validate : Duration
        How often the metric is measured, and so how finely a target's step is known. Default 5%.
    progress : bool, optional
        Default: a bar on a terminal.

    Returns
    -------
    Calibration
        ``regime(declared)`` puts the chosen settings into a regime.

    Raises
    ------
    DeclarationError
        Before anything is spent: workloads without a regime or a target, relative ranges, paths that fit nothing.
    RegimesError
        If a run failed (which is no value; the same call tries it again), or no setting reached any target.

    References
    ----------
    Kasimbeg et al., "How far away are truly hyperparameter-free learning algorithms?", 2025.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> works = {str(n): rg.workloads.load("quadratic", examples=n) for n in (64, 128)}
    >>> base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="40 steps")
    >>> found = calibrate(
    ...     works, base, {"optimizer.lr": rg.between(1e-3, 1.0)}, 4, {"64": 0.9, "128": 0.9}, out=tempfile.mkdtemp()
    ... )
    >>> [setting.steps for setting in found.settings]
    [{'64': None, '128': None}, {'64': None, '128': None}, {'64': 14, '128': 26}, {'64': 4, '128': 6}]
    >>> print(found)
    optimizer.lr = 0.6031: profile score 1.000, the best of 4 (a winner's: too high); 64 after 4 steps, 128 after 6 steps
    >>> found.regime(base).optimizer.lr == found.chosen.values["optimizer.lr"]
    True
    """
    named = dict.fromkeys(workloads, regimes) if isinstance(regimes, Regime) else dict(regimes)
    direction = check_better(metric, better)
    subjects = _subjects(workloads, named, tune, trials, targets, metric, validate)
    points = Search("quasi", dict(tune), trials, direction).laid_out
    for name, subject in subjects.items():
        subject.check({name: named[name]}, tune, points)
    steps: list[dict[str, int | None]] = [{} for _ in points]
    with _bar(progress) as bar:
        counted = bar.add_task("calibration", total=len(points) * len(workloads))
        for name, subject in subjects.items():
            tasks = [
                Task(name, tuned(named[name], tune, shares), TUNING_SEED, number, shares)
                for number, shares in enumerate(points)
            ]
            for outcome in _trained(subject, tasks, Path(out) / name / "runs", workers):
                if outcome.failed:
                    raise RegimesError(f"{outcome.task.what} on {name} failed, which is no value: {outcome.failure}")
                steps[outcome.task.trial or 0][name] = _reached(outcome, metric, direction, targets[name])
                bar.advance(counted)
    return Calibration(dict(tune), _settings(points, steps, tune, list(workloads)))


def _settings(
    points: Sequence[Shares], steps: Sequence[Mapping[str, int | None]], tune: Mapping[str, Range], names: Sequence[str]
) -> tuple[Setting, ...]:
    scores = profile_score({str(number): found for number, found in enumerate(steps)})
    if not any(scores.values()):
        raise RegimesError(
            f"none of {len(points)} settings reached a target; allowed: nearer targets, or longer budgets"
        )
    values = [{path: range_.at(shares[path]) for path, range_ in tune.items()} for shares in points]
    return tuple(
        Setting(values[number], shares, {name: steps[number][name] for name in names}, scores[str(number)])
        for number, shares in enumerate(points)
    )


def _trained(subject: Own, tasks: list[Task], store: Path, workers: int) -> Any:
    waiting = list(tasks)
    pool = Pool(subject, store, workers, None, [task.declared for task in tasks])
    try:
        with subject.kept():
            for found in pool.outcomes(lambda done: waiting.pop(0) if waiting else None):
                if isinstance(found, Outcome):
                    yield found
    finally:
        pool.close()


def _reached(outcome: Outcome, metric: str, better: str, target: float) -> int | None:
    """Steps until the target; None where it was not reached."""
    sign = 1.0 if better == "lower" else -1.0
    for row in outcome.curve:
        value = row.get(metric, math.nan)
        if is_number(value) and math.isfinite(value) and sign * value <= sign * target:
            return int(row["step"]) + 1
    return None


def _subjects(
    workloads: Mapping[str, Workload], regimes: Mapping[str, Regime], tune: Mapping[str, Range], trials: int,
    targets: Mapping[str, float], metric: str, validate: str,
) -> dict[str, Own]:  # fmt: skip
    """Refuse what could not be calibrated; return who trains each workload."""
    if (
        not isinstance(workloads, Mapping)
        or not all(isinstance(work, Workload) for work in workloads.values())
        or not workloads
    ):
        raise DeclarationError(f"got {show(workloads)}; allowed: a dict of names to workloads", "workloads")
    for key, given in (("regimes", regimes), ("targets", targets)):
        odd = [*(name for name in workloads if name not in given), *(name for name in given if name not in workloads)]
        if odd:
            raise DeclarationError(
                f"got {', '.join(map(str, given))}; allowed: one for each of {', '.join(workloads)}", key
            )
    for name, target in targets.items():
        if not is_number(target) or not math.isfinite(target):
            raise DeclarationError(f"got {show(target)}; allowed: a number", f"targets.{name}")
    if not tune or not isinstance(trials, int) or isinstance(trials, bool) or trials < 2:
        raise DeclarationError(f"got {show(trials)}; allowed: at least 2 points over one range or more", "trials")
    for path, range_ in tune.items():
        if not isinstance(range_, between):
            raise DeclarationError(
                f"got {show(range_)}; allowed: between(1e-4, 1e-2), because a setting is the same number everywhere",
                f"tune.{path}",
            )
    if not metric.startswith("val/"):
        raise DeclarationError(f"got '{metric}'; allowed: a metric of validation data, such as 'val/loss'", "metric")
    made = {name: Own(work, {"validate": validate, "workload_spec": None}) for name, work in workloads.items()}
    for subject in made.values():
        subject.metric_name(metric)
    return made


def _bar(progress: bool | None) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), disable=not (sys.stderr.isatty() if progress is None else progress))
