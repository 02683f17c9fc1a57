"""Say something that is no refusal, at the line of the person's own code that caused it."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

_OURS = f"{Path(__file__).parent.parent}{os.sep}"
#: What this process has said; Python's own memory of it is lost whenever anybody changes the filters.
_SAID: set[str] = set()


def notice(sentence: str) -> None:
    """Warn with one sentence, as if from the innermost frame that is not ours; once a process.

    Filters that ask for more ("always", "error") get it every time.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("default")
    ...     for _ in range(2):
    ...         notice("train: the loader's batch_size is ignored.")
    >>> [str(one.message) for one in said]
    ["train: the loader's batch_size is ignored."]
    """
    if sentence in _SAID and _action() not in ("always", "error"):
        return
    _SAID.add(sentence)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, stacklevel=level)


def _action() -> str:
    """What the filters say of any warning of ours, wherever it comes from."""
    for action, text, category, module, line in warnings.filters:
        if text is None and module is None and line == 0 and issubclass(UserWarning, category):
            return action
    return "default"
