"""Reading: the batches of plans, from one source or from several."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, NonFinite, UserCodeError
from regimes.core.kinds import Loss
from regimes.core.randomness import Streams, seeded
from regimes.core.source import Source
from regimes.engine.buffers import Buffers
from regimes.engine.plan import Plan


class Reader:
    """Reads the batch of a plan, or of a part of one, as ``reader(plan, streams, number)``.

    Sources that can be read as one without copying their data are (`Source.beside`): of a batch from several others
    every piece is read alone, and they are joined.

    Parameters
    ----------
    sources : mapping of str to Source
        In the order in which plans number them.
    device : torch.device
        Where batches go.
    run : Run, optional
        Whose model is asked, where sources ask one.
    """

    def __init__(self, sources: Mapping[str, Source], device: torch.device, run: Any = None) -> None:
        self._sources, self._device, self._run = list(sources.values()), device, run
        #: Whether batches hold what the model says to them: the data ask, and the loss of the phase reads it.
        self.asks = False
        self._starts = np.cumsum([0, *[len(source) for source in self._sources]])
        self.random_access = all(source.random_access for source in self._sources)
        self._draws = any(source.draws for source in self._sources)
        #: Whether a row of a batch depends on its example alone, so that batches can be read together and parted.
        self.rowwise = all(source.rowwise and not source.draws for source in self._sources)
        first, *others = self._sources
        self._whole = first.beside(others) if others else first

    def settle(self, loss: Loss) -> None:
        """Read for the loss of a phase."""
        self.asks = loss.asks and any(source.asks for source in self._sources)

    def __call__(self, plan: Plan, streams: Streams | None = None, number: int = 0) -> Any:
        """Return the batch, on the device.

        Parameters
        ----------
        plan : Plan
        streams : Streams, optional
            Where data draws random numbers while it is read (augmentation), the global generators start at the address
            of the plan's step in them, default at its number, and afterwards are as before.
        number : int
            Of the micro-batch.

        Raises
        ------
        UserCodeError
            If the data cannot be read.
        """
        if not self._draws and not self.asks:
            return self._read(plan, None)
        with seeded(plan.step if streams is None else streams.seed32("fetch", plan.step, number)):
            return self._read(plan, streams)

    def _read(self, plan: Plan, streams: Streams | None) -> Any:
        try:
            if self._whole is None:
                batch = self._mixed(plan, streams)
            else:
                indices = plan.indices if plan.sources is None else plan.indices + self._starts[plan.sources]
                batch = self._fetch(0, indices, plan.columns, plan.step, streams)
        except (UserCodeError, DeclarationError, NonFinite, torch.OutOfMemoryError):
            raise
        except Exception as why:
            raise UserCodeError(
                f"fetching examples {plan.indices[:8].tolist()} of step {plan.step} failed: {type(why).__name__}: {why}"
            ) from why
        return batch if self._device.type == "cpu" else to_device(batch, self._device)

    def _fetch(self, place: int, indices: Any, columns: Any, step: int, streams: Streams | None) -> Any:
        """The batch of one source, or of all read as one (place 0), with what the model says to it."""
        source = self._sources[place] if self._whole is None else self._whole
        if columns:
            _refuse_unread(columns, source)
        batch = source.fetch(indices, columns)
        if not source.asks or not self.asks:
            return batch
        if streams is None:
            streams = Streams(0)

        def rng(i: int) -> np.random.Generator:
            return streams.rng("ask", step, place, int(indices[i]))

        with self._answering() as model:
            return source.ask(model, to_device(batch, self._device), rng)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[nn.Module]:
        """The model in evaluation mode and the declared precision; afterwards it is as before."""
        run = self._run
        modes = [(module, module.training) for module in run.model.modules()]
        run.model.eval()
        try:
            with torch.no_grad(), Buffers(run.model).aside(), run.forward.precision():
                yield run.model
        finally:
            for module, training in modes:
                module.training = training

    def _mixed(self, plan: Plan, streams: Streams | None) -> Any:
        indices, sources = plan.indices, plan.sources
        if sources is None:  # numbered through all sources
            sources = np.searchsorted(self._starts, indices, side="right") - 1
            indices = indices - self._starts[sources]
        order, pieces, start = np.argsort(sources, kind="stable"), [], 0
        for place, count in enumerate(np.bincount(sources).tolist()):
            if count:
                where = order[start : start + count]
                columns = {n: v[where] if isinstance(v, np.ndarray) else v for n, v in plan.columns.items()}
                pieces.append(self._fetch(place, indices[where], columns, plan.step, streams))
                start += count
        return pieces[0] if len(pieces) == 1 else _joined(pieces, torch.from_numpy(np.argsort(order)))


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


def _refuse_unread(columns: Mapping[str, Any], source: Source) -> None:
    """A column that nobody reads would change nothing, in silence."""
    unread = [name for name in columns if name not in source.reads]
    if unread:
        raise DeclarationError(
            f"it says '{unread[0]}' of every example, which {type(source).__name__} does not read; the data must be a "
            f"Source whose fetch(indices, columns) uses columns['{unread[0]}'] and that says reads = ('{unread[0]}',)",
            "sampler",
        )
