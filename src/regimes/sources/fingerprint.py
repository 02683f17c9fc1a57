"""Digests of data that is too large, or too slow, to be read as a whole."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regimes.core.randomness import seeded

#: Examples that are looked at.
BOUND = 32


def fingerprint(data: Any, length: int, examples: Iterable[Any]) -> str:
    """Return a digest of the source code of the data's classes, its length, and the given examples.

    Examples
    --------
    >>> data = [(1.0, 0), (2.0, 1)]
    >>> whole = fingerprint(data, 2, data)
    >>> whole == fingerprint(list(data), 2, data), whole == fingerprint(data, 2, data[:1])
    (True, False)
    """
    digest = hashlib.sha256(f"{length}".encode())
    while data is not None:  # a Subset of a Dataset of ...
        digest.update(source_of(type(data)).encode())
        data = getattr(data, "dataset", None)
    with seeded(0):
        for example in examples:
            _add(digest, example)
    return digest.hexdigest()[:16]


def source_of(cls: type) -> str:
    """Return the source code of a class, or its name where there is none."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return f"{cls.__module__}:{cls.__qualname__}"


def _add(digest: Any, value: Any) -> None:
    """Add a value of an example, whatever holds it."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            digest.update(f"{name}=".encode())
            _add(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}(".encode())
        for item in value:
            _add(digest, item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _add(digest, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif isinstance(value, str | bytes | bool | int | float) or value is None:
        digest.update(repr(value).encode())
    else:
        _add_array(digest, value)


def _add_array(digest: Any, value: Any) -> None:
    """Add a tensor, an array or what becomes one (an image); of anything else only its type is known to be stable."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.dtype is torch.bfloat16 else value.numpy()
    array = np.asarray(value)
    if array.dtype == object:
        digest.update(type(value).__qualname__.encode())
        return
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
