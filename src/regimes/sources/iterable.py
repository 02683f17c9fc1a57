"""Iterable data: read in its own order, begun anew when it ends."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from regimes.core.errors import DeclarationError, UserCodeError, show
from regimes.core.randomness import seeded
from regimes.core.source import Source
from regimes.sources.fingerprint import BOUND, fingerprint


class IterableSource(Source):
    """Examples of an iterable, whose place is counted; the sampler must be `Sequential`.

    Example t of the run is the t-th that the iterable gives; when it ends it is begun anew. What a resume can promise
    is in `promise`: where the data has ``state_dict`` and ``load_state_dict``, its state goes into the checkpoint;
    otherwise the examples that were read before are read again and thrown away.

    Parameters
    ----------
    data : iterable
        Begins anew at every ``iter()``: a torch IterableDataset, an object with ``__iter__``; not an iterator.
    length : int, optional
        How many examples make an epoch. Default ``len(data)``; needed where the data does not know.
    collate_fn : callable, optional
        Makes a list of examples into a batch. Default torch's ``default_collate``.

    Raises
    ------
    DeclarationError
        For an iterator, which can be read once only, and for data of unknown length without `length`.

    Examples
    --------
    >>> class Squares:
    ...     def __iter__(self):
    ...         return (float(i * i) for i in range(5))
    >>> source = IterableSource(Squares(), length=5)
    >>> source.fetch(np.arange(3), {}), source.fetch(np.array([3, 4, 0]), {"pass": np.array([0, 0, 1])})
    (tensor([0., 1., 4.], dtype=torch.float64), tensor([ 9., 16.,  0.], dtype=torch.float64))
    >>> source.promise
    'replay: what was read is read again and skipped; exact if every iter() gives the same examples in the same order'
    """

    draws = True
    random_access = False

    def __init__(
        self, data: Any, length: int | None = None, collate_fn: Callable[[list[Any]], Any] | None = None
    ) -> None:
        if isinstance(data, Iterator):
            raise DeclarationError(
                f"got {show(data)}, an iterator, which can be read once only; allowed: an object whose iter() begins "
                "anew",
                "train",
            )
        if length is None:
            length = len(data) if hasattr(data, "__len__") else None
        if length is None or length < 1:
            raise DeclarationError(
                f"got {show(data)}, which does not say how many examples make an epoch; write "
                "IterableSource(data, length=10_000)",
                "train",
            )
        self.data, self.length, self.collate_fn = data, length, collate_fn or default_collate
        self._stateful = hasattr(data, "state_dict") and hasattr(data, "load_state_dict")
        self._fresh = copy.deepcopy(data.state_dict()) if self._stateful else None
        self._reading: Iterator[Any] | None = None
        self._place = 0
        self.promise = (
            "exact: the data's own state_dict is kept in every checkpoint"
            if self._stateful
            else "replay: what was read is read again and skipped; exact if every iter() gives the same examples in "
            "the same order"
        )

    def __len__(self) -> int:
        return self.length

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Any:
        """Return the batch of the next examples; an earlier place is found by beginning anew."""
        places = np.asarray(columns.get("pass", 0)) * self.length + indices
        start = int(places[0])
        known = "pass" in columns or start in (0, self._place)
        if not known or not np.array_equal(places, np.arange(start, start + len(places))):
            raise DeclarationError(
                "got examples out of their order, but iterable data is read in its own; allowed: Sequential()",
                "sampler",
            )
        if self._reading is None or start < self._place:
            self._begin(self._fresh, 0)
        self._skip_to(start)
        return self.collate_fn([self._next() for _ in range(len(places))])

    def _skip_to(self, place: int) -> None:
        """Throw away what was read before; what the examples after it draw does not depend on that."""
        if self._place < place:
            with seeded(self._place):
                while self._place < place:
                    self._next()

    def _begin(self, state: Any, place: int) -> None:
        if self._stateful:
            self.data.load_state_dict(copy.deepcopy(state))
        self._reading, self._place = iter(self.data), place

    def _next(self) -> Any:
        assert self._reading is not None
        for example in self._reading:
            self._place += 1
            return example
        self._reading = iter(self.data)
        for example in self._reading:
            self._place += 1
            return example
        raise UserCodeError(f"{show(self.data)} gives no example")

    def state(self) -> dict[str, Any]:
        """Return the data's own state and the place that belongs to it; nothing where the data has none."""
        if not self._stateful or self._reading is None:
            return {}
        return {"place": self._place, "data": copy.deepcopy(self.data.state_dict())}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was."""
        if state:
            self._begin(state["data"], state["place"])

    def fingerprint(self) -> str:
        """Digest over the classes' source, the length and the first examples; the place is as before."""
        before = self.state()
        if self._stateful:
            self.data.load_state_dict(copy.deepcopy(self._fresh))
        found = fingerprint(self.data, self.length, itertools.islice(iter(self.data), min(BOUND, self.length)))
        self._reading, self._place = None, 0
        self.load(before)
        return found
