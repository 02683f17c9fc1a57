"""What every source of examples offers the engine; sources are data, never part of a declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn


class Source:
    """Examples by index.

    Subclasses give `__len__`, `fetch` and `fingerprint`; `column` where per-example facts are known.
    """

    #: Number of tokens of every example, where all are equal; lets schedules convert tokens.
    example_tokens: int | None = None
    #: Whether reading an example may draw random numbers: then reading is addressed, at some cost.
    draws: bool = False
    #: Whether a batch is not whole before the model has been asked (`ask`): rollouts. It is then read once a step, at
    #: the weights with which the step begins, whatever `lag` is; the work is charged beside.
    asks: bool = False
    #: Extra columns of a plan that `fetch` reads; a sampler that gives another is refused, not ignored. How often the
    #: data was gone through before (``pass``) changes nothing of data by index.
    reads: tuple[str, ...] = ("pass",)
    #: Whether a batch has one row to an example, which depends on that example alone (nothing is padded to the longest).
    rowwise: bool = False
    #: Whether any example can be read at any time.
    random_access: bool = True
    #: What a resume can promise: data by index is exact; data that is read in order says it here.
    promise: str = "exact"

    def __len__(self) -> int:
        raise NotImplementedError

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Any:
        """Return the batch of the examples at `indices`; `columns` are the plan's extra columns."""
        raise NotImplementedError

    def ask(self, model: nn.Module, batch: Any, rng: Callable[[int], np.random.Generator]) -> Any:
        """Return the batch that `fetch` gave with what the model says to it; only of a source that `asks`.

        Parameters
        ----------
        model : nn.Module
            At its present weights, in evaluation mode, without gradients.
        batch : Any
            On the model's device.
        rng : callable
            ``rng(i)`` is the generator at the address of step, source and example of place i, whatever else is in the
            batch (shared: use it before asking for the next).
        """
        raise NotImplementedError(f"{type(self).__name__} asks nothing")

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
