"""Which queue a design takes: to its end, until it is decided, or until its arms are halved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from regimes.study.design import Design
from regimes.study.halved import Halved
from regimes.study.queue import Queue
from regimes.study.sequential import Sequential
from regimes.study.subject import Subject


def queue_of(
    design: Design, subject: Subject, arms: Mapping[str, Any], workers: int, limit: float | None,
    say: Callable[[str], None],
) -> Queue:  # fmt: skip
    """Return the queue of a design.

    Parameters
    ----------
    workers, limit, say
        As of `regimes.study.sequential.Sequential`.
    """
    if design.looks is not None:
        return Sequential(design, subject, arms, workers, limit, say)
    if design.halving is not None:
        return Halved(design, subject, arms, say)
    return Queue(design, subject, arms)
