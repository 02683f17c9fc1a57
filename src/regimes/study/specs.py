"""A workload by its specification: a built-in name, ``package.module:function``, or a mapping with arguments."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, UserCodeError, nearest, show
from regimes.core.registry import USER_MODULES


def importable(*folders: Path) -> None:
    """Let modules in these folders be imported, after everything that is importable already."""
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)


def load_workload(spec: Any) -> Any:
    """Return the workload that a specification names.

    Parameters
    ----------
    spec : str or mapping
        ``char_lm``, ``package.module:function``, a mapping with ``name`` and arguments of the function, or one with
        ``command`` and the rest of a `Command`.

    Raises
    ------
    DeclarationError
        If there is no such workload, or it does not take an argument.
    UserCodeError
        If the user's function, or the import of its module, fails.
    """
    if isinstance(spec, Mapping) and "command" in spec:
        return _command(spec)
    if isinstance(spec, str):
        name, arguments = spec, {}
    elif isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        name, arguments = spec["name"], {key: value for key, value in spec.items() if key != "name"}
    else:
        raise DeclarationError(f"got {show(spec)}; allowed: a name, or a mapping with name: and arguments", "workload")
    if ":" not in name:
        from regimes import workloads

        if name not in workloads.names():
            hint = nearest(name, workloads.names())
            raise DeclarationError(f"there is no workload '{name}'; {hint}, or package.module:function", "workload")
        return workloads.load(name, **arguments)
    return _called(_function(name), name, arguments)


def _command(spec: Mapping[str, Any]) -> Any:
    from regimes.study.command import Command, declared

    for why in (*declared.unknown(spec), *declared.faults_of(spec)):
        raise why.within("workload")
    return Command(**spec)


def workload_in(spec: Any, folders: tuple[str, ...]) -> Any:
    """Build a workload whose modules lie in `folders`: what a worker process does."""
    importable(*map(Path, folders))
    with said_before():
        return load_workload(spec)


@contextlib.contextmanager
def said_before() -> Iterator[None]:
    """Inside, warnings are dropped: the study's own process built the same workload, and has shown them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def user_module(name: str) -> Any:
    """Import a module that the user named; the notation may then name its classes.

    Raises
    ------
    DeclarationError
        If there is none of that name.
    UserCodeError
        If it fails while it is imported.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        raise DeclarationError(f"got {show(name)}; allowed: the name of a module, such as package.module")
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as why:
        if why.name is not None and (name == why.name or name.startswith(f"{why.name}.")):
            raise DeclarationError(
                f"there is no module '{name}' here; it has to be installed, or lie in this folder or beside the file"
            ) from None
        raise UserCodeError(f"importing {name} failed: {why}") from why
    except RegimesError:
        raise
    except Exception as why:
        raise UserCodeError(f"importing {name} failed: {type(why).__name__}: {why}") from why
    USER_MODULES.add(name)
    return found


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = user_module(module)
    except DeclarationError as why:
        raise DeclarationError(why.message, "workload") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            options = [key for key in vars(found) if not key.startswith("_")] if hasattr(found, "__dict__") else []
            raise DeclarationError(f"'{module}' has no '{attribute}'; {nearest(part, options)}", "workload")
        found = getattr(found, part)
    return found


def _called(function: Any, name: str, arguments: dict[str, Any]) -> Any:
    from regimes.engine.workload import Workload

    if isinstance(function, Workload) and not arguments:
        return function
    if not callable(function):
        raise DeclarationError(f"'{name}' is {show(function)}; allowed: a function that returns a Workload", "workload")
    _check_arguments(function, name, arguments)
    try:
        made = function(**arguments)
    except RegimesError:
        raise
    except Exception as why:
        raise UserCodeError(f"building the workload {name} failed: {type(why).__name__}: {why}") from why
    if not isinstance(made, Workload):
        raise DeclarationError(f"'{name}' returned {show(made)}; allowed: a Workload", "workload")
    return made


def _check_arguments(function: Any, name: str, arguments: dict[str, Any]) -> None:
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    takes = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        for key in arguments:
            if key not in takes:
                hint = nearest(key, takes) if takes else "it takes no arguments"
                raise DeclarationError(f"'{name}' takes no argument '{key}'; {hint}", f"workload.{key}")
    try:
        signature.bind(**arguments)
    except TypeError as why:
        raise DeclarationError(f"'{name}': {why}", "workload") from None
