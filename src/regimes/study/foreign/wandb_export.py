"""Tables that Weights & Biases exports: of runs, with their state, or of the curves of a chart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from regimes.study.foreign.rows import Rows

#: What it calls a run that ended as it should.
_ENDED = "finished"


def told(found: Rows) -> Rows:
    """Return a table with what such an export says in its own form; any other table as it is.

    A table of runs has the columns Name and State. A chart has a column of steps, and per run three columns: of the
    metric, and of the least and greatest value that were drawn as one point.

    Raises
    ------
    ValueError
        If two rows of a table of runs have one name.

    Examples
    --------
    >>> runs = Rows([{"Name": "a", "State": "finished"}, {"Name": "b", "State": "crashed"}], "export.csv")
    >>> told(runs).unfinished
    {'b': 'wandb calls it crashed'}
    >>> chart = {"Step": 5, "a - val/loss": 2.0, "a - val/loss__MIN": 2.0, "a - val/loss__MAX": 2.0}
    >>> told(Rows([chart], "chart.csv")).rows
    [{'run': 'a', 'Step': 5, 'val/loss': 2.0}]
    """
    columns = set(found.columns)
    if {"Name", "State"} <= columns:
        rows = [{"run": row["Name"]} | row for row in found.rows] if "run" not in columns else found.rows
        _refuse_repeated([row["run"] for row in rows])
        broken = {r["run"]: f"wandb calls it {r['State']}" for r in rows if r["State"] != _ENDED}
        return replace(found, rows=rows, unfinished=broken)
    drawn = [name for name in found.columns if {f"{name}__MIN", f"{name}__MAX"} <= columns]
    steps = [name for name in found.columns if not re.search(r"__M(IN|AX)$", name) and name not in drawn]
    if not drawn or len(steps) != 1:
        return found
    return replace(found, rows=_curves(found, drawn, steps[0]), step=steps[0])


def _refuse_repeated(names: Sequence[Any]) -> None:
    """A state is told of a run by its name: of two of one name, one would be told of the other."""
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if twice:
        raise ValueError(
            f"run '{twice[0]}' stands in {list(map(str, names)).count(twice[0])} rows, and nobody can say whose state is "
            "whose; give runs names of their own"
        )


def _curves(found: Rows, drawn: list[str], step: str) -> list[dict[str, Any]]:
    """A row per run and step."""
    rows = []
    for column in drawn:
        run, _, metric = column.rpartition(" - ")
        rows += [{"run": run, step: row[step], metric: row[column]} for row in found.rows if row[column] is not None]
    return rows
