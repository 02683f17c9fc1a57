"""Map-style data: anything with a length and examples by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from regimes.core.errors import DeclarationError, show
from regimes.core.randomness import own_generator
from regimes.core.source import Source
from regimes.sources.fingerprint import BOUND, fingerprint
from regimes.sources.tensors import Tensors

#: Attributes in which datasets keep what we call the column ``label``.
_LABELS = ("label", "labels", "targets", "target", "y")


class DatasetSource(Source):
    """Examples of a map-style Dataset or a list, made into batches by a collate function.

    A column is what the dataset keeps under that name for all its examples; ``label`` is also found as ``labels``,
    ``targets``, ``target`` or ``y``, and in a list of examples as the last part, where it is an integer.

    Parameters
    ----------
    dataset : Dataset, list or any object with ``__len__`` and ``__getitem__``
        ``__getitems__``, where there is one, is asked for a batch of examples at once.
    collate_fn : callable, optional
        Makes a list of examples into a batch. Default torch's ``default_collate``.

    Raises
    ------
    DeclarationError
        If there are no examples.

    Examples
    --------
    >>> source = DatasetSource([(0.5, 1), (1.5, 0), (2.5, 1)])
    >>> source.fetch(np.array([2, 0]), {})
    [tensor([2.5000, 0.5000], dtype=torch.float64), tensor([1, 1])]
    >>> source.column("label")
    tensor([1, 0, 1])
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None = None) -> None:
        self.dataset, self.collate_fn = dataset, collate_fn or default_collate
        self.draws = collate_fn is not None or not isinstance(dataset, list | tuple | TensorDataset)
        if self.draws and (name := own_generator(dataset, collate_fn)) is not None:
            self.promise = (
                f"the same examples, but not the numbers that it draws from a generator of its own ({name}); torch's, "
                "numpy's and Python's global generators are set anew for every batch: draw from those"
            )
        if not len(dataset):
            raise DeclarationError(f"got {show(dataset)}, which has no example", "train")

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Any:
        """Return the collated batch of these examples."""
        numbers = indices.tolist()
        at_once = getattr(self.dataset, "__getitems__", None)
        return self.collate_fn(at_once(numbers) if at_once else [self.dataset[i] for i in numbers])

    def column(self, name: str) -> Any:
        """Return what the dataset keeps under this name for all examples, or None."""
        return _column(self.dataset, name)

    def fingerprint(self) -> str:
        """Digest over the classes' source, the length and some examples, spread evenly."""
        numbers = np.unique(np.linspace(0, len(self) - 1, BOUND).astype(int)).tolist()
        return fingerprint(self.dataset, len(self), (self.dataset[i] for i in numbers))


def _column(dataset: Any, name: str) -> Tensor | None:
    if isinstance(dataset, TensorDataset):
        return Tensors(*dataset.tensors).column(name)
    if isinstance(dataset, Subset):
        whole = _column(dataset.dataset, name)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_column(part, name) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
    if isinstance(dataset, list | tuple):
        return _last_parts(dataset) if name == "label" else None
    for attribute in _LABELS if name == "label" else (name,):
        values = getattr(dataset, attribute, None)
        if values is not None and not isinstance(values, str) and np.shape(values)[:1] == (len(dataset),):
            return torch.as_tensor(values)
    return None


def _last_parts(examples: Any) -> Tensor | None:
    """The last part of each example, where all are integers."""
    labels = [example[-1] if isinstance(example, tuple | list) and len(example) > 1 else None for example in examples]
    whole = all(isinstance(label, int | np.integer) and not isinstance(label, bool) for label in labels)
    return torch.tensor([int(label) for label in labels]) if whole else None  # type: ignore[arg-type]
