"""An arm of a command: the values that its line is filled with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from regimes.core.errors import DeclarationError, nearest, show

Scalar = str | int | float | bool


class Change(NamedTuple):
    """A value that differs."""

    path: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Values:
    """Values by name, as a command's line takes them.

    Parameters
    ----------
    given : mapping of str to str, number or bool

    Raises
    ------
    DeclarationError
        For a value that a line of text cannot hold.

    Examples
    --------
    >>> Values({"lr": 0.001, "optimizer": "adamw"})
    lr=0.001 optimizer=adamw
    """

    given: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            if not isinstance(value, Scalar):
                raise DeclarationError(f"got {show(value)}; allowed: text, a number, true or false", str(name))

    @property
    def hash(self) -> str:
        """Digest of the values, by which runs are found again."""
        return hashlib.sha256(json.dumps(dict(self.given), sort_keys=True).encode()).hexdigest()[:16]

    def but(self, edits: Mapping[str, Any]) -> Values:
        """Return other values; only those that there are can be replaced.

        Raises
        ------
        DeclarationError
            Naming the nearest.
        """
        for name in edits:
            if name not in self.given:
                raise DeclarationError(f"there is no value '{name}'; {nearest(name, self.given)}", name)
        return Values({**self.given, **edits})

    def diff(self, other: Values) -> list[Change]:
        """Return what differs, this one's value first."""
        names = dict.fromkeys([*self.given, *other.given])
        pairs = [(name, self.given.get(name), other.given.get(name)) for name in names]
        return [Change(name, old, new) for name, old, new in pairs if old != new]

    def __repr__(self) -> str:
        return " ".join(f"{name}={text_of(value)}" for name, value in self.given.items())


def text_of(value: Scalar) -> str:
    """Return a value as it stands in a command's line: a number in its shortest exact form.

    Examples
    --------
    >>> text_of(0.1 * 3), text_of(1e-05), text_of(True), text_of("a b")
    ('0.30000000000000004', '1e-05', 'true', 'a b')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)
