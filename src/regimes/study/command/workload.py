"""A command line as a workload: the script is somebody's own, the study is ours."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shlex
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regimes.core.duration import seconds
from regimes.core.errors import DeclarationError, RegimesError, nearest, show
from regimes.engine.api import Interrupted
from regimes.engine.folder import read_json, write_json
from regimes.study.command.measured import Measured
from regimes.study.command.process import Attempts, Ended, tail
from regimes.study.command.values import Values, text_of
from regimes.study.design import is_number
from regimes.study.ranges import Range
from regimes.study.subject import package_version
from regimes.study.tasks import Outcome, Task

#: What cannot be promised of somebody's command, in one line.
PROMISE = (
    "a command's runs are somebody's own: that a seed fixes weights and data order alike in every arm, that arms take "
    "equal budgets, and that nothing but the files named in the command has changed, is the script's to keep"
)
_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")
_GIVEN = ("seed", "out")


@dataclass(frozen=True)
class Command:
    """A command line whose runs are compared: a training script, a launcher, any line of a shell.

    Arms are values that fill the line. Pairing by seed, tuning, the store of runs, interruption, failures, report and
    verdict are those of any study.

    Parameters
    ----------
    command : str
        The line, with ``{seed}``, ``{out}`` (the run's own folder) and a ``{name}`` for each value of the arms; a brace
        of the line's own is doubled. Values are quoted for the shell.
    metric : str
        Where the line leaves its metric: ``{out}/metrics.json:val_loss`` (of JSON lines and CSV the last row), or
        ``{out}/stdout.txt:/val loss ([0-9.]+)/`` (the last match in what it printed).
    curve : str, optional
        Where the course of the metric is: ``{out}/log.jsonl:val_loss``, the step under ``step``, or under another key:
        ``{out}/log.jsonl:val_loss@iteration``.
    timeout : str or float, optional
        How long one run may take, such as "20 min". A run that takes longer has failed, and is no value.
    budget : str, optional
        What a run takes, in words, for the report; nobody checks it.
    resumes : bool
        Whether the script goes on from what lies in ``{out}``. Default False: a run that was interrupted begins anew,
        in a new folder.
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
        for key, text in (("command", self.command), ("metric", self.metric)):
            if not isinstance(text, str) or not text.strip():
                raise DeclarationError(f"got {show(text)}; allowed: a line of text", key)
        if "seed" not in self.fields:
            raise DeclarationError(
                "has no {seed}, so all seeds would be one run; write for example --seed {seed}", "command"
            )
        told = self.measured.file
        if "{out}" not in told:
            raise DeclarationError(f"got '{told}', where all runs would write; begin it with {{out}}/", "metric")
        if "out" not in self.fields and Path(told).name not in ("stdout.txt", "stderr.txt"):
            raise DeclarationError(
                "has no {out}, where the metric is to be written; or read it from {out}/stdout.txt", "command"
            )
        if self.curve is not None:
            Measured.parse(self.curve, "curve")
        seconds(self.timeout)
        if not self.name:
            own = [path for path in self._files() if path.parent == Path(self.directory)]
            object.__setattr__(self, "name", Path(next(iter(own), self.command.split()[0])).name)

    @property
    def fields(self) -> list[str]:
        """Names in braces, in order."""
        return list(dict.fromkeys(found for found in _FIELD.findall(self.command) if found))

    @property
    def measured(self) -> Measured:
        """Where the metric is."""
        return Measured.parse(self.metric, "metric")

    def line(self, values: Values, seed: Any, out: Path) -> str:
        """Return the line of one run."""
        texts = {name: text_of(value) for name, value in values.given.items()} | {"seed": str(seed), "out": str(out)}
        return _FIELD.sub(lambda found: shlex.quote(texts[found[1]]) if found[1] else found[0][0], self.command)

    # -- what a study asks of what it trains -------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, str]:
        """Digests of the files that the line names."""
        return {str(path): _digest(path) for path in self._files()}

    def _files(self) -> list[Path]:
        with contextlib.suppress(ValueError):  # a line that only a shell can split names what it names
            words = [word for word in shlex.split(self.command) if "{" not in word]
            return [path for word in words if (path := Path(self.directory) / word).is_file()]
        return []

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
        wanted = [name for name in self.fields if name not in _GIVEN]
        for arm, values in arms.items():
            for name in wanted:
                if name not in values.given:
                    raise DeclarationError(f"gives no '{name}', which the command names", f"arms.{arm}")
            for name in values.given:
                if name in _GIVEN or name not in wanted:
                    hint = "every run has its own" if name in _GIVEN else nearest(name, wanted)
                    raise DeclarationError(f"is no name in the command; {hint}", f"arms.{arm}.{name}")
            for shares in points:
                self.tuned(values, ranges, shares)

    def budgets(self, arms: Mapping[str, Any], baseline: str, equal: str | None) -> tuple[str | None, str, list[str]]:
        """What a run takes, is what was said of it."""
        if equal is not None:
            raise DeclarationError(f"got {equal}; of a command nobody counts what a run takes", "equal")
        return None, self.budget or "the end of each command", []

    def tuned(self, declared: Values, ranges: Mapping[str, Range], shares: Mapping[str, float]) -> Values:
        """The arm with every tuned value at its share of its range."""
        edits = {}
        for name, range_ in ranges.items():
            own = declared.given.get(name)
            if not is_number(own):
                told = f"holds {show(own)} and no number" if own is not None else nearest(name, declared.given)
                raise DeclarationError(told, f"tune.{name}")
            edits[name] = range_.apply(float(own), shares[name])  # type: ignore[arg-type]
        return declared.but(edits)

    def tuned_values(self, declared: Values, patterns: Sequence[str]) -> dict[str, float]:
        """The tuned values of an arm."""
        return {name: float(declared.given[name]) for name in patterns}

    def kept(self) -> AbstractContextManager[Any]:
        """Nothing is kept from run to run."""
        return contextlib.nullcontext()

    def placed(self, worker: int) -> None:
        """Give the commands of this worker one of several GPUs."""
        import torch

        if torch.cuda.is_available() and torch.cuda.device_count() > 1:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = seen.split(",") if seen else [str(n) for n in range(torch.cuda.device_count())]
            os.environ["CUDA_VISIBLE_DEVICES"] = names[worker % len(names)]

    def train(self, task: Task, store: Path) -> Outcome:
        """Run one task, or find it finished."""
        began = time.perf_counter()
        try:
            return self._trained(task, store / self.key(task))
        except Interrupted:
            raise
        except (OSError, RegimesError, ValueError) as why:
            told = "".join(traceback.format_exception(why))
            return Outcome.without_value(task, str(why), time.perf_counter() - began, traceback=told)

    def key(self, task: Task) -> str:
        """Digest of everything about a run that can be seen: its line, its files, where its metric is."""
        seen = {
            "line": self.line(task.declared, task.seed, Path("{out}")),
            "metric": self.metric,
            "curve": self.curve,
            "files": self.fingerprint(),
            "directory": str(self.directory),
        }
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]

    def _trained(self, task: Task, folder: Path) -> Outcome:
        attempts = Attempts(folder.resolve(), self.resumes)
        with attempts.locked() as lock:
            reused = (folder / "result.json").exists()
            if not reused:
                ended = attempts.ended()
                if ended is None or ended.code != 0:
                    out = attempts.next()
                    line = self.line(task.declared, task.seed, out)
                    ended = attempts.run(line, out, lock, Path(self.directory), seconds(self.timeout))
                write_json(folder / "result.json", self._result(ended))
            found = read_json(folder / "result.json")
        name = self.measured.name
        return Outcome(
            task, {name: _number(found["metric"])}, [{**row, name: _number(row[name])} for row in found["curve"]], [], {},
            None, None, found["seconds"], folder.name, reused,
        )  # fmt: skip

    def _result(self, ended: Ended) -> dict[str, Any]:
        """What a command that has ended left.

        Raises
        ------
        RegimesError
            If it failed, or left no number.
        """
        if ended.code != 0:
            said = tail(ended.out / "stderr.txt") or tail(ended.out / "stdout.txt")
            raise RegimesError(
                f"the command failed with exit status {ended.code}{f': {said}' if said else ''}; see {ended.out}"
            )
        place, name = self.measured, self.measured.name
        value = place.rows(ended.out)[-1][1]
        if not is_number(value):
            raise RegimesError(
                f"{place.file} holds {show(value)} under '{place.key}', which is no number; see {ended.out}"
            )
        curve = []
        if self.curve is not None:
            rows = Measured.parse(self.curve, "curve").rows(ended.out)
            steps = [number if step is None else step for number, (step, _) in enumerate(rows, 1)]
            curve = [{"step": step - 1, name: repr(float(v))} for step, (_, v) in zip(steps, rows) if is_number(v)]
        return {"metric": repr(float(value)), "curve": curve, "seconds": ended.seconds, "attempt": ended.out.name}


def _said(value: Any) -> str:
    return "-" if value is None else text_of(value)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _number(text: str) -> float:
    """JSON has no NaN: numbers are kept as text."""
    value = float(text)
    return value if math.isfinite(value) else math.nan
