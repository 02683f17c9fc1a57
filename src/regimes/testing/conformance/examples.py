"""Instances to try a class with: from its own hook, its defaults, its docstring, or made up by type."""

from __future__ import annotations

import ast
import contextlib
import doctest
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from regimes.core import fields
from regimes.core.component import Component
from regimes.core.duration import Duration
from regimes.core.errors import RegimesError
from regimes.core.notation import parse
from regimes.core.registry import USER_MODULES

#: What stands for a part of each kind.
PARTS = {
    "averager": "EMA(0.9)",
    "controller": "regimes.testing.conformance.toys:Held(0.1)",
    "detector": "ModifiedZScore()",
    "estimator": "RandomDirections(3)",
    "grad_transform": "ClipNorm(1.0)",
    "group": "Group('*', SGD(lr=0.05))",
    "loss": "CrossEntropy()",
    "optimizer": "SGD(lr=0.05, momentum=0.9)",
    "phase": "Phase('main', optimizer=SGD(lr=0.05), batch_size=4)",
    "sampler": "Reshuffle()",
    "schedule": "Linear(0.1, 0.01)",
    "weights": "regimes.testing.conformance.toys:Given()",
}
WHOLE = {
    "phase": PARTS["phase"],
    "regime": "Regime(optimizer=SGD(lr=0.05), batch_size=4, budget='8 steps')",
    "range": "times(0.5, 2.0)",
}
_NUMBERS = (0.01, 0.1, 0.5, 0.9, 1.0, 2.0, 8.0)


class NoExample(RegimesError):
    """No instance of the class could be made; it should say one in a classmethod ``example()``."""


@contextlib.contextmanager
def importable(*classes: type) -> Iterator[None]:
    """Inside, the notation finds these classes, and the toys of this suite, by ``package.module:Class``."""
    wanted = {cls.__module__ for cls in classes} | {"regimes.testing.conformance.toys"}
    added = wanted - USER_MODULES
    USER_MODULES.update(added)
    try:
        yield
    finally:
        USER_MODULES.difference_update(added)


def candidates(cls: type[Component]) -> Iterator[Component]:
    """Yield distinct instances: those of ``cls.example()``, the default, those in the docstring, a made-up one."""
    seen: list[Component] = []
    for made in _attempts(cls):
        if made not in seen:
            seen.append(made)
            yield made


def _attempts(cls: type[Component]) -> Iterator[Component]:
    hook = getattr(cls, "example", None)
    if hook is not None:
        found = hook()
        yield from (found if isinstance(found, list | tuple) else [found])
        return
    if cls.kind in WHOLE and cls.__name__ in WHOLE[cls.kind]:
        yield parse(WHOLE[cls.kind])
        return
    with contextlib.suppress(RegimesError):
        yield cls()
    yield from documented(cls)
    with contextlib.suppress(RegimesError, NoExample):
        yield made_up(cls)


def documented(cls: type[Component]) -> Iterator[Component]:
    """Yield the instances that the docstring's examples build or print, as far as the notation can read them."""
    shown = doctest.DocTestParser().get_examples(cls.__doc__ or "")
    for text in [part for example in shown for part in (example.source, example.want)]:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == cls.__name__:
                node.func.id = cls.printed_name()
                with contextlib.suppress(RegimesError), importable(cls):
                    yield parse(ast.unparse(node))


def made_up(cls: type[Component]) -> Component:
    """An instance with every required field filled by its type.

    Raises
    ------
    NoExample
        If a field's type tells too little.
    """
    required = [info for info in fields.table(cls).values() if info.default is fields.MISSING]
    with importable(cls):
        return cls(**{info.name: _value(info, info.annotation, place) for place, info in enumerate(required)})


def _value(info: fields.Info, annotation: Any, place: int) -> Any:
    """A value that the type allows; numbers grow from field to field (low before high, start before end)."""
    choices = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if info.spec.role == "knob" or float in choices:
        return _number(info, _NUMBERS[place:] + _NUMBERS)
    for choice in choices:
        if choice is int:
            return int(_number(info, (*(2, 32, 64)[place:], 2, 1, 3, 8)))
        if choice is bool:
            return False
        if choice is str:
            return info.name
        if choice is Duration:
            return "50%"
        if typing.get_origin(choice) is Literal:
            return typing.get_args(choice)[0]
        if typing.get_origin(choice) is tuple:
            return (_value(info, typing.get_args(choice)[0], place),)
        if isinstance(choice, type) and issubclass(choice, Component) and choice.kind in PARTS:
            return parse(PARTS[choice.kind])
    raise NoExample(f"no example of '{info.name}: {annotation}' can be made up")


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _number(info: fields.Info, numbers: tuple[float, ...]) -> float:
    for number in numbers:
        with contextlib.suppress(RegimesError):
            info.spec.check(number, info.name)
            return number
    raise NoExample(f"no number for '{info.name}' was found in its range")
