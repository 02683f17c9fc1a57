"""What a declaration file holds, once it is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError
from regimes.core.regime import Regime
from regimes.study.problems import FileErrors, Problem
from regimes.study.yaml_text import Node

#: Keys of `regimes.run` and `regimes.compare` that a file gives under a key of their own.
_OPTIONS = dict.fromkeys(("checkpoint", "give_up", "max_time", "probes", "reduce", "validate"), "options")
_SETTINGS = dict.fromkeys(
    (
        "baseline",
        "metric",
        "better",
        "margin",
        "seeds",
        "trials",
        "equal",
        "level",
        "until",
        "max_cost",
        "name",
        "validate",
    ),
    "compare",
)


@dataclass(frozen=True)
class _Declared:
    """What both kinds of files have.

    Parameters
    ----------
    workload : Workload or None
        None where it was not asked for.
    workload_spec : str, dict or None
        What builds the workload again; None where only the Python file itself does.
    path : Path
    root : Node or None
        The tree of a YAML file, for lines.
    """

    workload: Any
    workload_spec: Any
    path: Path
    root: Node | None = field(repr=False, compare=False)

    @contextlib.contextmanager
    def located(self, lead: str) -> Iterator[None]:
        """Inside, what the engine refuses below the key `lead` is refused with the file's line."""
        try:
            yield
        except FileErrors:
            raise
        except DeclarationError as why:
            head = why.key.split(".")[0]
            section = {"regime": _OPTIONS, "": _SETTINGS}.get(lead, {}).get(head, lead)
            key = ".".join(part for part in (section, why.key) if part)
            line = None if self.root is None else self.root.line_of(key)
            raise FileErrors(str(self.path), [Problem(line, key, why.message)]) from None


@dataclass(frozen=True)
class RunFile(_Declared):
    """What ``regimes run`` needs, beside what every file has.

    Parameters
    ----------
    regime : Regime
    seed : int
    options : dict
        Keyword arguments of `regimes.run`.
    """

    regime: Regime
    seed: int
    options: dict[str, Any]


@dataclass(frozen=True)
class CompareFile(_Declared):
    """What ``regimes compare`` needs, beside what every file has.

    Parameters
    ----------
    arms : dict of str to Regime
    settings : dict
        Keyword arguments of `regimes.compare`, ``tune`` among them.
    """

    arms: dict[str, Regime]
    settings: dict[str, Any]
