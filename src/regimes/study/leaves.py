"""Leaves of a YAML file hold notation; what YAML makes of notation without quotes gets a message of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from regimes.core.errors import show
from regimes.study.problems import Problems
from regimes.study.yaml_text import Node

#: Refused, and already noted as a problem.
MANGLED = object()
_NO = ("no", "off", "false", "none", "n")
_YES = ("yes", "on", "true", "y")
_TYPE_KEYS = ("name", "type", "class", "_target_", "kind")
_NAME = re.compile(r"[A-Za-z_]\w*")
_CALL = re.compile(r"[A-Z]\w*(\(.*\))?")


def is_open(text: str) -> bool:
    """Whether a bracket or quote of `text` is not closed.

    Examples
    --------
    >>> is_open("AdamW(lr=1e-3"), is_open("AdamW(lr=1e-3)"), is_open('Cosine(1, warmup="5%')
    (True, False, True)
    """
    depth, quote = 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
    return depth > 0 or bool(quote)


class Leaves:
    """Reads the leaves of one mapping; `items` skips what belongs to a leaf that YAML split.

    Parameters
    ----------
    node : Node
        A mapping.
    key : str
        Its path, for messages.
    problems : Problems
    booleans : collection of str
        Names whose value may be true or false.
    """

    def __init__(self, node: Node, key: str, problems: Problems, booleans: Collection[str] = ()) -> None:
        self.node, self.key, self.problems, self._booleans = node, key, problems, booleans
        self.items: dict[str, Node] = dict(node.value)
        self._rejoin()

    def path(self, name: str) -> str:
        """The path of one key of the mapping."""
        return f"{self.key}.{name}" if self.key else name

    def _rejoin(self) -> None:
        """Find values that YAML split at a comma of notation without quotes, say so once, drop the pieces."""
        names = list(self.items)
        while names:
            name = names.pop(0)
            child = self.items[name]
            text = child.value
            if not (self.node.flow and child.plain and isinstance(text, str) and is_open(text)):
                continue
            while names and is_open(text):
                piece = names.pop(0)
                value = self.items.pop(piece).data
                text += f", {piece}" + ("" if value is None else f": {value}")
            del self.items[name]
            self._split(name, child, text)

    def _split(self, name: str, child: Node, text: str) -> None:
        self.problems.add(
            self.path(name),
            f"YAML split this value at a comma; inside {{...}} and [...] write it in single quotes: '{text}'",
            child.line,
        )

    def value(self, name: str) -> Any:
        """Return the content of a leaf, or MANGLED after noting what YAML made of it."""
        child = self.items[name]
        if isinstance(child.value, list):
            return self._list(name, child)
        return self._scalar(self.path(name), name, child)

    def _list(self, name: str, child: Node) -> Any:
        texts = [item.value for item in child.value]
        if child.flow:
            for place, item in enumerate(child.value):
                if item.plain and isinstance(item.value, str) and is_open(item.value):
                    self._split(f"{name}.{place}", item, ", ".join(str(text) for text in texts[place:]))
                    return MANGLED
        found = [
            self._scalar(f"{self.path(name)}.{place}", name, item) if not isinstance(item.value, list) else item.data
            for place, item in enumerate(child.value)
        ]
        return MANGLED if any(item is MANGLED for item in found) else found

    def _scalar(self, key: str, name: str, child: Node) -> Any:
        value = child.value
        if isinstance(value, dict):
            self.problems.add(key, f"got a mapping where notation is expected{_suggestion(child)}", child.line)
            return MANGLED
        if value == "None":
            return None
        if isinstance(value, bool) and name in self._booleans:
            return value
        if isinstance(value, bool) or (isinstance(value, str) and value.lower() in (*_NO, *_YES)):
            said = str(value).lower()
            if name in self._booleans:
                self.problems.add(key, f"got {said}; allowed: true, false", child.line)
                return MANGLED
            advice = f"to leave '{name}' out write null" if said in _NO else f"write what '{name}' shall be"
            reading = "" if isinstance(value, bool) else ", which YAML 1.2 reads as text"
            self.problems.add(key, f"got {said}{reading}; {advice}", child.line)
            return MANGLED
        if isinstance(value, str) and child.plain and is_open(value) and child.comment.startswith("#"):
            self.problems.add(
                key,
                f"YAML cut this value off at ' #', where a comment begins; write it in single quotes: "
                f"'{value} {child.comment}'",
                child.line,
            )
            return MANGLED
        return value


def _suggestion(node: Node) -> str:
    text = as_notation(node.data)
    return f"; write for example '{text}'" if text is not None else ", for example 'AdamW(lr=Cosine(1e-3))'"


def as_notation(data: Any) -> str | None:
    """Return a mapping of other tools' forms as a call, None where it has no name.

    Examples
    --------
    >>> as_notation({"name": "AdamW", "lr": 0.001}), as_notation({"AdamW": {"lr": {"Cosine": {"peak": 0.1}}}})
    ('AdamW(lr=0.001)', 'AdamW(lr=Cosine(peak=0.1))')
    >>> as_notation({"lr": 1}) is None
    True
    """
    if not isinstance(data, Mapping) or not data:
        return None
    key = next((key for key in _TYPE_KEYS if isinstance(data.get(key), str)), None)
    if key is not None:
        name, rest = data[key], {k: v for k, v in data.items() if k != key}
    else:
        name, rest = next(iter(data.items()))
        rest = {} if rest is None else rest
        if len(data) != 1 or not isinstance(rest, Mapping):
            return None
    if not all(_NAME.fullmatch(str(part)) for part in (name, *rest)):
        return None
    return f"{name}({', '.join(f'{k}={_argument(v)}' for k, v in rest.items())})" if rest else str(name)


def _argument(value: Any) -> str:
    inner = as_notation(value)
    if inner is not None:
        return inner
    if isinstance(value, str) and _CALL.fullmatch(value):
        return value
    return show(value)
