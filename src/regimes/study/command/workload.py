"""A command line as a workload: the script is somebody's own, the study is ours."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, show
from regimes.study.command import runs
from regimes.study.command.declared import faults, misfits, texts, tuned
from regimes.study.command.line import Line
from regimes.study.command.measured import Measured
from regimes.study.command.values import Values, text_of
from regimes.study.ranges import Range
from regimes.study.subject import package_version
from regimes.study.tasks import Outcome, Task

#: What cannot be promised of somebody's command, in one line.
PROMISE = (
    "a command's runs are somebody's own: that a seed fixes weights and data order alike in every arm, that arms take "
    "equal budgets, and that nothing but the files named in the command has changed, is the script's to keep"
)


@dataclass(frozen=True)
class Command:
    """A command line whose runs are compared: a training script, a launcher, any line of a shell.

    Arms are values that fill the line. Pairing by seed, tuning, the store of runs, interruption, failures, report and
    verdict are those of any study. A run is its line and the files that the line names, its values filled in; where its
    metric is, and how long it may take, can be corrected afterwards, and no run is lost.

    Parameters
    ----------
    command : str
        The line, with ``{seed}``, ``{out}`` (the run's own folder) and a ``{name}`` for each value of the arms; a brace
        of the line's own is doubled. A value is quoted as a shell needs it; within quotes of the line, one that would
        need it is refused. A whole number that is tuned stays whole: write 1.0 where it need not.
    metric : str
        Where the line leaves its metric: ``{out}/metrics.json:val_loss`` (of JSON lines and CSV the last row, or where
        rows have steps a row of the last step), or ``{out}/stdout.txt:/val loss ([0-9.]+)/`` (the last match in what
        it printed, where the number is read whole). A number that is not finite is that of a run that diverged; a row
        that is not whole, an empty cell or a null is none. Where the first run leaves no metric, the study ends.
    curve : str, optional
        Where the course of the metric is: ``{out}/log.jsonl:val_loss``, the step under ``step``, or under another key:
        ``{out}/log.jsonl:val_loss@iteration``.
    timeout : str or float, optional
        How long one attempt may take, such as "20 min", whether or not its study still lives. One that takes longer is
        ended, and is no value; an attempt that goes on from another has the whole time again.
    budget : str, optional
        What a run takes, in words, for the report; nobody checks it.
    resumes : bool
        Whether the script goes on from what lies in ``{out}``, where it was interrupted or failed. What it then has not
        written itself is not believed: it has to write its metric again. Default False: a run that was interrupted
        begins anew, in a new folder.
    name : str, optional
        Of the workload; default the first word of the line that is a file.
    directory : path, optional
        Where the line is run; default the present folder.

    Raises
    ------
    DeclarationError
        A line without ``{seed}`` (all seeds would be one run), a metric at a place that runs would share.

    Examples
    --------
    >>> work = Command("python train.py --lr {lr} --seed {seed} --out {out}", "{out}/metrics.json:val_loss")
    >>> work.line(Values({"lr": 0.001}), seed=3, out=Path("runs/a"))
    'python train.py --lr 0.001 --seed 3 --out runs/a'
    """

    command: str
    metric: str
    curve: str | None = None
    timeout: str | float | None = None
    budget: str | None = None
    resumes: bool = False
    name: str = ""
    directory: str | Path = field(default_factory=os.getcwd)

    def __post_init__(self) -> None:
        for why in faults(self.command, self.metric, self.curve, self.timeout, self.resumes):
            raise why
        if not self.name:
            own = [path for path in self._files({}) if path.parent == Path(self.directory)]
            object.__setattr__(self, "name", Path(next(iter(own), self.command.split()[0])).name)

    @property
    def fields(self) -> list[str]:
        """Names in braces, in order."""
        return Line(self.command).fields

    @property
    def measured(self) -> Measured:
        """Where the metric is."""
        return Measured.parse(self.metric, "metric")

    def line(self, values: Values, seed: Any, out: Path) -> str:
        """Return the line of one run."""
        return Line(self.command).filled(texts(values, seed, out))

    # -- what a study asks of what it trains -------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, str]:
        """Digests of the files that the line names in every arm."""
        return {str(path): _digest(path) for path in self._files({})}

    def _files(self, known: Mapping[str, str]) -> list[Path]:
        return Line(self.command).files(known, Path(self.directory))

    def facts(self, budget: str) -> dict[str, Any]:
        """Of what size the model is, nobody says."""
        return {"parameters": None, "scale": f"{self.name}, {budget}"}

    def environment(self) -> dict[str, Any]:
        """Versions and machine; what the script imports is its own affair."""
        return package_version()

    def promise(self) -> str:
        """What cannot be promised."""
        return PROMISE

    def arm_facts(self, chosen: Values, baseline: Values) -> dict[str, Any]:
        """An arm's values, and where they differ."""
        told = [{"path": d.path, "from": _said(d.old), "to": _said(d.new)} for d in baseline.diff(chosen)]
        return {"regime": repr(chosen), "diff": told, "schedules": []}

    def arms(self, arms: Mapping[str, Any]) -> dict[str, Values]:
        """Arms as values."""
        made = {}
        for name, given in arms.items():
            if not isinstance(given, Values | Mapping):
                raise DeclarationError(f"got {show(given)}; allowed: the values of the line's names", f"arms.{name}")
            try:
                made[name] = given if isinstance(given, Values) else Values(dict(given))
            except DeclarationError as why:
                raise why.within(f"arms.{name}") from None
        return made

    def metric_name(self, metric: Any) -> str:
        """There is one metric."""
        own = self.measured.name
        if metric not in (None, own):
            raise DeclarationError(f"there is no metric '{metric}'; the command's is '{own}'", "metric")
        return own

    def tuning_metric(self, metric: str) -> str:
        """There is one metric: it is tuned and judged on the same."""
        return metric

    def check(self, arms: Mapping[str, Any], ranges: Mapping[str, Range], points: Sequence[dict[str, float]]) -> None:
        """Refuse arms whose values are not those of the line."""
        for why in misfits(Line(self.command), arms, ranges):
            raise why

    def budgets(self, arms: Mapping[str, Any], baseline: str, equal: str | None) -> tuple[str | None, str, list[str]]:
        """What a run takes, is what was said of it."""
        if equal is not None:
            raise DeclarationError(f"got {equal}; of a command nobody counts what a run takes", "equal")
        return None, self.budget or "the end of each command", []

    def tuned(self, declared: Values, ranges: Mapping[str, Range], shares: Mapping[str, float]) -> Values:
        """The arm with every tuned value at its share of its range."""
        return declared.but(
            {name: tuned(declared.given[name], range_, shares[name]) for name, range_ in ranges.items()}
        )

    def tuned_values(self, declared: Values, patterns: Sequence[str]) -> dict[str, float]:
        """The tuned values of an arm."""
        return {name: float(declared.given[name]) for name in patterns}

    def kept(self) -> AbstractContextManager[Any]:
        """Nothing is kept from run to run."""
        return contextlib.nullcontext()

    def placed(self, worker: int) -> None:
        """Give the commands of this worker one of several GPUs."""
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else [str(number) for number in range(_gpus())]
        if len(names) > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = names[worker % len(names)]

    @property
    def together(self) -> int:
        """One: what a script does is its own affair."""
        return 1

    def train_all(self, tasks: Sequence[Task], store: Path) -> Iterator[Outcome]:
        """Run tasks one after another."""
        for task in tasks:
            yield self.train(task, store)

    def train(self, task: Task, store: Path) -> Outcome:
        """Run one task, or find it finished."""
        try:
            key = self.key(task)
        except (OSError, RegimesError) as why:
            return Outcome.without_value(task, str(why))
        return runs.train(self, task, store / key)

    def key(self, task: Task) -> str:
        """Digest of everything about a run that can be seen: its line, and the files that the line names.

        Where its metric is, and how long it may take, is not part of what it is.
        """
        seen = {
            "line": self.line(task.declared, task.seed, Path("OUT")),
            "files": self.digests(task),
            "directory": str(self.directory),
        }
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]

    def digests(self, task: Task) -> dict[str, str]:
        """Digests of the files that a run's line names, by path."""
        return {str(path): _digest(path) for path in self._files(texts(task.declared, task.seed, "OUT"))}


def _said(value: Any) -> str:
    return "-" if value is None else text_of(value)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _gpus() -> int:
    """How many GPUs this machine shows: asked of its devices, since torch takes seconds to say it."""
    devices = Path("/dev")
    amd = sorted(devices.glob("dri/renderD*")) if (devices / "kfd").exists() else []
    return len([*amd, *(path for path in devices.glob("nvidia*") if path.name[6:].isdigit())])
