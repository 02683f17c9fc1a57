"""Conditions on parameters in a script: patterns of names, and the predicates of groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from regimes.ejection.text import literal
from regimes.optimizers.groups import PREDICATES


def pattern(match: str) -> str:
    """Return the condition that ``name`` matches a pattern.

    Examples
    --------
    >>> pattern("*.bias"), pattern("encoder.*"), pattern("*.ln?.*")
    ('name.endswith(".bias")', 'name.startswith("encoder.")', 'fnmatch.fnmatchcase(name, "*.ln?.*")')
    """
    inner = match.strip("*")
    if any(char in inner for char in "*?["):
        return f"fnmatch.fnmatchcase(name, {literal(match)})"
    if match == f"*{inner}":
        return f"name.endswith({literal(inner)})"
    if match == f"{inner}*":
        return f"name.startswith({literal(inner)})"
    return f"{literal(inner)} in name" if match == f"*{inner}*" else f"name == {literal(match)}"


def any_pattern(matches: Iterable[str]) -> str:
    """Return the condition that ``name`` matches one of several patterns; empty where all names do.

    Examples
    --------
    >>> any_pattern(["0.*", "1.*", "head"])
    'name.startswith(("0.", "1.")) or name == "head"'
    """
    matches = list(matches)
    return "" if "*" in matches else either(map(pattern, matches))


def either(conditions: Iterable[str]) -> str:
    """Return the condition that one of several holds; ends of names that are asked for alike are asked for at once."""
    ends: dict[str, list[str]] = {}
    for condition in conditions:
        head, _, rest = condition.partition("with(")
        ends.setdefault(f"{head}with" if rest else condition, []).append(rest[:-1])
    joined = []
    for head, found in ends.items():
        several = f"({', '.join(found)})" if len(found) > 1 else found[0]
        joined.append(f"{head}({several})" if several else head)
    return " or ".join(joined)


def both(conditions: Iterable[str]) -> str:
    """Return the condition that all of several hold, empty ones being true."""
    held = [condition for condition in conditions if condition]
    return held[0] if len(held) == 1 else " and ".join(f"({c})" if " or " in c else c for c in held)


def group(own: Any, named: Mapping[str, Tensor], roles: Mapping[str, str]) -> str:
    """Return the condition of a group on ``name`` and ``p``, empty where it takes all.

    Parameters
    ----------
    own : Group
    named : mapping of str to Tensor
        The trained parameters.
    roles : mapping of str to str
    """
    parts = []
    for alternative in own.alternatives():
        if alternative == "*":
            return ""
        if not alternative.startswith("@"):
            if any(fnmatch.fnmatchcase(name, alternative) for name in named):
                parts.append(pattern(alternative))
            continue
        found = [name for name, p in named.items() if PREDICATES[alternative](p, roles.get(name, ""))]
        if found:
            parts.append(_predicate(alternative, found, named))
    return either(parts)


def _predicate(which: str, found: list[str], named: Mapping[str, Tensor]) -> str:
    if which == "@vectors":
        return "p.ndim < 2"
    if which == "@matrices":
        others = [name for name, p in named.items() if p.ndim >= 2 and name not in found]
        return "p.ndim >= 2" + (f" and name not in {literal(tuple(others))}" if others else "")
    return f"name in {literal(tuple(found))}" if len(found) > 1 else f"name == {literal(found[0])}"
