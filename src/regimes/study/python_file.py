"""A Python file as a declaration: imported by its path, under a private name."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, UserCodeError, show
from regimes.core.regime import Regime
from regimes.core.registry import USER_MODULES
from regimes.study import skeleton
from regimes.study.declarations import CompareFile, RunFile
from regimes.study.problems import FileErrors, Problem, Problems
from regimes.study.ranges import Range
from regimes.study.settings import check_comparison, options_of, range_of, settings_of


def load(file: str | Path) -> ModuleType:
    """Import a file; the same file has the same module name in every process, so that workers find its classes.

    Raises
    ------
    FileErrors
        For a syntax error, or a declaration that is refused, with the file's line.
    UserCodeError
        If the file fails otherwise.
    """
    path = Path(file).resolve()
    name = f"_regimes_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    USER_MODULES.add(name)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as why:
        raise FileErrors(str(file), [Problem(why.lineno, "", f"is no Python: {why.msg}")]) from None
    except DeclarationError as why:
        raise FileErrors(str(file), [Problem(_line(why, path), why.key, why.message)]) from why
    except RegimesError:
        raise
    except Exception as why:
        said = f"{file}:{_line(why, path)}: {type(why).__name__}: {why}"
        raise UserCodeError(said) from why
    return module


def _line(why: BaseException, path: Path) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(why.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def workload(value: Any) -> Any:
    """Return the Workload that a file's ``workload`` is, builds or names.

    Raises
    ------
    DeclarationError
        If it is none of these.
    UserCodeError
        If building it fails.
    """
    from regimes.engine.workload import Workload
    from regimes.study.command import Command
    from regimes.study.specs import load_workload

    if isinstance(value, str | Mapping):
        return load_workload(value)
    made = value
    if callable(value) and not isinstance(value, Workload | Command):
        try:
            made = value()
        except RegimesError:
            raise
        except Exception as why:
            raise UserCodeError(f"building the workload failed: {type(why).__name__}: {why}") from why
    if not isinstance(made, Workload | Command):
        raise DeclarationError(f"got {show(made)}; allowed: a Workload, or a function that builds one", "workload")
    return made


def workload_of(file: str) -> Any:
    """Import a file and return its workload: what a worker process does."""
    from regimes.study.specs import said_before

    with said_before():
        return workload(load(file).workload)


def read_file(file: Path) -> RunFile | CompareFile:
    """Read a Python file; its workload is built where it is not only named.

    Raises
    ------
    FileErrors
        With every problem found.
    UserCodeError
        If the file fails.
    """
    module, problems = load(file), Problems(str(file))
    names = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    spec = names.get("workload")
    if spec is None:
        problems.add("workload", "needs a value: a Workload, a function that builds one, or a name")
    if "arms" in names or isinstance(names.get("compare"), Mapping):
        return _python_comparison(file, names, spec, problems)
    regime = names.get("regime")
    if not isinstance(regime, Regime):
        got = "needs a value" if regime is None else f"got {show(regime)}"
        problems.add("regime", f"{got}; write regime = Regime(...), or arms = {{...}} and compare = {{...}}")
    given = names.get("options", {})
    probes = given.get("probes", ()) if isinstance(given, Mapping) else ()
    if isinstance(given, Mapping):
        given = {name: value for name, value in given.items() if name != "probes"}
    data = {"workload": "-", "regime": "-", "seed": names.get("seed", 0), "options": given}
    checked = skeleton.check(skeleton.RunSkeleton, data, None, problems)
    problems.refuse()
    assert isinstance(regime, Regime)
    options = options_of(checked.options, problems, None, tuple(probes))
    problems.refuse()
    made, text = _python_workload(spec)
    return RunFile(made, text, file, None, regime, checked.seed, options)


def _python_comparison(file: Path, names: dict[str, Any], spec: Any, problems: Problems) -> CompareFile:
    arms, given = names.get("arms"), names.get("compare")
    if not isinstance(arms, Mapping) or not arms:
        problems.add("arms", f"got {show(arms)}; allowed: a dict of names to regimes")
        arms = {}
    commanded = (isinstance(spec, Mapping) and "command" in spec) or type(spec).__name__ == "Command"
    for name, arm in arms.items():
        if not isinstance(arm, Mapping if commanded else Regime):
            allowed = "a dict of the command's names" if commanded else "a Regime"
            problems.add(f"arms.{name}", f"got {show(arm)}; allowed: {allowed}")
    settings: dict[str, Any] = {}
    if isinstance(given, Mapping):
        checked = skeleton.check(skeleton.Settings, dict(given), None, problems, "compare")
        ranges = names.get("tune", {})
        if not isinstance(ranges, Mapping):
            problems.add("tune", f"got {show(ranges)}; allowed: a dict of path patterns to ranges")
            ranges = {}
        found = {pattern: range_of(value) for pattern, value in ranges.items()}
        for pattern, range_ in found.items():
            if not isinstance(range_, Range):
                problems.add(f"tune.{pattern}", range_)
        problems.refuse()
        settings = settings_of(checked, {p: r for p, r in found.items() if isinstance(r, Range)}, problems, None)
    else:
        problems.add("compare", f"got {show(given)}; allowed: a dict with at least margin")
    problems.refuse()
    check_comparison(dict(arms), settings, problems, None)
    made, text = _python_workload(spec)
    return CompareFile(made, text, file, None, dict(arms), settings)


def _python_workload(spec: Any) -> tuple[Any, Any]:
    """Return (workload, spec): a name or mapping builds it again, anything else only the file itself."""
    if isinstance(spec, str | Mapping):
        return None, spec if isinstance(spec, str) else dict(spec)
    return workload(spec), None
