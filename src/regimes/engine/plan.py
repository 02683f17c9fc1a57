"""Plans: what a step will train on, drawn ahead; and the batches fetched for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regimes.core.errors import DeclarationError, UserCodeError
from regimes.core.kinds import SourceView
from regimes.core.randomness import Streams, seeded
from regimes.core.source import Source


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


def fetch(
    plan: Plan,
    sources: Mapping[str, Source],
    view: SourceView,
    device: torch.device,
    streams: Streams | None = None,
    number: int = 0,
) -> Any:
    """Return the batch of a plan (or of a part of one), on the device.

    Parameters
    ----------
    streams : Streams, optional
        Where data draws random numbers while it is read (augmentation), the global generators start at the address of
        the plan's step in them, default at its number, and afterwards are as before.
    number : int
        Of the micro-batch.
    """
    if not any(source.draws for source in sources.values()):
        return _fetch(plan, sources, view, device)
    with seeded(plan.step if streams is None else streams.seed32("fetch", plan.step, number)):
        return _fetch(plan, sources, view, device)


def _fetch(plan: Plan, sources: Mapping[str, Source], view: SourceView, device: torch.device) -> Any:
    names = list(view.sizes)
    try:
        if plan.sources is None:
            indices, name, columns = plan.indices, names[0], plan.columns
            if len(names) > 1:
                return _fetch_mixed(_located(plan, view), sources, names, device)
            batch = sources[name].fetch(indices, columns)
        else:
            return _fetch_mixed(plan, sources, names, device)
    except (UserCodeError, DeclarationError):
        raise
    except Exception as why:
        raise UserCodeError(
            f"fetching examples {plan.indices[:8].tolist()} of step {plan.step} failed: {type(why).__name__}: {why}"
        ) from why
    return batch if device.type == "cpu" else to_device(batch, device)


def _located(plan: Plan, view: SourceView) -> Plan:
    """Split global example numbers over several sources that are drawn from as one."""
    edges = np.cumsum([0, *view.sizes.values()])
    source = np.searchsorted(edges, plan.indices, side="right") - 1
    return Plan(plan.step, plan.indices - edges[source], source, plan.weights, plan.columns, plan.knobs, plan.cursor)


def _fetch_mixed(plan: Plan, sources: Mapping[str, Source], names: list[str], device: torch.device) -> Any:
    assert plan.sources is not None
    pieces, places = [], []
    for number in np.flatnonzero(np.bincount(plan.sources)):
        where = np.flatnonzero(plan.sources == number)
        columns = {n: v[where] if isinstance(v, np.ndarray) else v for n, v in plan.columns.items()}
        pieces.append(sources[names[int(number)]].fetch(plan.indices[where], columns))
        places.append(where)
    if len(pieces) == 1:
        batch = pieces[0]
    else:
        back = torch.from_numpy(np.argsort(np.concatenate(places), kind="stable"))
        batch = _joined(pieces, back)
    return batch if device.type == "cpu" else to_device(batch, device)


def _joined(pieces: list[Any], back: Tensor) -> Any:
    first = pieces[0]
    if isinstance(first, Tensor):
        return torch.cat(pieces).index_select(0, back)
    if isinstance(first, list) and all(isinstance(item, str | bytes) for item in first):
        together = [item for piece in pieces for item in piece]
        return [together[place] for place in back.tolist()]
    parts = _parts(first)
    if parts is None:
        raise TypeError(f"batches of several sources cannot be joined: they hold {type(first).__name__}")
    others = [_parts(piece) or {} for piece in pieces]
    return _with_parts(first, {name: _joined([part[name] for part in others], back) for name in parts})


def _parts(batch: Any) -> dict[Any, Any] | None:
    """The parts of a batch by name or place; None of what has none."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.init}
    return dict(enumerate(batch)) if isinstance(batch, tuple | list) else None


def _with_parts(batch: Any, parts: dict[Any, Any]) -> Any:
    """A batch of the same form with these parts."""
    if isinstance(batch, Mapping):
        return parts
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return dataclasses.replace(batch, **parts)
    if hasattr(batch, "_fields"):
        return type(batch)(*parts.values())
    return type(batch)(parts.values())


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with every tensor on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    parts = _parts(batch)
    return (
        batch if parts is None else _with_parts(batch, {name: to_device(part, device) for name, part in parts.items()})
    )
