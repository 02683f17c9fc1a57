"""Buffers (BatchNorm's statistics) keep what the first evaluation of a step wrote, and return when it is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Slot(NamedTuple):
    """Where a module keeps a buffer: a module may put another tensor there at any time."""

    module: nn.Module
    key: str

    def get(self) -> Tensor | None:
        """Return what lies there."""
        return self.module._buffers.get(self.key)

    @torch.no_grad()
    def put(self, value: Tensor | None) -> None:
        """Write a value in place where it fits, else lay a copy there."""
        now = self.get()
        if now is None or value is None or now.shape != value.shape or now.dtype != value.dtype:
            self.module._buffers[self.key] = None if value is None else value.detach().clone()
        else:
            now.copy_(value)


def slots(model: nn.Module) -> dict[str, Slot]:
    """Return every place of a buffer, by name, empty ones included."""
    return {
        f"{prefix}.{key}" if prefix else key: Slot(module, key)
        for prefix, module in model.named_modules()
        for key in module._buffers
    }


def state_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint keeps of a model: its state dict, and the buffers that this leaves out."""
    own = dict(model.state_dict(keep_vars=True))
    rest = {name: slot.get() for name, slot in slots(model).items() if name not in own}
    return {"model": own, "buffers": rest}


def load_into(model: nn.Module, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what `state_of` returned into a model of the same structure.

    Raises
    ------
    RuntimeError
        If it does not fit, as `nn.Module.load_state_dict` says it.
    """
    for name, slot in slots(model).items():  # first: a buffer may have come, grown or shrunk since it was built
        for part in state.values():
            if name in part:
                slot.put(part[name])
    model.load_state_dict(state["model"], strict=True)


def copies(found: Mapping[str, Slot]) -> dict[str, Tensor | None]:
    """Return copies of what lies at these places."""
    return {name: None if (b := slot.get()) is None else b.detach().clone() for name, slot in found.items()}


def put_back(found: Mapping[str, Slot], values: Mapping[str, Tensor | None]) -> None:
    """Put copies that `copies` made where they were."""
    for name, value in values.items():
        found[name].put(value)


class Buffers:
    """Finds the buffers that evaluations change; most models have none, and then this costs nothing.

    A buffer is watched from its first change on; until then one copy of it is kept, from when it was found. The
    running statistics of norms are watched from the beginning: torch's kernels write them without counting a version.
    """

    def __init__(self, model: nn.Module) -> None:
        self._slots = slots(model)
        norms = nn.modules.batchnorm._NormBase
        self.watched = {name: slot for name, slot in self._slots.items() if isinstance(slot.module, norms)}
        self._still = {name: slot for name, slot in self._slots.items() if name not in self.watched}
        self._values = copies(self._still)
        # The tensors themselves: the address of one that has been given up may be that of the next.
        self._marks = {name: _mark(slot) for name, slot in self._still.items()}
        self.nothing = StepBuffers(self)

    def begin(self) -> StepBuffers:
        """Return the keeper of one step."""
        if not self._slots:
            return self.nothing
        self.changed()
        return StepBuffers(self)

    def changed(self) -> dict[str, Tensor | None]:
        """Watch what has changed for the first time; return what it was."""
        found: dict[str, Tensor | None] = {}
        for name, slot in self._still.items():
            (tensor, version), (known, known_version) = _mark(slot), self._marks[name]
            if tensor is not known or version != known_version:
                found[name] = self._values.pop(name)
                self.watched[name] = slot
        for name in found:
            del self._still[name], self._marks[name]
        return found

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, a forward may write buffers; afterwards they are as before."""
        before = copies(self.watched)
        try:
            yield
        finally:
            put_back(self.watched, before | self.changed())


def _mark(slot: Slot) -> tuple[Tensor | None, int]:
    value = slot.get()
    return (None, 0) if value is None else (value, value._version)


class StepBuffers:
    """Keeps the buffers of one step."""

    def __init__(self, owner: Buffers) -> None:
        self._owner = owner
        self._before = copies(owner.watched)
        self._written: dict[str, Tensor | None] = {}

    def enter(self, first: bool) -> None:
        """Before a later evaluation: start from the statistics the first one started from."""
        if not first and self._before:
            self._written = copies(self._owner.watched)
            put_back(self._owner.watched, self._before)

    def leave(self, first: bool) -> None:
        """After the first evaluation keep what it wrote; after a later one return to that."""
        if self is self._owner.nothing:
            return
        new = self._owner.changed()
        self._before |= new
        if not first:
            put_back(self._owner.watched, self._written | new)

    def restore(self) -> None:
        """The step is skipped: one bad batch would poison running statistics for ever."""
        put_back(self._owner.watched, self._before | self._owner.changed())
