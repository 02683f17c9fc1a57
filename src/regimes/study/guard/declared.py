"""What a guard file asks, checked; and the command line that trains a version of it."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, show
from regimes.core.files import write_json
from regimes.study import places, skeleton, statistics, yaml_text
from regimes.study.command import Command
from regimes.study.command.values import Values
from regimes.study.design import check_better
from regimes.study.guard.versions import Version
from regimes.study.problems import Problems
from regimes.study.specs import load_workload

_WATCH = Path(__file__).resolve().parent / "watch"
#: Written in front of a guarded command: where it runs, whose code it imports, and what looks on.
_FRONT = """cd {regimes_tree} || exit 1
export PYTHONPATH={regimes_path}"${{PYTHONPATH:+:$PYTHONPATH}}" REGIMES_OUT={out} REGIMES_WATCH={regimes_watch}
export REGIMES_TREE={regimes_copy} REGIMES_ROOT={regimes_root} REGIMES_PACKAGES={regimes_packages}
"""
_RESERVED = "regimes_"


@dataclass(frozen=True)
class Question:
    """What a guard file asks.

    Parameters
    ----------
    path : Path
        Of the file.
    work : Command
        What is trained, as the file gives it: somebody's command, or the driver of a workload of ours.
    values : dict
        What the command's line is filled with.
    better : str
    own : bool
        Whether it is a workload of ours.
    settings : Guard
        Everything under ``guard:``.
    """

    path: Path
    work: Command
    values: dict[str, Any]
    better: str
    own: bool
    settings: Any

    @property
    def metric(self) -> str:
        """The name of what is judged."""
        return self.work.measured.name

    @property
    def seeds(self) -> list[int]:
        """The paired seeds."""
        given = self.settings.seeds
        return list(range(given)) if isinstance(given, int) else list(given)

    @property
    def watched_seed(self) -> int:
        """The seed whose runs are looked at step by step: the last, for code that forgot its seed often says 0."""
        return self.seeds[-1]

    def command(self, store: Path) -> Command:
        """The command that trains any version, run from the folder where versions are kept."""
        return replace(self.work, command=_FRONT + self.work.command, directory=store, name=self.work.name)

    def arm(self, version: Version, inner: Path, root: Path, watch: str) -> Values:
        """What the line of a version is filled with.

        Parameters
        ----------
        version : Version
        inner : Path
            The file's folder within a version.
        root : Path
            Of the repository: nothing may be imported from there.
        watch : str
            How its process is looked at: "time", "trace:100" or "none".
        """
        inside = version.tree / inner
        place = inside if self.own else inside / self.work.directory
        given = self.settings.pythonpath
        listed = [given] if isinstance(given, str) else given
        paths = [str((inside / name).resolve()) for name in listed if (inside / name).is_dir()]
        own = {"regimes_mode": watch} if self.own else {}
        return Values(
            self.values
            | {
                "regimes_tree": str(place),
                "regimes_copy": str(version.tree),
                "regimes_root": str(root),
                "regimes_path": ":".join([*paths, str(_WATCH)]),
                "regimes_watch": "none" if self.own else watch,
                "regimes_packages": _packages(),
            }
            | own
        )


def read(path: str | Path, store: Path, edits: Mapping[str, Any]) -> Question:
    """Read a guard file; of the workload and regime of a version, its own code has to make sense.

    Parameters
    ----------
    path : path
    store : Path
        Where the question for workloads of ours is written.
    edits : mapping
        Settings that replace the file's; None where nothing does.

    Raises
    ------
    FileErrors, DeclarationError
        With every problem found.
    """
    file = Path(path)
    if file.suffix not in (".yaml", ".yml"):
        raise DeclarationError(places.refused(f"got '{path}'; allowed: a file that ends in .yaml or .yml", file))
    if not file.is_file():
        raise DeclarationError(places.refused(f"there is no file '{path}'", file))
    problems = Problems(str(file))
    root = yaml_text.read(file.read_text(encoding="utf-8-sig"), str(file))
    if not isinstance(root.value, dict):
        problems.add("", f"got {show(root.data)}; allowed: a mapping with workload: and guard:", 1)
        problems.refuse()
    data = dict(root.data)
    if isinstance(data.get("guard"), dict):
        data["guard"] = data["guard"] | {name: value for name, value in edits.items() if value is not None}
    checked = skeleton.check(skeleton.GuardSkeleton, data, root, problems)
    problems.refuse()
    try:
        return _question(file, checked, store)
    except DeclarationError as why:
        problems.add(why.key, why.message, root.line_of(why.key))
        problems.refuse()
        raise


def _question(file: Path, checked: Any, store: Path) -> Question:
    settings, spec = checked.guard, checked.workload
    command = isinstance(spec, dict) and "command" in spec
    work = _theirs(file, checked) if command else _ours(checked, store)
    metric = work.measured.name
    if command:
        work.metric_name(settings.metric)
    try:
        better = check_better(metric, settings.better)
    except DeclarationError as why:
        raise why.within("guard") from None
    question = Question(file, work, dict(checked.values), better, not command, settings)
    if len(set(question.seeds)) != len(question.seeds):
        raise DeclarationError(f"got {show(question.seeds)}; allowed: different seeds", "guard.seeds")
    try:
        statistics.refuse_too_few(len(question.seeds), 1, settings.level)
    except ValueError as why:
        raise DeclarationError(str(why), "guard.seeds") from None
    return question


def _theirs(file: Path, checked: Any) -> Command:
    """Somebody's command; it is run in the version's copy of the file's folder, or of `directory` below it."""
    if checked.regime is not None:
        raise DeclarationError("stands beside a command; what a command takes is given under values:", "regime")
    folder = file.resolve().parent
    inner = Path(checked.workload.get("directory", "."))
    if not (folder / inner).resolve().is_relative_to(folder):
        raise DeclarationError(f"got '{inner}'; allowed: a folder below that of the file", "workload.directory")
    found: Command = load_workload({**checked.workload, "directory": folder / inner})
    for name in found.fields:
        if name.startswith(_RESERVED):
            raise DeclarationError(f"has {{{name}}}; names that begin with '{_RESERVED}' are ours", "workload.command")
    try:
        found.check({"values": Values(checked.values)}, {}, [])
    except DeclarationError as why:
        raise DeclarationError(why.message, why.key.removeprefix("arms.")) from None
    return replace(found, directory=inner)


def _ours(checked: Any, store: Path) -> Command:
    """The driver, with the declaration in a file of its own: the version reads it with its own code."""
    if checked.regime is None:
        raise DeclarationError("needs a value; write a mapping with optimizer:, batch_size: and budget:", "regime")
    if checked.values:
        raise DeclarationError("stands beside a regime; values are those of a command's line", "values")
    asked = {"workload": checked.workload, "regime": checked.regime, "modules": checked.modules}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    file = store.resolve() / f"question-{digest}.yaml"
    if not file.is_file():
        store.mkdir(parents=True, exist_ok=True)
        write_json(file, asked)  # JSON is YAML
    metric = checked.guard.metric or "val/loss"
    if metric.partition("/")[0] not in ("val", "test"):
        raise DeclarationError(f"got '{metric}'; allowed: a metric with its split, such as 'val/loss'", "guard.metric")
    fixed = (
        shlex.join([sys.executable, str(_WATCH / "regimes_driver.py"), str(file)]).replace("{", "{{").replace("}", "}}")
    )
    name = checked.workload if isinstance(checked.workload, str) else checked.workload.get("name", "workload")
    line = f"{fixed} {{seed}} {{out}} {shlex.quote(metric)} {{regimes_mode}}"
    return Command(line, f"{{out}}/metrics.json:{metric}", name=str(name), directory=".")


def _packages() -> str:
    """Digest of Python and of all packages that are installed: other ones may give other runs."""
    found = sorted(f"{one.metadata['Name']} {one.version}" for one in metadata.distributions())
    return hashlib.sha256("\n".join([sys.version, *found]).encode()).hexdigest()[:12]
