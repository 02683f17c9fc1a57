"""Examples held as tensors: a batch is an index-select along the first axis."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regimes.core.errors import DeclarationError
from regimes.core.source import Source


class Tensors(Source):
    """A tuple or dict of tensors with a common first axis.

    Parameters
    ----------
    *tensors : Tensor
        Parts of a tuple batch; the last is the target. One alone gives tuples of one, as torch's TensorDataset does.
    **named : Tensor
        Parts of a dict batch.

    Raises
    ------
    DeclarationError
        If there is no tensor, none has an example, or first axes differ.

    Examples
    --------
    >>> source = Tensors(torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 0]))
    >>> len(source), source.fetch(np.array([2, 0]), {})
    (3, (tensor([[4., 5.],
            [0., 1.]]), tensor([0, 0])))
    """

    rowwise = True

    def __init__(self, *tensors: Tensor, **named: Tensor) -> None:
        self.parts: dict[str, Tensor] = {str(i): t for i, t in enumerate(tensors)} | named
        if not self.parts or (tensors and named):
            raise DeclarationError("give tensors by position or by name, at least one", "train")
        flat = [name for name, t in self.parts.items() if t.ndim == 0]
        if flat:
            raise DeclarationError(
                f"got part '{flat[0]}', a tensor without axes; allowed: one row per example", "train"
            )
        lengths = {name: len(t) for name, t in self.parts.items()}
        if len(set(lengths.values())) != 1:
            raise DeclarationError(f"got tensors of different length: {lengths}", "train")
        self._named, self._size = bool(named), next(iter(lengths.values()))
        if not self._size:
            raise DeclarationError("got tensors without an example", "train")
        self._tensors = tuple(self.parts.values())

    def __len__(self) -> int:
        return self._size

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Any:
        """Return the selected rows of every part."""
        index = torch.from_numpy(indices)
        if self._tensors[0].device.type != "cpu":
            index = index.to(self._tensors[0].device)
        if self._named:
            return {name: t.index_select(0, index) for name, t in self.parts.items()}
        return tuple([t.index_select(0, index) for t in self._tensors])

    def column(self, name: str) -> Any:
        """Return a part by its name, or the integer target as ``label``."""
        if name in self.parts:
            return self.parts[name]
        last = self._tensors[-1]
        return last if name == "label" and last.ndim == 1 and not last.is_floating_point() else None

    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and contents."""
        digest = hashlib.sha256()
        for name, t in self.parts.items():
            digest.update(f"{name}{t.dtype}{tuple(t.shape)}".encode())
            digest.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
