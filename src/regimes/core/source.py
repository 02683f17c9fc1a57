"""What every source of examples offers the engine; sources are data, never part of a declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Source:
    """Examples by index.

    Subclasses give `__len__`, `fetch` and `fingerprint`; `column` where per-example facts are known.
    """

    #: Number of tokens of every example, where all are equal; lets schedules convert tokens.
    example_tokens: int | None = None
    #: Whether reading an example may draw random numbers: then reading is addressed, at some cost.
    draws: bool = False
    #: Whether any example can be read at any time.
    random_access: bool = True
    #: What a resume can promise: data by index is exact; data that is read in order says it here.
    promise: str = "exact"

    def __len__(self) -> int:
        raise NotImplementedError

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Any:
        """Return the batch of the examples at `indices`; `columns` are the plan's extra columns."""
        raise NotImplementedError

    def beside(self, others: Sequence[Source]) -> Source | None:
        """Return one source of these examples and then those of the others, where that copies no data; else None."""
        return None

    def column(self, name: str) -> Any:
        """Return a per-example tensor (``label``, ``length`` ...), or None."""
        return None

    def fingerprint(self) -> str:
        """Return a digest of the data's content."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of data that is read in order; data by index keeps nothing."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was."""
