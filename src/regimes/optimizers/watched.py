"""The evaluate of a rule inside a guard, who hears each evaluation before the rule does, and may break the step off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Watched:
    """An evaluate whose answers somebody looks at first; everything else is the inner one's.

    Parameters
    ----------
    inner : callable
        What the guard was given.
    look : callable
        ``look(evaluation, final)``, with whether the evaluation is the step's final one with gradients. What it raises goes
        through the rule, which has written nothing yet, back to the guard.
    """

    def __init__(self, inner: Any, look: Callable[[Any, bool], None]) -> None:
        self._inner, self._look = inner, look

    def __call__(self, **asked: Any) -> Any:
        """Evaluate, and let the guard look."""
        evaluation = self._inner(**asked)
        self._look(evaluation, asked.get("grad", True) and asked.get("final", True))
        return evaluation

    def shifted(self, direction: Any) -> Watched:
        """Return an evaluate at moved weights, which is watched, too."""
        return Watched(self._inner.shifted(direction), self._look)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
