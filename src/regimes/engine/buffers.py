"""Buffers (BatchNorm's statistics) keep what the first evaluation of a step wrote, and return when it is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Buffers:
    """Finds the buffers that evaluations change; most models have none, and then this costs nothing."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._watched: dict[str, Tensor] = dict(model.named_buffers())
        self._settled = not self._watched
        self._empty: StepBuffers | None = None

    def begin(self) -> StepBuffers:
        """Return the keeper of one step."""
        if not self._watched:
            self._empty = self._empty or StepBuffers(self)
            return self._empty
        return StepBuffers(self)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, a forward may write statistics; afterwards they are as before."""
        kept = {name: buffer.detach().clone() for name, buffer in self._watched.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    self._watched[name].copy_(value)

    def changing(self) -> dict[str, Tensor]:
        """The buffers that may change, by name."""
        return self._watched

    @staticmethod
    def _changed(buffer: Tensor, version: tuple[int, int] | None, value: Tensor | None) -> bool:
        if value is None or version != (id(buffer), buffer._version):
            return True
        return not torch.equal(buffer, value)

    def settle(self, before: dict[str, tuple[int, int]], values: dict[str, Tensor]) -> None:
        """After the first evaluation ever: watch only what it wrote."""
        if self._settled:
            return
        now = dict(self.model.named_buffers())
        # torch's batch-norm kernels write running statistics without counting a version: those are always watched.
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        always = {id(b) for m in norms for b in m.buffers()}
        self._watched = {
            name: b
            for name, b in now.items()
            if id(b) in always or self._changed(b, before.get(name), values.get(name))
        }
        self._settled = True


class StepBuffers:
    """Keeps the buffers of one step."""

    def __init__(self, owner: Buffers) -> None:
        self._owner = owner
        self._before = {name: b.detach().clone() for name, b in owner.changing().items()}
        self._versions = {name: (id(b), b._version) for name, b in owner.changing().items()}
        self._written: dict[str, Tensor] = {}

    def enter(self, first: bool) -> None:
        """Before a later evaluation: start from the statistics the first one started from."""
        if first or not self._before:
            return
        self._written = {name: b.detach().clone() for name, b in self._owner.changing().items()}
        self._copy(self._before)

    def leave(self, first: bool) -> None:
        """After the first evaluation keep what it wrote; after a later one return to that."""
        if not self._before:
            return
        if first:
            self._owner.settle(self._versions, self._before)
        else:
            self._copy(self._written)

    def restore(self) -> None:
        """The step is skipped: one bad batch would poison running statistics for ever."""
        self._copy(self._before)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, buffer in self._owner.changing().items():
            if name in values:
                buffer.copy_(values[name])
