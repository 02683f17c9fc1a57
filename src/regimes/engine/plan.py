"""Plans: what a step will train on, drawn ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Plan:
    """What one step trains on.

    Parameters
    ----------
    step : int
        The step it was drawn for.
    indices : ndarray of int64
        Examples, within their source.
    sources : ndarray of int64 or None
        Position of each example's source in the view; None where there is one.
    weights : ndarray of float64 or None
        Importance weights, numerator only.
    columns : mapping
        Extra columns: one value per example, or one number for all.
    knobs : dict of str to float
        The data knobs it was drawn with.
    cursor : dict
        Where in the data the draw ended; consumed or dropped with the plan.
    """

    step: int
    indices: np.ndarray
    sources: np.ndarray | None
    weights: np.ndarray | None
    columns: Mapping[str, Any]
    knobs: dict[str, float]
    cursor: dict[str, Any]

    def state(self) -> dict[str, Any]:
        """Return the plan as a state tree."""
        arrays = {"indices": self.indices, "sources": self.sources, "weights": self.weights}
        columns = {
            name: _tensor(value) if isinstance(value, np.ndarray) else value for name, value in self.columns.items()
        }
        return {
            "step": self.step,
            **{name: None if a is None else _tensor(a) for name, a in arrays.items()},
            "columns": columns,
            "knobs": dict(self.knobs),
            "cursor": self.cursor,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Plan:
        """Return the plan that `state` describes."""
        arrays: dict[str, Any] = {
            name: None if state[name] is None else state[name].numpy() for name in ("indices", "sources", "weights")
        }
        columns = {n: v.numpy() if isinstance(v, Tensor) else v for n, v in state["columns"].items()}
        return cls(state["step"], columns=columns, knobs=dict(state["knobs"]), cursor=state["cursor"], **arrays)

    def __len__(self) -> int:
        return len(self.indices)

    def placed(self, sizes: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the position of each example's source, and its index within it.

        Parameters
        ----------
        sizes : mapping of str to int
            Examples in each source, in declared order.
        """
        if self.sources is not None:
            return self.sources, self.indices
        if len(sizes) == 1:  # whose size a stream does not know
            return np.zeros(len(self.indices), dtype=np.int64), self.indices
        starts = np.cumsum([0, *sizes.values()])  # numbered through all sources
        sources = np.searchsorted(starts, self.indices, side="right") - 1
        return sources, self.indices - starts[sources]

    def chosen(self, keep: np.ndarray) -> Plan:
        """The plan with the examples that a mask keeps; its cursor ends where it did."""
        columns = {n: v[keep] if isinstance(v, np.ndarray) else v for n, v in self.columns.items()}
        sources = None if self.sources is None else self.sources[keep]
        weights = None if self.weights is None else self.weights[keep]
        return Plan(self.step, self.indices[keep], sources, weights, columns, self.knobs, self.cursor)

    def part(self, start: int, stop: int) -> Plan:
        """The plan of a contiguous run of examples: a micro-batch."""
        if start == 0 and stop == len(self.indices):
            return self
        cut = slice(start, stop)
        columns = {n: v[cut] if isinstance(v, np.ndarray) else v for n, v in self.columns.items()}
        sources = None if self.sources is None else self.sources[cut]
        weights = None if self.weights is None else self.weights[cut]
        return Plan(self.step, self.indices[cut], sources, weights, columns, self.knobs, {})


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
