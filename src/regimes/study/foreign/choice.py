"""Which rows are judged: those that a person asks for, under names that its pattern takes from the runs' own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show
from regimes.study.foreign.rows import Rows, cell, number_of


def chosen(
    found: Rows, where: Mapping[str, Any], pattern: str | None, unfinished: str | None
) -> tuple[Rows, list[str]]:
    """Return the rows that are judged, and what to say of those that are not.

    Conditions on columns that there are come first, then the pattern, then conditions on what it has named.

    Raises
    ------
    DeclarationError
        As of `regimes.verdict`.
    """
    asked = {name: value for name, value in where.items() if name in found.columns}
    found = _where(found, asked)
    if pattern is not None:
        found = _matched(found, pattern)
    for name in where:
        if name not in found.columns:
            raise DeclarationError(f"there is no column '{name}'; {nearest(str(name), found.columns)}", "where")
    found = _where(found, {name: value for name, value in where.items() if name not in asked})
    found, said = _ended(found, unfinished)
    return found, [*found.notes, *said]


def _where(found: Rows, where: Mapping[str, Any]) -> Rows:
    rows = [row for row in found.rows if all(_same(row.get(name), value) for name, value in where.items())]
    if not rows:
        raise DeclarationError(f"no row has {show(dict(where))}", "where")
    return replace(found, rows=rows)


def _same(content: Any, wanted: Any) -> bool:
    """Whether a cell is what is wanted, as a value or as a text; a number may be told by a text that reads as it."""
    if content is None and isinstance(wanted, str):
        return cell(wanted) is None
    same = content == wanted or str(content) == str(wanted)
    return bool(same or (not isinstance(content, str) and content == number_of(wanted)))


def _matched(found: Rows, pattern: str) -> Rows:
    """The rows with a column per named group of the pattern."""
    try:
        names = re.compile(pattern)
    except (re.error, TypeError) as why:
        raise DeclarationError(f"got {show(pattern)}, which is no pattern: {why}", "pattern") from None
    if "run" not in found.columns:
        raise DeclarationError("there is no column 'run' whose names it could fit", "pattern")
    taken = [name for name in names.groupindex if name in found.columns]
    if not names.groupindex or taken:
        allowed = "named groups, such as (?P<seed>\\d+)" + (", called otherwise than a column" if taken else "")
        raise DeclarationError(f"got {show(pattern)}; allowed: {allowed}", "pattern")
    parts: dict[Any, dict[str, Any]] = {}
    for run in dict.fromkeys(row.get("run") for row in found.rows):
        match = names.fullmatch(str(run))
        if match is None:
            raise DeclarationError(f"got {show(pattern)}, which run '{run}' does not fit as a whole", "pattern")
        parts[run] = {name: cell(text) for name, text in match.groupdict().items()}
    return replace(found, rows=[row | parts[row.get("run")] for row in found.rows])


def _ended(found: Rows, unfinished: str | None) -> tuple[Rows, list[str]]:
    """The rows that are judged where some runs did not end as they should."""
    if unfinished not in (None, "used", "missing"):
        raise DeclarationError(f"got {show(unfinished)}; allowed: 'used' or 'missing'", "unfinished")
    runs = dict.fromkeys(row.get("run") for row in found.rows)
    broken = {run: found.unfinished[run] for run in runs if run in found.unfinished}
    if not broken:
        return found, []
    told = "; ".join(f"{run} ({why})" for run, why in broken.items())
    if unfinished is None:
        raise DeclarationError(
            f"some runs did not end as they should: {told}; say what is done with them: 'used' (judged at what there is) or "
            "'missing' (left out, which flatters an arm whose runs fail)",
            "unfinished",
        )
    if unfinished == "used":
        return found, [f"did not end as they should, and are judged at what there is: {told}"]
    rows = [row for row in found.rows if row.get("run") not in broken]
    if not rows:
        raise DeclarationError(f"got 'missing', but no run has ended: {told}", "unfinished")
    return replace(found, rows=rows), [f"did not end as they should, and are left out: {told}"]
