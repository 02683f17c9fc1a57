"""What code does, as a digest: functions with what they close over and refer to, classes, settings, data in memory."""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import importlib.util
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from regimes.core.component import Component
from regimes.core.duration import Duration

_OURS = Path(__file__).resolve().parent.parent
_STANDARD = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")})
_INSTALLED = {"site-packages", "dist-packages"}
_IMPORT = dis.opmap["IMPORT_NAME"]
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
#: Entries of longer containers are read in part, evenly: the digest of a large list must not cost a second.
BOUND = 10_000
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
#: Where wrappers of a function (methods, properties, partials, caches, decorators) keep it.
_INNER = ("__func__", "__wrapped__", "fget", "fset", "fdel", "func")


class Reader:
    """Follows values to everything that they do, and digests it by the module that it stands in.

    A function is its byte code, its defaults, attributes and closure, and what it refers to by name: other functions
    of the person's own modules, with theirs, and values. So an edited helper is noticed wherever it stands, and a
    comment, or code that nothing reaches, is not. Of installed packages the name is kept: `packages` has their
    versions. What lists and dicts of more than `BOUND` entries hold is read in part: `sampled` names them.
    """

    def __init__(self, known: Iterable[Any] = ()) -> None:
        self.packages: dict[str, str] = {}
        self.sampled: set[str] = set()
        self._parts: dict[str, Any] = {}
        self._followed: set[tuple[str, tuple[str, ...]]] = set()
        # What has an address has to live as long as the addresses are compared.
        self._seen: dict[int, Any] = {id(value): value for value in known}

    def digests(self) -> dict[str, str]:
        """Digest by module."""
        return {module: digest.hexdigest()[:16] for module, digest in sorted(self._parts.items())}

    def read(self, value: Any, module: str) -> None:
        """Add a value that stands in `module`."""
        if isinstance(value, _PLAIN):
            self._add(module, repr(value))
            return
        self._add(module, type(value).__qualname__)
        # Of equal constants a compiler may make one or several, and a declaration may hold one part at two places.
        if not isinstance(value, tuple | frozenset | Component | Duration):
            if id(value) in self._seen:
                return
            self._seen[id(value)] = value
        if isinstance(value, Tensor | np.ndarray):
            self._array(value, module)
        elif isinstance(value, list | tuple | set | frozenset | Mapping):
            self._container(value, module)
        elif isinstance(value, types.FunctionType):
            self._function(value, module)
        elif isinstance(value, type):
            self._class(value, module)
        elif isinstance(value, types.ModuleType):
            self._add(module, value.__name__)
        else:
            self._object(value, module)

    def _add(self, module: str, text: str | bytes) -> None:
        digest = self._parts.setdefault(module, hashlib.sha256())
        digest.update(text.encode() + b"\0" if isinstance(text, str) else text)

    def _array(self, value: Any, module: str) -> None:
        self._add(module, f"{value.dtype}{tuple(value.shape)}")
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                self.read(value.tolist(), module)
            else:
                self._add(module, np.ascontiguousarray(value).tobytes())
        else:
            self._add(module, tensor_bytes(value))

    def _container(self, value: Any, module: str) -> None:
        self._add(module, f"{len(value)}")
        if isinstance(value, set | frozenset):
            value = sorted(value, key=repr)
        entries = value.items() if isinstance(value, Mapping) else value
        if len(value) > BOUND:
            if not isinstance(value, Mapping) and all(isinstance(item, _PLAIN) for item in value):
                self._add(module, repr(value))
                return
            self.sampled.add(f"{module}: a {type(value).__name__} of {len(value)}")
            kept = set(np.linspace(0, len(value) - 1, BOUND // 10).astype(int).tolist())
            entries = (entry for place, entry in enumerate(entries) if place in kept)
        for entry in entries:
            if isinstance(value, Mapping):
                self.read(entry[0], module)
                entry = entry[1]
            self.read(entry, module)

    def _function(self, function: types.FunctionType, module: str) -> None:
        home = self._home(function, module)
        self._add(home, function.__qualname__)
        if own(str(function.__globals__.get("__name__"))):
            self._code(function.__code__, home, function.__globals__)
        # A decorator of an installed package still holds what is the person's own.
        self._values(function.__closure__, (function.__defaults__, function.__kwdefaults__), vars(function), home)

    def _values(self, cells: Any, defaults: Any, attributes: Mapping[str, Any], module: str) -> None:
        for cell in cells or ():
            try:
                self.read(cell.cell_contents, module)
            except ValueError:  # a name that is not bound yet
                continue
        self.read(defaults, module)
        self.read(attributes, module)

    def _code(self, code: types.CodeType, module: str, names: Mapping[str, Any]) -> None:
        self._add(module, code.co_code)
        self._add(module, f"{code.co_qualname}{code.co_varnames}{code.co_names}{code.co_flags}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, module, names)
            else:
                self.read(constant, module)
        self._named(code.co_names, names, module)
        for imported in _imported(code, str(names.get("__package__") or "")):
            self._taken(code.co_names, imported)

    def _named(self, wanted: tuple[str, ...], names: Mapping[str, Any], module: str) -> None:
        """Follow the names that code refers to; through a module of the person's own to what is taken from it."""
        for name in wanted:
            value = names.get(name)
            if isinstance(value, types.ModuleType):
                self._taken(wanted, value)
            elif name in names:
                self.read(value, module)

    def _taken(self, wanted: tuple[str, ...], module: types.ModuleType) -> None:
        if not own(module.__name__):
            self._package(module.__name__)
        elif (module.__name__, wanted) not in self._followed:
            self._followed.add((module.__name__, wanted))
            self._named(wanted, vars(module), module.__name__)

    def _class(self, cls: type, module: str) -> None:
        home = self._home(cls, module)
        self._add(home, cls.__qualname__)
        if not own(str(cls.__module__)):
            return
        for base in cls.__bases__:
            self.read(base, home)
        for name, value in vars(cls).items():
            dunder = name.startswith("__") and name.endswith("__")
            if not dunder or isinstance(value, types.FunctionType):
                self._add(home, name)
                self.read(value, home)

    def _object(self, value: Any, module: str) -> None:
        cls = type(value)
        self.read(cls, module)
        inner = [getattr(value, name) for name in _INNER if _has(value, name)]
        for part in inner:
            self.read(part, module)
        if isinstance(value, types.MethodType):
            self.read(value.__self__, module)
        elif isinstance(value, functools.partial):
            self._values((), (value.args, value.keywords), vars(value), module)
        elif isinstance(value, Component):
            for name, part in value.children():
                self._add(module, name)
                self.read(part, module)
        elif (_open(value) or own(cls.__module__)) and (state := _state(value)):
            self.read(state, module)
        elif not inner:
            self._add(module, getattr(value, "__qualname__", None) or ADDRESS.sub("", repr(value)))

    def _home(self, value: Any, module: str) -> str:
        """The module that a function or class of the person's own stands in; an installed one is named where it is met."""
        home = str(getattr(value, "__module__", None) or module)
        if own(home):
            return home
        self._package(home)
        self._add(module, home)
        return module

    def _package(self, module: str) -> None:
        top = module.partition(".")[0]
        version = getattr(sys.modules.get(top), "__version__", None)
        if isinstance(version, str):
            self.packages[top] = version


def _has(value: Any, name: str) -> bool:
    """Whether an object really has an attribute: one that answers to every name has not."""
    return name in getattr(value, "__dict__", ()) or any(name in vars(cls) for cls in type(value).__mro__)


def _state(value: Any) -> dict[str, Any]:
    """Attributes of an object, whether it keeps them in a dict or in slots."""
    slots = [name for cls in type(value).__mro__ for name in _names(vars(cls).get("__slots__", ()))]
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _names(slots: Any) -> Iterable[str]:
    return (name for name in ([slots] if isinstance(slots, str) else slots) if name not in ("__dict__", "__weakref__"))


def _open(value: Any) -> bool:
    """Whether what an object of an installed class does is told by its attributes rather than by its printed form."""
    return isinstance(value, nn.Module | Dataset) or type(value).__repr__ is object.__repr__


@functools.cache
def own(module: str) -> bool:
    """Whether a module is the person's own: a script, a notebook, a folder; not installed, built in or ours."""
    found = sys.modules.get(module)
    if found is None or module in sys.builtin_module_names:
        return False
    file = getattr(found, "__file__", None)
    if file is None:
        return module == "__main__"
    return _own_file(file)


def _own_file(file: str) -> bool:
    path = Path(file).resolve()
    return not _INSTALLED & {*path.parts} and not any(path.is_relative_to(folder) for folder in (_OURS, *_STANDARD))


def _imported(code: types.CodeType, package: str) -> Iterator[types.ModuleType]:
    """The person's own modules that code imports when it runs, imported: what they hold belongs to it."""
    if _IMPORT not in code.co_code[::2]:
        return
    steps = list(dis.get_instructions(code))
    for level, _, step in zip(steps, steps[1:], steps[2:]):
        if step.opname == "IMPORT_NAME":
            with contextlib.suppress(Exception):  # it may be guarded, and fails as it would there
                name = importlib.util.resolve_name("." * level.argval + step.argval, package)
                spec = importlib.util.find_spec(name)
                if spec is not None and spec.origin is not None and _own_file(spec.origin):
                    yield importlib.import_module(name)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The content of a tensor."""
    content = tensor.detach().cpu()
    if content.is_sparse:
        content = torch.cat(
            [content.coalesce().indices().double().reshape(-1), content.coalesce().values().reshape(-1)]
        )
    return content.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
