"""Rows: the trained weights, gradients and slots of several runs, each in one stretch of memory, a row to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regimes.optimizers.tensorwise.rule import ROW, Row, Tensorwise


class Place(NamedTuple):
    """Where a parameter lies in a row."""

    name: str
    start: int
    end: int
    shape: torch.Size


class Rows:
    """The trained parameters of runs of one architecture, stacked.

    Every parameter of every run becomes a view of its row; so do the slots of an elementwise rule, which then updates a
    whole row at once.

    Parameters
    ----------
    runs : sequence of Run
    """

    def __init__(self, runs: Sequence[Any]) -> None:
        self.runs = runs
        self.places = _places(runs[0].parameters)
        like = runs[0].trained[0]
        shape = len(runs), self.places[-1].end
        self.values = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.gradients = torch.zeros_like(self.values)
        for run, row in zip(runs, self.values):
            self._lay(run.parameters, row)
        #: Of each run, its gradients in parameter order.
        self.views = [tuple(self.views_of(row).values()) for row in self.gradients]
        self._filled = tuple(self.views_of(self.gradients).values())
        self._stack_slots()

    def _lay(self, tensors: Mapping[str, Tensor], row: Tensor) -> None:
        for place, view in zip(self.places, self.views_of(row).values()):
            view.copy_(tensors[place.name].detach())
            tensors[place.name].data = view

    def views_of(self, row: Tensor) -> dict[str, Tensor]:
        """Return the views of one row, or of all, by name."""
        return {
            place.name: row[..., place.start : place.end].view((*row.shape[:-1], *place.shape)) for place in self.places
        }

    def stacked(self) -> dict[str, Tensor]:
        """Return every parameter of all runs, shape (R, ...), as a leaf that gradients are made for."""
        return {name: view.detach().requires_grad_() for name, view in self.views_of(self.values).items()}

    def _stack_slots(self) -> None:
        """Stack the slots of an elementwise rule, where all of a run's are of one age."""
        states = [run.states["optimizer"] for run in self.runs]
        if not all(isinstance(run.phase.declaration.optimizer, Tensorwise) for run in self.runs):
            return
        if not all(run.phase.declaration.optimizer.elementwise for run in self.runs):
            return
        keys = [key for key, value in states[0]["slots"][self.places[0].name].items() if isinstance(value, Tensor)]
        if any(not _uniform(state["slots"], self.places, keys) for state in states):
            return
        flat = {key: torch.empty_like(self.values) for key in keys}
        for number, state in enumerate(states):
            for key in keys:
                for name, view in self.views_of(flat[key][number]).items():
                    view.copy_(state["slots"][name][key])
                    state["slots"][name][key] = view
            slots = {key: flat[key][number] for key in keys}
            state[ROW] = Row(self.values[number], self.gradients[number], self.views[number], slots)

    def fill_scaled(self, gradients: Sequence[Tensor | None], scale: Tensor) -> None:
        """Write stacked gradients, by parameter, each run's times its own scale: `fill` and a product, in one pass."""
        for g, view in zip(gradients, self._filled):
            if g is None:
                view.zero_()
            else:
                torch.mul(g, scale.view(-1, *(1,) * (view.ndim - 1)), out=view)

    def fill(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return stacked gradients, by parameter, as rows."""
        count = len(self.runs)
        parts = [
            torch.zeros((count, place.end - place.start), dtype=self.values.dtype, device=self.values.device)
            if g is None
            else g.reshape(count, -1)
            for place, g in zip(self.places, gradients)
        ]
        return torch.cat(parts, 1)

    def release(self) -> None:
        """Give every run tensors of its own."""
        for run in self.runs:
            for p in run.parameters.values():
                p.data = p.data.clone()
            row = run.states["optimizer"].pop(ROW, None) if isinstance(run.states.get("optimizer"), dict) else None
            for slot in run.states["optimizer"]["slots"].values() if row is not None else ():
                slot.update({key: value.clone() for key, value in slot.items() if isinstance(value, Tensor)})


def _places(parameters: Mapping[str, Tensor]) -> list[Place]:
    found, start = [], 0
    for name, p in parameters.items():
        found.append(Place(name, start, start + p.numel(), p.shape))
        start += p.numel()
    return found


def _uniform(slots: Mapping[str, Any], places: Sequence[Place], keys: Sequence[str]) -> bool:
    """Whether the slots of all parameters have the same keys and one age, and tensors like the parameters."""
    ages = {slots[place.name]["step"] for place in places}
    for place in places:
        tensors = {key: value for key, value in slots[place.name].items() if isinstance(value, Tensor)}
        if list(tensors) != list(keys) or len(slots[place.name]) != len(tensors) + 1:
            return False
        if any(value.shape != place.shape for value in tensors.values()):
            return False
    return len(ages) == 1
