"""Declaration files, YAML or Python, become values: what is trained, how, and what is compared.

A run file has ``workload``, ``regime`` and optionally ``seed``, ``options``, ``modules``; a file to compare has
``workload``, ``arms``, ``compare`` and optionally ``tune``, ``modules``. In a Python file these are its own names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from regimes.core.errors import DeclarationError
from regimes.study import places, python_file, yaml_file
from regimes.study.declarations import CompareFile, RunFile
from regimes.study.edits import edited
from regimes.study.specs import importable, load_workload
from regimes.study.yaml_file import read_yaml

__all__ = ["CompareFile", "RunFile", "read", "read_yaml"]


def read(path: str | Path, edits: Sequence[str] = (), *, workload: bool = True) -> RunFile | CompareFile:
    """Read a declaration file, all of it checked before anything is spent.

    Parameters
    ----------
    path : str or Path
        Ends in .yaml, .yml or .py.
    edits : sequence of str
        ``path=value``, applied to the regime, or to every arm that has the path; ``arm:path=value`` for one arm.
    workload : bool
        Build the workload, too.

    Returns
    -------
    RunFile or CompareFile

    Raises
    ------
    FileErrors
        With every problem found, its line and key.
    UserCodeError
        If a Python file, or the function of a workload, fails.
    """
    file = Path(path)
    if file.suffix not in places.SUFFIXES:
        raise DeclarationError(places.refused(f"got '{path}'; allowed: a file that ends in .yaml, .yml or .py", file))
    if not file.is_file():
        raise DeclarationError(places.refused(f"there is no file '{path}'", file))
    importable(file.resolve().parent, Path.cwd())
    reader = python_file if file.suffix == ".py" else yaml_file
    found = edited(reader.read_file(file), edits)
    if workload and found.workload is None:
        with found.located(""):
            return replace(found, workload=load_workload(found.workload_spec))
    return found
