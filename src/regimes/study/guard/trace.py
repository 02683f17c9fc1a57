"""Where two runs first differ: the step, and the part of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from regimes.study.guard.watch.regimes_watch import TRACE

#: Parts of a step, in words.
PARTS = {
    "data": "the data",
    "knobs": "the knobs",
    "loss": "the loss (forward)",
    "gradient": "the gradient (backward)",
    "transformed": "the gradient transforms",
    "settings": "the optimizer's settings",
    "weights": "`optimizer.step`",
    "record": "the record",
    "metrics": "the final metrics",
}
#: So many labels of a part that differs are named.
_NAMED = 3

Entry = Sequence[str]


class Place(NamedTuple):
    """Where two runs first differ.

    Parameters
    ----------
    step : int
        Counted from 0.
    part : str
        In words.
    detail : str
        What of it: parameters, settings with both values.
    """

    step: int
    part: str
    detail: str

    def __str__(self) -> str:
        return f"the first step that differs is {self.step}, in {self.part}{f' ({self.detail})' if self.detail else ''}"


def read(out: Path) -> list[dict[str, Any]]:
    """Return the rows that a traced run left in its folder; none where nothing could be seen of it."""
    file = out / TRACE
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def steps(rows: Sequence[dict[str, Any]]) -> int:
    """How many steps a trace tells of; a last row with the final metrics is none."""
    return sum("metrics" not in row["parts"] for row in rows)


def first_difference(base: Sequence[dict[str, Any]], head: Sequence[dict[str, Any]]) -> Place | None:
    """Return where two traces first differ; None where they do not.

    The parts of a row stand in the order of the step; the first that differs is the cause, what follows from it is
    not. Entries of a part are known by key and value: labels, which a renaming changes, only tell. A part that only
    one of the two tells of is passed over: what follows from it is in the others.

    Examples
    --------
    >>> def row(step, **parts):
    ...     return {"step": step, "parts": {name: [["w", "", value]] for name, value in parts.items()}}
    >>> base = [row(0, loss="2.5", weights="a"), row(1, loss="2.1", weights="b")]
    >>> print(first_difference(base, [base[0], row(1, loss="2.1", weights="c")]))
    the first step that differs is 1, in `optimizer.step` (w)
    >>> first_difference(base, base), str(first_difference(base, base[:1]))
    (None, 'the first step that differs is 1, in how many steps there are (2 and 1)')
    """
    for one, other in zip(base, head):
        for part in (part for part in one["parts"] if part in other["parts"]):
            found = _differing(one["parts"][part], other["parts"][part])
            if found is not None:
                return Place(one["step"], _words(part, one["step"]), _detail(part, *found))
    if len(base) != len(head):
        step = min(len(base), len(head))
        return Place(step, "how many steps there are", f"{len(base)} and {len(head)}")
    return None


def _words(part: str, step: int) -> str:
    if part == "before":
        return "the weights between two steps" if step else "the initial weights"
    return PARTS[part]


def _differing(base: list[Entry], head: list[Entry]) -> tuple[list[Entry], list[Entry]] | None:
    """Entries of each that the other does not have; None where there are none."""
    left, right = (Counter((key, value) for _, key, value in entries) for entries in (base, head))
    if left == right:
        return None
    return _without(base, right), _without(head, left)


def _without(entries: list[Entry], others: Counter[tuple[str, str]]) -> list[Entry]:
    rest, found = Counter(others), []
    for entry in entries:
        content = (entry[1], entry[2])
        if rest[content]:
            rest[content] -= 1
        else:
            found.append(entry)
    return found


def _detail(part: str, base: list[Entry], head: list[Entry]) -> str:
    if part == "settings":
        return _settings(base, head)
    if part in ("loss", "knobs", "data", "metrics") and len(base) == len(head) == 1:
        lead = "" if part == "loss" else f"{head[0][0]}: "
        return f"{lead}{base[0][2]} -> {head[0][2]}"
    if part == "record":
        return _record(base, head)
    names = list(dict.fromkeys(entry[0] for entry in (head or base)))
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _settings(base: list[Entry], head: list[Entry]) -> str:
    """Which settings of which parameters: of parameters, which are known by content, the same one on both sides."""
    told: dict[str, list[str]] = {}
    before = {entry[1]: json.loads(entry[2]) for entry in base}
    for name, key, text in head:
        old, new = before.get(key, {}), json.loads(text)
        for setting in new:
            if old and old.get(setting) != new[setting]:
                told.setdefault(f"`{setting}` {old.get(setting)} -> {new[setting]}", []).append(name)
    parts = []
    for change, names in list(told.items())[:_NAMED]:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        parts.append(f"{change} of {', '.join(names[:_NAMED])}{more}")
    return "; ".join(parts)


def _record(base: list[Entry], head: list[Entry]) -> str:
    old, new = (json.loads(entries[0][2]) if entries else {} for entries in (base, head))
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return "; ".join(f"`{name}` {old.get(name)} -> {new.get(name)}" for name in names[:_NAMED])
