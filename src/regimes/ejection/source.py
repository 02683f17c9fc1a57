"""How a script gets its workload: by name, by a function of the user's, or from the file that declares it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from regimes.core.errors import DeclarationError, show
from regimes.ejection.phase import NAMES
from regimes.ejection.text import literal
from regimes.engine.workload import Workload
from regimes.study.declarations import RunFile
from regimes.study.python_file import load
from regimes.study.specs import user_module

#: Import lines, and the expression that gives the workload.
Source = tuple[list[str], str]


def source_of(spec: Any) -> Source:
    """Return (imports, expression) by which a script gets the workload of a specification.

    Raises
    ------
    DeclarationError
        If it is no name and no mapping with a name: a Workload itself cannot be written down.
    """
    name, arguments = (spec, {}) if isinstance(spec, str) else (None, {})
    if isinstance(spec, dict) and isinstance(spec.get("name"), str):
        name, arguments = spec["name"], {key: value for key, value in spec.items() if key != "name"}
    if name is None:
        raise DeclarationError(
            f"got {show(spec)}; allowed in a script: what can be named, 'digits_mlp' or 'package.module:function', with "
            "its arguments in a mapping",
            "workload",
        )
    given = [f"{key}={literal(value)}" for key, value in arguments.items()]
    if ":" not in name:
        return ["import regimes as rg"], f"rg.workloads.load({', '.join([literal(name), *given])})"
    module, _, attribute = name.partition(":")
    first, *rest = attribute.split(".")
    own = f"own_{first}" if first in NAMES else first
    function = ".".join([own, *rest])
    line = f"from {module} import {first}" + (f" as {own}" if own != first else "")
    return [line], function if _is_workload(module, attribute) else f"{function}({', '.join(given)})"


def lies_beside(package: str) -> bool:
    """Whether a package is no installed one but the user's own code.

    Examples
    --------
    >>> lies_beside("torch"), lies_beside("regimes")
    (False, False)
    """
    found = find_spec(package)
    origin = (found.origin or "") if found is not None else ""
    return package != "regimes" and "site-packages" not in origin


def _is_workload(module: str, attribute: str) -> bool:
    found: Any = user_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return isinstance(found, Workload)


def source_of_file(file: RunFile) -> Source:
    """Return how a script gets the workload of a run file."""
    if file.workload_spec is not None:
        return source_of(file.workload_spec)
    if not file.path.stem.isidentifier():
        raise DeclarationError(f"got '{file.path.name}'; allowed: a file whose name can be imported", "workload")
    built = callable(load(file.path).workload)
    return [f"from {file.path.stem} import workload"], "workload()" if built else "workload"
