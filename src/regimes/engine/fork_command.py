"""The command that forks a run as a person has just tried to change it, ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regimes.core import fields, paths
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, ResumeError
from regimes.core.kinds import Controller, Schedule
from regimes.core.regime import Regime
from regimes.engine import checkpoint


def command(path: Path, before: Regime, after: Regime) -> str | None:
    """Return ``regimes fork PATH --at STEP --set ...`` that leads from one regime to another; None if no edits do.

    Parameters
    ----------
    path : Path
        The run's folder.
    before, after : Regime
        What it holds, and what it was asked to go on with.
    """
    edits = edits_between(before, after)
    if not edits:
        return None
    longer = any(name.rsplit(".", 1)[-1] == "budget" for name in edits)
    words = ["regimes", "fork", str(path), "--at", str(_step(path, at_end=longer))]
    return shlex.join([*words, *(word for name, value in edits.items() for word in ("--set", f"{name}={value}"))])


def edits_between(before: Regime, after: Regime) -> dict[str, str] | None:
    """Return edits by path, as ``--set`` takes them, that make one regime the other; None if there are none.

    Examples
    --------
    >>> import regimes as rg
    >>> base = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1)), batch_size=8, budget="20 steps")
    >>> edits_between(base, base.but(peak=0.2, budget="30 steps"))
    {'optimizer.lr.peak': '0.2', 'budget': '30 steps'}
    >>> edits_between(base, rg.Regime(optimizer=rg.SGD(lr=0.05), batch_size=8, budget="20 steps"))
    {'optimizer': 'SGD(lr=0.05)'}
    """
    fine = _fine(before, after)
    held = {path: f"Constant({value})" for path, value in fine.items() if _replaces_schedule(before, path, value)}
    for edits, goal in ((fine, {}), (_coarse(before, after), {}), (fine | held, held)):
        try:
            if edits and before.but(edits) == after.but(goal):
                return edits
        except DeclarationError:
            continue
    return None


def _replaces_schedule(before: Regime, path: str, value: str) -> bool:
    """Whether a number would replace a schedule in place, which ``--set`` takes for a slip."""
    try:
        float(value)
        return isinstance(_at(before, path), Schedule | Controller)
    except ValueError:
        return False


def _fine(before: Regime, after: Regime) -> dict[str, str]:
    """Every difference by its own path."""
    return {row.path: _text(_at(after, row.path)) for row in before.diff(after) if row.new is not None}


def _coarse(before: Regime, after: Regime) -> dict[str, str]:
    """Whole slots of phases: where a schedule gave way to a number, or something is gone."""
    return dict(_slots(before, after)) if [p.name for p in before.phases] == [p.name for p in after.phases] else {}


def _slots(before: Regime, after: Regime) -> Iterator[tuple[str, str]]:
    for old, new in zip(before.phases, after.phases):
        lead = f"{new.name}." if len(after.phases) > 1 else ""
        for name, value in new.children():
            if not fields.same(value, getattr(old, name)):
                yield f"{lead}{name}", _text(value)
    if before.budget != after.budget:
        yield "budget", _text(after.budget)


def _at(regime: Regime, path: str) -> Any:
    try:
        return paths.get(regime, path)
    except DeclarationError:
        return paths.get(regime.phases[0], path)


def _text(value: Any) -> str:
    return str(value) if isinstance(value, Duration | str) else fields.printed(value)


def _step(path: Path, at_end: bool) -> int:
    """Where to fork: at the newest checkpoint from which there is something left to train."""
    for name in checkpoint.names(path / "checkpoints"):
        try:
            place = checkpoint.frame(path / "checkpoints" / name)
        except ResumeError:
            continue
        if at_end or not place["finished"]:
            return int(place["step"])
    return 0
