"""Checkpoints are written while the run goes on: its state is copied between two steps, and a thread brings the copy to disk."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from regimes.engine import trees

#: State from which on its pages are worth making before the first checkpoint: below, they take less than a millisecond.
_LARGE = 2**20


class Saver:
    """Saves the states of one run, one at a time.

    A state is copied to the CPU in the call, so that training may go on in place. The copy's memory is kept for the next
    one: copying 50 MiB takes 6 ms, into pages that the system has to make first 27 ms. A run with a folder therefore has
    its state twice in memory, the second time on the CPU, until it lets go of the folder.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._under_way: concurrent.futures.Future[None] | None = None

    def reserve(self, tree: dict[str, Any]) -> None:
        """Have the memory of a copy made, in the thread, where it is so large that the first one would be felt."""
        tensors: dict[str, Tensor] = {}
        trees.flatten(tree, tensors)
        if sum(t.nbytes for t in tensors.values()) >= _LARGE:
            self._kept = {name: _like(t) for name, t in tensors.items()}
            self._under_way = _thread(os.getpid()).submit(_touch, list(self._kept.values()))

    def save(self, tree: dict[str, Any], write: Callable[[Any, dict[str, Tensor]], None]) -> None:
        """Copy a state, and have the thread call ``write(plain, tensors)`` with what `trees.flatten` makes of the copy.

        Raises
        ------
        Exception
            What the one before raised; it is waited for first.
        """
        self.wait()
        plain, tensors = self._copied(tree)
        self._under_way = _thread(os.getpid()).submit(write, plain, tensors)

    def wait(self) -> None:
        """Return when what has been saved is written.

        Raises
        ------
        Exception
            What the writing raised, once.
        """
        if self._under_way is not None:
            try:
                _wait(self._under_way)
            finally:
                ended, self._under_way = self._under_way, None
                ended.result()

    @torch.no_grad()
    def _copied(self, tree: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        plain = trees.flatten(tree, tensors)
        copies = {name: _fitting(self._kept.get(name), t) for name, t in tensors.items()}
        if copies:
            torch._foreach_copy_(list(copies.values()), [t.detach() for t in tensors.values()])
        self._kept = copies
        return plain, dict(copies)


def _wait(task: concurrent.futures.Future[None]) -> None:
    """Wait to the end, also where somebody interrupts it: the folder would be given back while it is written to."""
    try:
        concurrent.futures.wait([task])
    except KeyboardInterrupt:
        _wait(task)
        raise


def _fitting(kept: Tensor | None, like: Tensor) -> Tensor:
    return kept if kept is not None and kept.shape == like.shape and kept.dtype == like.dtype else _like(like)


def _like(tensor: Tensor) -> Tensor:
    """Return memory for a tensor as files hold it: dense, row by row."""
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _touch(tensors: Iterable[Tensor]) -> None:
    """Have the system make the pages; not by torch, which would begin threads of its own for this one."""
    for tensor in tensors:
        ctypes.memset(tensor.data_ptr(), 0, tensor.nbytes)


@functools.cache
def _thread(process: int) -> concurrent.futures.Executor:
    """Return the one thread that writes in this process; a fork has the parent's objects, but none of its threads.

    The interpreter ends when it has written what it was given.
    """
    return concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
