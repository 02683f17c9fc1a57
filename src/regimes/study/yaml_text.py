"""YAML 1.2 into a tree that remembers lines: safe, duplicate keys refused, parser errors turned into sentences."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from regimes.study.problems import FileErrors, Problem

MAX_CHARACTERS = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40
_CORE = "tag:yaml.org,2002:"
_AS_TEXT = {f"{_CORE}{name}" for name in ("str", "timestamp", "merge", "value")}
_QUOTE = "put the whole value in single quotes"
#: Part of the parser's words -> ours.
_SENTENCES = (
    ("mapping values are not allowed", f"a ': ' in a value without quotes ({_QUOTE}), or a line indented wrongly"),
    ("found character '\\t'", "a tab stands here; YAML indents with spaces"),
    ("found unexpected end of stream", "a quote is opened and not closed"),
    ("expected <block end>, but found '<scalar>'", "text goes on behind a closing quote; inside '...' use \"...\""),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("expected ',' or", f"YAML splits here inside brackets; {_QUOTE}"),
    ("but found another document", "a second document ('---') begins here; a file holds one"),
    ("expected the node content, but found '<stream end>'", "a bracket is opened and not closed"),
    ("could not find expected ':'", "a key without ': ' and a value stands here"),
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A part of the file.

    Parameters
    ----------
    value : dict of str to Node, list of Node, or scalar
    line : int
        Where its key stands (for members of a list: itself), from 1.
    flow : bool
        Written in {...} or [...].
    plain : bool
        A scalar without quotes.
    comment : str
        What stands behind a plain scalar on its line.
    """

    value: Any
    line: int
    flow: bool = False
    plain: bool = False
    comment: str = ""

    @property
    def data(self) -> Any:
        """The content without lines."""
        if isinstance(self.value, dict):
            return {name: child.data for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.data for child in self.value]
        return self.value

    def line_of(self, key: str) -> int:
        """Return the line of the deepest part on the dotted path `key`; phases are found by name or place."""
        node, line, segments = self, self.line, key.split(".") if key else []
        while segments:
            found = _descend(node, segments)
            if found is None:
                break
            node, segments = found
            line = node.line
        return line


def _descend(node: Node, segments: list[str]) -> tuple[Node, list[str]] | None:
    if isinstance(node.value, list):
        place = segments[0]
        if place.isdigit() and int(place) < len(node.value):
            return node.value[int(place)], segments[1:]
        named = (child for child in node.value if isinstance(child.value, dict) and "name" in child.value)
        return next(((c, segments[1:]) for c in named if c.value["name"].value == place), None)
    if not isinstance(node.value, dict):
        return None
    for count in range(len(segments), 0, -1):
        child = node.value.get(".".join(segments[:count]))
        if child is not None:
            return child, segments[count:]
    phases = node.value.get("phases")
    return _descend(phases, segments) if phases is not None else None


def read(text: str, file: str) -> Node:
    """Return the tree of a YAML text.

    Parameters
    ----------
    text : str
    file : str
        For messages.

    Raises
    ------
    FileErrors
        If the text is no YAML, is empty, or holds tags, complex keys or a key twice.

    Examples
    --------
    >>> node = read("seed: 3\\nregime: {lag: 1}\\n", "a.yaml")
    >>> node.data, node.line_of("regime.lag")
    ({'seed': 3, 'regime': {'lag': 1}}, 2)
    """
    if len(text) > MAX_CHARACTERS:
        raise _error(file, 1, f"got {len(text)} characters; allowed: at most {MAX_CHARACTERS}")
    directive = re.search(r"^%YAML\s+(?!1\.2\b).*", text, re.MULTILINE)
    if directive:
        raise _error(file, text.count("\n", 0, directive.start()) + 1, f"got '{directive[0]}'; allowed: YAML 1.2")
    root = _compose(text, file)
    if root is None:
        raise _error(file, 1, "the file is empty; it needs workload: and regime:, or arms: and compare:")
    reader = _Reader(file, text.splitlines())
    node = reader.read(root, root.start_mark.line + 1, 0)
    if reader.problems:
        raise FileErrors(file, reader.problems)
    return node


def _error(file: str, line: int, message: str) -> FileErrors:
    return FileErrors(file, [Problem(line, "", message)])


def _compose(text: str, file: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of anchors that are set anew, which YAML allows
            return YAML(typ="safe", pure=True).compose(text)
    except RecursionError:
        raise _error(file, 1, f"nested deeper than {MAX_DEPTH}") from None
    except YAMLError as why:
        mark = getattr(why, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        raise _error(file, line, _sentence(why, text, mark)) from None
    except (ValueError, LookupError, TypeError, AttributeError) as why:
        raise _error(file, 1, f"is no YAML ({why})") from None


def _sentence(why: Any, text: str, mark: Any) -> str:
    problem = str(getattr(why, "problem", None) or str(why).splitlines()[0])
    if mark is not None and "found undefined alias" in problem:
        rest = text.splitlines()[mark.line][mark.column :]
        word = re.match(r"[^\s,:}\]]*", rest)
        name = word[0] if word else rest
        return f"YAML takes '{name}' for an alias; write it in quotes: \"{name}\""
    for part, said in _SENTENCES:
        if part in problem:
            return said
    start = re.search(r"found character '(.+)' that cannot start any token", problem)
    if start:
        return f"a value may not begin with '{start[1]}' without quotes; {_QUOTE}"
    return f"is no YAML: {problem}"


class _Reader:
    """Turns the parser's nodes into ours, within bounds."""

    def __init__(self, file: str, lines: list[str]) -> None:
        self.file, self.lines, self.count = file, lines, 0
        self.problems: list[Problem] = []

    def read(self, node: Any, line: int, depth: int) -> Node:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            what = f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else f"has more than {MAX_NODES} parts"
            raise _error(self.file, line, f"{what} (aliases count as often as they are used)")
        if node.id == "mapping":
            return Node(dict(self._items(node, depth)), line, flow=bool(node.flow_style))
        if node.id == "sequence":
            items = [self.read(item, item.start_mark.line + 1, depth + 1) for item in node.value]
            return Node(items, line, flow=bool(node.flow_style))
        plain = node.style is None
        return Node(self._scalar(node, line), line, plain=plain, comment=self._comment(node) if plain else "")

    def _items(self, node: Any, depth: int) -> Iterator[tuple[str, Node]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                self.problems.append(Problem(line, "", "a list or mapping stands where a key is expected"))
                continue
            name = str(key.value)
            if name in seen:
                self.problems.append(Problem(line, name, f"is given twice, first on line {seen[name]}"))
                continue
            if name == "<<":
                self.problems.append(Problem(line, name, "merge keys are not read; derive an arm with like:"))
                continue
            seen[name] = line
            yield name, self.read(value, line, depth + 1)

    def _scalar(self, node: Any, line: int) -> Any:
        tag = str(node.tag)
        if tag == f"{_CORE}null":
            return None
        if tag == f"{_CORE}bool":
            return node.value.lower() == "true"
        if tag in (f"{_CORE}int", f"{_CORE}float"):
            # 0o14 and 1_000 are integers, .inf is a float: the library knows.
            # 007 is a label, and 12e3456 may be a commit: nobody means 7 or infinity by them.
            if re.match(r"[+-]?0\d", node.value):
                return node.value
            try:
                value = (int if tag.endswith("int") else float)(self._number(node.value))
            except (ValueError, OverflowError):
                return node.value
            overflown = isinstance(value, float) and math.isinf(value) and "inf" not in node.value.lower()
            return node.value if overflown else value
        if tag not in _AS_TEXT:
            self.problems.append(Problem(line, "", f"the tag '{tag}' is not read; allowed: plain YAML"))
        return str(node.value)

    @staticmethod
    def _number(text: str) -> Any:
        body = text.replace("_", "").lower()
        sign, digits = (-1, body[1:]) if body.startswith("-") else (1, body.lstrip("+"))
        if digits in (".inf", ".nan"):
            return sign * float(digits[1:])
        if digits[:2] in ("0x", "0o", "0b"):
            return sign * int(digits, 0)
        return body

    def _comment(self, node: Any) -> str:
        line = self.lines[node.end_mark.line] if node.end_mark.line < len(self.lines) else ""
        return line[node.end_mark.column :].strip()
