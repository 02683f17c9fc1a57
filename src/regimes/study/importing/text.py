"""What was imported, as a run file and as lists."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from regimes.core import fields
from regimes.core.regime import Phase

_WIDTH = 120


def lists(found: Any) -> list[str]:
    """Return the lines that say what is different and what is not carried."""
    lines = []
    for title, keys in (("different", found.different), ("not carried", found.left)):
        if keys:
            lines += [f"{title}:", *(f"  {key}" for key in keys)]
    return lines


def yaml(found: Any, workload: str | None) -> str:
    """Return the run file of an `Imported`."""
    lines = [f"# What {found.source} says, by `regimes import`."]
    for line in lists(found):
        lines += textwrap.wrap(line, _WIDTH, initial_indent="# ", subsequent_indent="#     ", break_on_hyphens=False)
    if workload is None:
        lines += [
            "# What is trained: a built-in name, or package.module:function that returns a regimes.Workload.",
            "workload:",
        ]
    else:
        lines += [f"workload: {_quoted(workload)}"]
    lines += [f"seed: {found.seed}", "regime:", *_regime(found.regime)]
    if found.options:
        lines += ["options:", *(f"  {name}: {value}" for name, value in found.options.items())]
    return "\n".join([*lines, ""])


def _regime(regime: Any) -> list[str]:
    """A field a line: those of an empty phase are left out."""
    (phase,) = regime.phases
    plain = Phase(optimizer=phase.optimizer, batch_size=phase.batch_size).completed({})
    lines = [f"  budget: {regime.budget}"]
    for name in fields.table(Phase):
        value = getattr(phase, name)
        if name in ("name", "budget") or (
            fields.same(value, getattr(plain, name)) and name not in ("optimizer", "batch_size")
        ):
            continue
        shown = str(value) if isinstance(value, int | str) or name == "evaluate" else _quoted(fields.printed(value))
        lines += _wrapped(f"{name}: {shown}")
    return lines


def _wrapped(line: str) -> list[str]:
    """Lines of notation, broken between arguments: YAML reads a break as the space that it stands for."""
    held = re.sub("'[^']*'", lambda text: text[0].replace(" ", "\0"), line)
    broken = textwrap.wrap(
        held, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return [part.replace("\0", " ") for part in broken]


def _quoted(value: str) -> str:
    """Notation has single quotes inside; what holds others is written the other way."""
    if '"' in value or "\\" in value:
        return "'" + value.replace("'", "''") + "'"
    return f'"{value}"'
