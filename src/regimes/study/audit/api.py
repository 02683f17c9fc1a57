"""Audit past runs: which conclusions stand, which reverse on other seeds, which were never decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, ResumeError, show
from regimes.study import places
from regimes.study.audit import reruns, words
from regimes.study.audit.gathered import Gathered, gather
from regimes.study.audit.implied import STANDINGS, Implied, implied


class Audit:
    """What the runs below a folder show: print it, or read `to_dict()`."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    @property
    def comparisons(self) -> list[dict[str, Any]]:
        """The implied comparisons, those that stand first."""
        return list(self._facts["comparisons"])

    @property
    def reruns(self) -> list[dict[str, Any]]:
        """What to run, most comparisons decided per second first."""
        return list(self._facts["reruns"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return self._facts

    def __str__(self) -> str:
        return words.text(self._facts)

    def __repr__(self) -> str:
        return f"Audit({words.sentence(self._facts)!r})"


def audit(
    path: str | Path = "runs",
    *,
    metric: str | None = None,
    margin: float | None = None,
    better: str | None = None,
    level: float = 0.95,
    differ: int = 2,
) -> Audit:
    """Say which comparisons past runs implied, which of their conclusions stand, and what would settle the others.

    Two regimes that were trained on one workload, with equal data, budget and program, imply a comparison where they
    differ in little, or where a study compared them. Each is judged on the seeds that both have, by the intervals of
    `regimes.compare`, simultaneous over all of them.

    Parameters
    ----------
    path : path
        The folder below which the runs lie. Default "runs".
    metric : str, optional
        Default: that of the studies there, else the loss on test, where there is one, or val.
    margin : float, optional
        The smallest difference that matters. Default: that of the studies there; without one it has to be said.
    better : "lower" or "higher", optional
        Default: lower for losses; must be said for anything else.
    level : float
        Simultaneous confidence over all comparisons. Default 0.95.
    differ : int
        In how many paths two regimes may differ to be compared, where no study compared them. Default 2.

    Returns
    -------
    Audit
        Every comparison **stands**, **reverses on other seeds** (undecided, and the first seed says the opposite of
        another), was **never decided**, has **one run each** or **no common seed**.

    Raises
    ------
    DeclarationError
        If nothing says which difference matters.
    ResumeError
        If there are no finished runs.
    """
    root = Path(path)
    if not root.is_dir():
        raise ResumeError(places.refused(f"there is no folder {path}", path))
    if not isinstance(differ, int) or isinstance(differ, bool) or differ < 1:
        raise DeclarationError(f"got {show(differ)}; allowed: 1 or more", "differ")
    found = gather(root)
    judged = implied(found, metric, margin, better, level, differ)
    return Audit(_facts(root, found, judged, level))


def _facts(root: Path, found: Gathered, judged: list[Implied], level: float) -> dict[str, Any]:
    ordered = sorted(judged, key=lambda one: STANDINGS.index(one.standing))
    proposed = reruns.propose(ordered, found.groups)
    judged_before = any(one.comparison is not None for rerun in proposed for one in rerun.settles)
    return {
        "schema": 1,
        "folder": str(root),
        "runs": found.runs,
        "regimes": len({name for group in found.groups for name in group.by_name}),
        "level": level,
        "family": sum(one.comparison is not None for one in judged),
        "comparisons": [_told(one, judged) for one in ordered],
        "reruns": reruns.told(proposed),
        "notes": [*found.said, *([reruns.KEEPS_LEVEL] if judged_before else [])],
    }


def _told(one: Implied, judged: list[Implied]) -> dict[str, Any]:
    base, arm, group = one.base, one.arm, one.group
    return {
        "standing": one.standing,
        "workload": group.workload,
        "data": group.data,
        "budget": group.budget,
        "context": one.context,
        "metric": one.design.metric,
        "better": one.design.better,
        "margin": one.design.margin,
        "baseline": repr(base.declared),
        "arm": repr(arm.declared),
        "changes": one.changes,
        "seeds": one.seeds,
        "gains": [float(gain) for gain in one.gains()] if one.seeds else [],
        "comparison": one.comparison,
        "more_seeds": reruns.more_seeds(one, judged),
        "folders": [str(run.path) for each in (base, arm) for run in group.of(each)],
    }
