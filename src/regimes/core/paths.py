"""Dotted paths into a declaration: list them, read them, edit them, compare two declarations by them."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import inspect
import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from regimes.core.component import Component
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest
from regimes.core.fields import UNSET, printed, table
from regimes.core.kinds import Controller, Schedule

#: Where an object lies in memory, which its declaration does not say.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for everything below `node`, parents before children."""
    for name, value in _children(node):
        path = f"{prefix}.{name}" if prefix else name
        yield path, value
        yield from walk(value, path)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Component):
        yield from node.children()
    elif isinstance(node, tuple) and any(isinstance(item, Component | float | int) for item in node):
        yield from ((str(index), item) for index, item in enumerate(node))


def knobs(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, value, Spec) for every knob below `node`; schedules and controllers are not entered."""
    if isinstance(node, Schedule | Controller):
        return
    if isinstance(node, tuple):
        for index, item in enumerate(node):
            yield from knobs(item, f"{prefix}.{index}")
        return
    if not isinstance(node, Component):
        return
    for name, value in node.children():
        path, spec = (f"{prefix}.{name}" if prefix else name), node.spec(name)
        if spec.role == "knob":
            if isinstance(value, tuple):
                yield from ((f"{path}.{index}", item, spec) for index, item in enumerate(value))
            else:
                yield path, value, spec
        else:
            yield from knobs(value, path)


def virtual(node: Any) -> Iterator[str]:
    """Yield paths that exist by convention: ``peak`` of a number is itself, of a product its first factor's."""
    for path, value, _ in knobs(node):
        if isinstance(value, int | float) or (isinstance(value, Component) and not _has(value, "peak")):
            yield f"{path}.peak"


def _has(node: Component, name: str) -> bool:
    return any(child == name for child, _ in node.children())


def get(node: Any, path: str) -> Any:
    """Return what stands at an exact path.

    Raises
    ------
    DeclarationError
        If nothing stands there, naming the nearest segment.
    """
    for segment in path.split("."):
        node = _step(node, segment)
    return node


def _step(node: Any, segment: str) -> Any:
    if isinstance(node, int | float) and segment == "peak":
        return node
    for name, value in _children(node):
        if name == segment:
            return value
    alias = getattr(node, "alias", lambda _: None)(segment)
    if alias is not None:
        return _step(_step(node, alias), segment)
    options = [name for name, _ in _children(node)]
    raise DeclarationError(f"nothing is called '{segment}' here; {nearest(segment, options)}", segment)


def edit(root: Any, edits: Mapping[str, Any], flatten: bool = False) -> Any:
    """Return a validated copy of `root` with values replaced.

    Parameters
    ----------
    root : Component
        What to edit; it is not changed.
    edits : mapping of str to value
        Keys are exact paths, patterns with ``*``, or endings that fit one path only. A string is read as
        notation where a component or number is expected.
    flatten : bool
        Whether a number may replace a whole schedule or controller; a person who writes that means its peak.

    Raises
    ------
    DeclarationError
        If a key fits nothing or too much, a number would replace a whole schedule, or a value is refused.
    """
    for key, value in edits.items():
        for path in expand(root, key):
            root = put(root, path.split("."), value, flatten)
    return root


def expand(root: Any, key: str) -> list[str]:
    """Return the exact paths that an edit's key stands for."""
    hint = getattr(root, "hint", nearest)
    real = [path for path, _ in walk(root)]
    made = list(virtual(root))
    if "*" in key:
        found = [path for path in dict.fromkeys(real + made) if fnmatch.fnmatchcase(path, key)]
        # A pattern such as *.lr.peak has to fit a regime whose paths begin with the rate's owner, too.
        found = found or [path for path in dict.fromkeys(real + made) if fnmatch.fnmatchcase(f".{path}", key)]
        if not found:
            raise DeclarationError(f"fits no knob; {hint(key.rsplit('.', 1)[-1], _leaves(real))}", key)
        return found
    if key in real or key in made:
        return [key]
    for lead in getattr(root, "implied_leads", lambda: ())():
        if f"{lead}.{key}" in real or f"{lead}.{key}" in made or _can_hold(root, f"{lead}.{key}"):
            return [f"{lead}.{key}"]
    found = _ending(root, real, made, key)
    if len(found) == 1:
        return found
    if found:
        raise DeclarationError(f"fits {len(found)} places ({', '.join(found[:4])}); write one, or '*.{key}'", key)
    if _can_hold(root, key):
        return [key]
    leaf, leaves = key.rsplit(".", 1)[-1], _leaves(real)
    # Where the last name is right, what leads to it is wrong.
    leads = tuple(f"{lead}." for lead in getattr(root, "implied_leads", lambda: ())())
    whole = [_without(path, leads) for path in real if path.endswith(f".{leaf}")]
    said = nearest(key, whole) if leaf in leaves else hint(leaf, leaves)
    raise DeclarationError(f"there is no '{key}' here; {said}", key)


def _ending(root: Any, real: list[str], made: list[str], key: str) -> list[str]:
    """Paths that end in `key`; a product's own peak stands for those of its factors, a number's is the last resort."""
    ends = [path for path in made if path.endswith(f".{key}")]
    of_products = [path for path in ends if isinstance(get(root, path.removesuffix(".peak")), Component)]
    covers = tuple(path.removesuffix("peak") for path in of_products)
    own = [path for path in real if path.endswith(f".{key}") and not path.startswith(covers)]
    return of_products + own or ends


def _without(path: str, leads: tuple[str, ...]) -> str:
    """A path without a lead that need not be written."""
    return next((path.removeprefix(lead) for lead in leads if path.startswith(lead)), path)


def _leaves(paths: list[str]) -> set[str]:
    return {path.rsplit(".", 1)[-1] for path in paths}


def _can_hold(root: Any, path: str) -> bool:
    """Whether the parent of `path` takes arbitrary names (a mixture's sources)."""
    if "." not in path:
        return False
    try:
        parent = get(root, path.rsplit(".", 1)[0])
    except DeclarationError:
        return False
    return isinstance(parent, Component) and parent.open_field is not None


def put(node: Any, segments: list[str], value: Any, flatten: bool = False) -> Any:
    """Return `node` with what stands at `segments` replaced, every holder validated again."""
    if not segments:
        if not flatten:
            _refuse_flattening(node, value)
        return value
    head, rest = segments[0], segments[1:]
    if isinstance(node, int | float) and segments == ["peak"]:
        return value
    if isinstance(node, tuple):
        return _put_in_tuple(node, head, rest, value, flatten)
    if not isinstance(node, Component):
        raise DeclarationError(f"nothing is called '{head}' here", head)
    if not _has(node, head):
        alias = getattr(node, "alias", lambda _: None)(head)
        if alias is not None:
            return put(node, [alias, *segments], value, flatten)
    try:
        child = node.child(head)
    except KeyError:
        child = None
    try:
        inner = put(child, rest, value, flatten)
    except DeclarationError as why:
        raise why.within(head) from None
    return node.replace(head, inner)


def _put_in_tuple(node: tuple[Any, ...], head: str, rest: list[str], value: Any, flatten: bool) -> tuple[Any, ...]:
    if not head.isdigit() or int(head) >= len(node):
        raise DeclarationError(f"there is no member '{head}' among {len(node)}", head)
    try:
        inner = put(node[int(head)], rest, value, flatten)
    except DeclarationError as why:
        raise why.within(head) from None
    return (*node[: int(head)], inner, *node[int(head) + 1 :])


def _refuse_flattening(old: Any, new: Any) -> None:
    if isinstance(new, str):
        try:
            number = float(new)
        except ValueError:
            return
    elif isinstance(new, int | float) and not isinstance(new, bool):
        number = float(new)
    else:
        return
    if isinstance(old, Schedule | Controller):
        raise DeclarationError(
            f"got {number:g} where {old!r} stands; to change its height edit '.peak', "
            f"to drop it write Constant({number:g})"
        )


class Difference(NamedTuple):
    """One path at which two declarations differ, with both printed values (None where nothing stands)."""

    path: str
    old: str | None
    new: str | None


def diff(old: Any, new: Any, prefix: str = "") -> list[Difference]:
    """Return where two declarations differ, as paths."""
    if old == new and type(old) is type(new):
        return []
    alike = type(old) is type(new) and (isinstance(old, Component) or (isinstance(old, tuple) and len(old) == len(new)))
    before, after = (dict(_children(old)), dict(_children(new))) if alike else ({}, {})
    if not before and not after:
        return [Difference(prefix, printed(old), printed(new))]
    out = []
    for name in dict.fromkeys([*before, *after]):
        path = f"{prefix}.{name}" if prefix else name
        if name not in after:
            out.append(Difference(path, printed(before[name]), None))
        elif name not in before:
            out.append(Difference(path, None, printed(after[name])))
        else:
            out += diff(before[name], after[name], path)
    return out


def canonical(value: Any) -> Any:
    """Return a JSON-able full form of a declaration, independent of defaults and of how numbers were typed.

    A function of the person's own counts by its name and source, another object by its class and printed form.
    """
    if isinstance(value, Component):
        items = {name: canonical(getattr(value, name)) for name in table(type(value))}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": items}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    if isinstance(value, Duration):
        return {"duration": [repr(float(value.value)), value.unit]}
    if isinstance(value, float):
        return {"float": repr(value + 0.0)}
    if value is UNSET:
        return {"unset": True}
    if value is None or isinstance(value, bool | int | str):
        return value
    return _canonical_object(value)


def _canonical_object(value: Any) -> dict[str, Any]:
    if isinstance(value, functools.partial):
        options = {str(name): canonical(item) for name, item in value.keywords.items()}
        return {"partial": canonical(value.func), "values": canonical(value.args), "options": options}
    if isinstance(value, types.FunctionType | types.MethodType):
        return {"function": printed(value), "source": _source(value)}
    cls = type(value)
    return {"object": f"{cls.__module__}:{cls.__qualname__}", "printed": ADDRESS.sub("", repr(value))}


def _source(function: Any) -> str:
    """The text of a function; where nobody kept it (a prompt, a notebook that is gone), its byte code."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = function.__code__
        return f"{code.co_code.hex()} {ADDRESS.sub('', repr(code.co_consts))}"


def digest(value: Any) -> str:
    """Return the content hash of a declaration: 16 hexadecimal digits of SHA-256 over its canonical form."""
    text = json.dumps(canonical(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
