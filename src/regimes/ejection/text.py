"""Text of Python: lines under indentation, literals, folded calls, components printed as calls of ``rg``."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import tokenize
from collections.abc import Iterator
from typing import Any

from regimes.core.errors import DeclarationError
from regimes.core.registry import REGISTRY

WIDTH = 120
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Symbol:
    """Stands in a component for a number, and prints as the expression that gives it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Lines:
    """Lines of code, indented by the blocks they are in.

    Examples
    --------
    >>> text = Lines()
    >>> with text.block("for p in parameters:"):
    ...     text.add("p.grad = None")
    >>> print("\\n".join(text.lines))
    for p in parameters:
        p.grad = None
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0

    def add(self, *lines: str) -> None:
        """Add lines at the present indentation, folded where they are too long; an empty one stays empty."""
        for line in lines:
            pad = "    " * self._depth
            self.lines += [pad + part if part else "" for part in folded(line, WIDTH - len(pad))]

    @contextlib.contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Inside, lines belong to the statement `head`."""
        self.add(head)
        self._depth += 1
        yield
        self._depth -= 1


def folded(line: str, width: int) -> list[str]:
    """Return a line of code as lines no longer than `width`: the outermost bracket's items one below the other.

    Examples
    --------
    >>> folded("x = f(1, g(2))", 12)
    ['x = f(', '    1,', '    g(2),', ')']
    >>> folded("  x = f(1, g(2))", 14)  # a line that is indented stays so
    ['  x = f(', '      1,', '      g(2),', '  )']
    >>> folded("x = list(f(n) for n in it)", 18)  # a comprehension takes no comma
    ['x = list(', '    f(n)', '    for n in it', ')']
    """
    own = line[: len(line) - len(line.lstrip())]
    if own:
        return [own + part for part in folded(line[len(own) :], width - len(own))]
    found = _outermost(line) if len(line) > width else None
    if found is None:
        return [line]
    start, end = found
    items = _items(line[start + 1 : end])
    if len(items) == 1 and " for " in items[0]:
        inner = _comprehension(items[0], width)
    else:
        inner = ["    " + part for item in items for part in folded(f"{item},", width - 4)]
    return [line[: start + 1], *inner, line[end:]]


def _comprehension(text: str, width: int) -> list[str]:
    """A comprehension in one line, else what is made above what it is made for."""
    whole = "    " + text
    if len(whole) <= width:
        return [whole]
    made, _, source = text.rpartition(" for ")
    return ["    " + part for part in (*folded(made, width - 4), f"for {source}")]


def _outermost(line: str) -> tuple[int, int] | None:
    """The last bracket of the outermost level whose items may stand below each other: where it opens and closes."""
    stack: list[int] = []
    found = None
    for place, char in _code(line):
        if char in _CLOSING:
            stack.append(place)
        elif char in _CLOSING.values() and stack:
            start = stack.pop()
            if not stack and place > start + 1 and _lists(line, start):
                found = start, place
    return found


def _lists(line: str, start: int) -> bool:
    """Whether a bracket holds items: of a call, a list or a dict, not of a sum or a subscript."""
    word = start > 0 and (line[start - 1].isalnum() or line[start - 1] == "_")
    return word if line[start] == "(" else not word


def _items(text: str) -> list[str]:
    depth, start, items = 0, 0, []
    for place, char in _code(text):
        depth += (char in _CLOSING) - (char in _CLOSING.values())
        if char == "," and depth == 0:
            items.append(text[start:place].strip())
            start = place + 1
    return [item for item in [*items, text[start:].strip()] if item]


def _code(text: str) -> Iterator[tuple[int, str]]:
    """Places and characters outside of strings."""
    quoted = False
    for place, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif not quoted:
            yield place, char


def literal(value: Any) -> str:
    """Return a value as Python, strings in double quotes.

    Examples
    --------
    >>> literal(["a", 0.5, None]), literal({"width": 8, "name": "x"})
    ('["a", 0.5, None]', '{"width": 8, "name": "x"}')
    """
    return _double_quoted(repr(value))


def call(component: Any) -> str:
    """Return a component as the call that builds it: ``rg.Weighted("length", power=2.0)``.

    Raises
    ------
    DeclarationError
        For a class of the user's own, which a script cannot import by its printed name.
    """
    try:
        tree = ast.parse(repr(component), mode="eval")
    except SyntaxError:
        raise DeclarationError(f"got {component!r}; allowed in a script: components that regimes registers") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REGISTRY.names():
            node.func.id = f"rg.{node.func.id}"
    return _double_quoted(ast.unparse(tree))


def _double_quoted(text: str) -> str:
    out = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_string = token.type == tokenize.STRING
        out.append(
            token._replace(string=json.dumps(ast.literal_eval(token.string), ensure_ascii=False))
            if is_string
            else token
        )
    pieces, line, column = [], 1, 0
    for old, new in zip(tokenize.generate_tokens(io.StringIO(text).readline), out):
        if old.start[0] == line:
            pieces.append(" " * (old.start[1] - column))
        pieces.append(new.string)
        line, column = old.end
    return "".join(pieces).strip()


def bracketed(value: Any) -> str:
    """Return a number, or a symbol in brackets where it is more than a call, as an operand.

    Examples
    --------
    >>> bracketed(1e-05), bracketed(Symbol("lr(done)")), bracketed(Symbol("0.1 * lr(done)"))
    ('1e-05', 'lr(done)', '(0.1 * lr(done))')
    """
    simple = isinstance(value, float | int) or isinstance(
        ast.parse(repr(value), mode="eval").body, ast.Call | ast.Constant
    )
    return repr(value) if simple else f"({value!r})"


def name_of(text: str) -> str:
    """Return a word that may name something in Python.

    Examples
    --------
    >>> name_of("warm-up 2"), name_of("2nd")
    ('warm_up_2', '_2nd')
    """
    word = "".join(char if char.isalnum() else "_" for char in text)
    return word if word.isidentifier() else f"_{word}"
