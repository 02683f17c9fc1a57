"""The notation of declarations: what repr prints, YAML leaves hold and ``--set path=value`` takes.

Numbers with ``+ - * /`` and parentheses, quoted strings, True, False, None, lists, calls of registered names
(a bare registered name is a call without arguments; presets of groups keep their dot, ``groups.muon(...)``), ``*`` and
``+`` between calls. Read from the syntax tree
by a whitelist, bounded in size and depth; never ``eval``.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from typing import Any

from regimes.core.errors import DeclarationError, a_or_an, show
from regimes.core.registry import REGISTRY, USER_MODULES, unknown, user_class

MAX_LENGTH = 20_000
MAX_DEPTH = 40
MAX_NODES = 4_000
_USER = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)(?=\s*\(|\s*$)")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def parse(text: str, kinds: tuple[str, ...] = ()) -> Any:
    """Return the value that `text` denotes.

    Parameters
    ----------
    text : str
    kinds : tuple of str
        Plug-in kinds that may stand here, for a refusal that names the nearest of them; empty is any.

    Raises
    ------
    DeclarationError
        If the text is no notation, names something unknown, or a constructor refuses its arguments.

    Examples
    --------
    >>> parse("3e-3 * 2"), parse("[1/8, 8]")
    (0.006, [0.125, 8])
    >>> import regimes.schedules
    >>> parse('Cosine(1e-3, warmup="5%")')
    Cosine(0.001, warmup='5%')
    >>> parse("__import__('os')")
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: got "__import__('os')": there is no component '__import__'; allowed: ...
    """
    if len(text) > MAX_LENGTH:
        raise DeclarationError(f"got a text of {len(text)} characters; allowed: at most {MAX_LENGTH}")
    users: dict[str, str] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # Python's words about its own future, as for "1lr"
            tree = ast.parse(_mask_user_classes(text.strip(), users), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise DeclarationError(f"got {show(text)}, which is no notation; write for example {_example(kinds)}") from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise DeclarationError(f"got {show(text)}, with more than {MAX_NODES} parts")
    try:
        _refuse_other_kinds(tree.body, kinds)
        return _Reader(users).read(tree.body, 0)
    except DeclarationError as why:
        if why.key:
            raise
        raise DeclarationError(f"got {show(text)}: {why.message}") from None


def _example(kinds: tuple[str, ...]) -> str:
    """What could stand there: weights are given otherwise than everything else."""
    if "weights" in kinds:
        return "'FromRun(\"runs/teacher\")'"
    return "'AdamW(lr=Cosine(1e-3, warmup=\"5%\"))'"


def _mask_user_classes(text: str, users: dict[str, str]) -> str:
    """Replace ``package.module:Class`` outside quotes by a placeholder name that Python can parse."""
    if not USER_MODULES and ":" not in _QUOTED.sub("", text):
        return text
    quoted = [match.span() for match in _QUOTED.finditer(text)]

    def mask(match: re.Match[str]) -> str:
        if any(start <= match.start() < end for start, end in quoted):
            return match[0]
        name = f"_user_{len(users)}"
        users[name] = match[0]
        return name

    return _USER.sub(mask, text)


def _refuse_other_kinds(node: ast.expr, kinds: tuple[str, ...]) -> None:
    """Refuse a whole text that names no component of these kinds, before anything is built."""
    name = node.func if isinstance(node, ast.Call) else node
    if not kinds or not isinstance(name, ast.Name) or name.id.startswith("_user_"):
        return
    words = " or ".join(map(a_or_an, kinds))
    options = [cls.__name__ for kind in kinds for cls in REGISTRY.classes(kind)]
    if name.id not in REGISTRY.names():
        raise unknown(name.id, options, kinds)
    found = getattr(REGISTRY.find(name.id), "kind", None)
    if found is not None and found not in kinds:
        raise DeclarationError(f"{name.id} is {a_or_an(found)}; allowed: {words}")


class _Reader:
    def __init__(self, users: dict[str, str]) -> None:
        self.users = users

    def read(self, node: ast.expr, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise DeclarationError(f"nested deeper than {MAX_DEPTH}")
        method = getattr(self, f"read_{type(node).__name__}", None)
        if method is None:
            words = {
                "Attribute": "attributes",
                "Subscript": "indexing",
                "Dict": "dicts",
                "Lambda": "functions",
            }
            raise DeclarationError(f"{words.get(type(node).__name__, type(node).__name__)} may not stand here")
        return method(node, depth + 1)

    def read_Constant(self, node: ast.Constant, depth: int) -> Any:
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise DeclarationError("a number is too large")
        if isinstance(node.value, int) and abs(node.value) > 1e300:
            raise DeclarationError("a number is too large")
        if isinstance(node.value, bool | int | float | str) or node.value is None:
            return node.value
        raise DeclarationError(f"{show(node.value)} may not stand here")

    def read_List(self, node: ast.List, depth: int) -> list[Any]:
        return [self.read(item, depth) for item in node.elts]

    def read_Tuple(self, node: ast.Tuple, depth: int) -> list[Any]:
        return [self.read(item, depth) for item in node.elts]

    def read_UnaryOp(self, node: ast.UnaryOp, depth: int) -> Any:
        value = self.read(node.operand, depth)
        if isinstance(node.op, ast.USub | ast.UAdd) and _is_number(value):
            return -value if isinstance(node.op, ast.USub) else value
        raise DeclarationError("a sign may stand before a number only")

    def read_BinOp(self, node: ast.BinOp, depth: int) -> Any:
        left, right = self.read(node.left, depth), self.read(node.right, depth)
        if _is_number(left) and _is_number(right):
            return _arithmetic(node.op, left, right)
        if isinstance(node.op, ast.Mult | ast.Add):
            from regimes.core.algebra import combine

            made = combine("*" if isinstance(node.op, ast.Mult) else "+", left, right)
            if made is not NotImplemented:
                return made
        raise DeclarationError("between components only * and + of schedules, controllers and numbers may stand")

    def read_Name(self, node: ast.Name, depth: int) -> Any:
        return self._call(node.id, [], {})

    def read_Call(self, node: ast.Call, depth: int) -> Any:
        called = _registered(node.func)
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            raise DeclarationError("* and ** may not stand in a call")
        args = [self.read(arg, depth) for arg in node.args]
        names = [str(k.arg) for k in node.keywords]
        if len(set(names)) != len(names):
            raise DeclarationError("a name is given twice")
        return self._call(called, args, {str(k.arg): self.read(k.value, depth) for k in node.keywords})

    def _call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        entry = user_class(self.users[name]) if name in self.users else REGISTRY.find(name)
        try:
            return entry(*args, **kwargs)
        except TypeError as why:
            raise DeclarationError(f"{name} cannot be built: {why}") from None


def _registered(func: ast.expr) -> str:
    """The name that is called: a word, or one with a dot that is registered so (`groups.muon`)."""
    if isinstance(func, ast.Name):
        return func.id
    dotted, known = ast.unparse(func), REGISTRY.names()
    if dotted in known:
        return dotted
    parts = dotted.split(".")
    ends = [end for place in range(1, len(parts)) if (end := ".".join(parts[place:])) in known]
    hint = f"; write {ends[0]}(...)" if ends else ""
    raise DeclarationError(f"only registered names may be called, and '{dotted}' is none{hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arithmetic(op: ast.operator, left: float, right: float) -> float:
    if abs(left) > 1e300 or abs(right) > 1e300:
        raise DeclarationError("a number is too large")
    if isinstance(op, ast.Div):
        if right == 0:
            raise DeclarationError("division by zero")
        return left / right
    results = {ast.Add: lambda: left + right, ast.Sub: lambda: left - right, ast.Mult: lambda: left * right}
    if type(op) not in results:
        raise DeclarationError("only + - * / may stand between numbers")
    value = results[type(op)]()
    if not math.isfinite(value):
        raise DeclarationError("a number is too large")
    return value
