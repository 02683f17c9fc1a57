"""Whose forward it is: what listens to the model's modules must not hear another network that shares them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_depth = 0


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Inside, forwards are another network's (a teacher with the model's modules and weights of its own).

    Examples
    --------
    >>> with apart():
    ...     heard()
    False
    >>> heard()
    True
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def heard() -> bool:
    """Whether a forward of now is the model's own."""
    return _depth == 0
