"""``--set path=value``: edits of what a file declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from regimes.core import paths
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.regime import Regime
from regimes.study.command.values import Values
from regimes.study.declarations import CompareFile, RunFile
from regimes.study.foreign.rows import cell, number_of


def edited(found: RunFile | CompareFile, edits: Sequence[str]) -> RunFile | CompareFile:
    """Return the declaration with values replaced.

    Parameters
    ----------
    found : RunFile or CompareFile
    edits : sequence of str
        ``path=value``, for every arm that has the path; ``arm:path=value`` for one.

    Raises
    ------
    DeclarationError
        If a path fits nothing, or a value is refused.
    """
    for text in edits:
        name, value = _split(text)
        if isinstance(found, RunFile):
            found = replace(found, regime=_set(found.regime, name, value, text))
        else:
            found = replace(found, arms=_set_arms(found.arms, name, value, text))
    return found


def regime_with(regime: Regime, edits: Sequence[str]) -> Regime:
    """Return a regime with values replaced, each edit ``path=value``.

    Raises
    ------
    DeclarationError
        If a path fits nothing, or a value is refused.
    """
    for text in edits:
        regime = _set(regime, *_split(text), text)
    return regime


def _split(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip() or not value.strip():
        raise DeclarationError(f"got {show(text)}; allowed: path=value, for example optimizer.lr.peak=3e-4", "--set")
    return name.strip(), value.strip()


def _set(declared: Any, path: str, value: str, text: str) -> Any:
    try:
        return declared.but({path: number_of(cell(value)) if isinstance(declared, Values) else value})
    except DeclarationError as why:
        raise DeclarationError(f"{why}", f"--set {text}") from None


def _set_arms(arms: dict[str, Any], path: str, value: str, text: str) -> dict[str, Any]:
    arm, colon, inner = path.partition(":")
    if colon:
        if arm not in arms:
            raise DeclarationError(f"there is no arm '{arm}'; {nearest(arm, arms)}", f"--set {text}")
        return arms | {arm: _set(arms[arm], inner, value, text)}
    fitting = [name for name, declared in arms.items() if _fits(declared, path)]
    if not fitting:
        first = next(iter(arms.values()))
        _set(first, path, value, text)  # refuses, naming the nearest
    return {name: _set(declared, path, value, text) if name in fitting else declared for name, declared in arms.items()}


def _fits(declared: Any, path: str) -> bool:
    if isinstance(declared, Values):
        return path in declared.given
    try:
        return bool(paths.expand(declared, path))
    except DeclarationError:
        return False
