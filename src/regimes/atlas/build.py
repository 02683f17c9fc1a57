"""Write the index of components: ``python -m regimes.atlas.build``."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import types
import typing
from pathlib import Path
from typing import Any

import regimes
from regimes import workloads
from regimes.atlas import INDEX
from regimes.core import fields
from regimes.core.card import Card
from regimes.core.component import Component
from regimes.core.duration import Duration
from regimes.core.fields import MISSING, UNSET, Info
from regimes.core.registry import PACKAGES, REGISTRY

_PLAIN = {int: "an integer", float: "a finite number", bool: "True or False", str: "text", type(None): "None"}
TESTS = Path(__file__).parents[3] / "tests"
#: What stands in a declaration beside the components of a kind.
_CORE = "regimes.core"


def build() -> dict[str, Any]:
    """Return the index of everything that our own packages register and export."""
    ours = (*PACKAGES, _CORE)
    found = [cls for cls in REGISTRY.classes() if cls.__module__.startswith(tuple(f"{p}." for p in ours))]
    exports: dict[str, str] = {}
    for package in map(importlib.import_module, PACKAGES):
        exports |= dict.fromkeys(getattr(package, "__all__", ()), package.__name__)
    return {
        "components": [describe(cls) for cls in sorted(found, key=lambda cls: cls.__name__)],
        "functions": [describe_function(function) for function in functions(exports | regimes._MODULES)],
        "workloads": [describe_workload(name) for name in workloads.names()],
        "exports": dict(sorted(exports.items())),
        "evidence": {
            "exact": exact_tests(),
            "property": checks([cls for cls in found if getattr(getattr(cls, "card", None), "rows", ())]),
        },
    }


def functions(exports: dict[str, str]) -> list[Any]:
    """Return the exported functions, and classes that are no components, that have a card."""
    named = [getattr(importlib.import_module(package), name) for name, package in sorted(exports.items())]
    plain = [entry for entry in named if not (inspect.isclass(entry) and issubclass(entry, Component))]
    return [entry for entry in plain if isinstance(getattr(entry, "card", None), Card)]


def describe_function(function: Any) -> dict[str, Any]:
    """Return the entry of a function or a plain class: that of a component without fields."""
    kind = "class" if inspect.isclass(function) else "function"
    about = {"name": function.__name__, "kind": kind, "module": function.__module__, "needs": [], "fields": []}
    return about | _carded(function.card)


def describe_workload(name: str) -> dict[str, Any]:
    """Return the entry of a built-in workload: its arguments are its fields."""
    module, _, function = workloads.BUILT_IN[name].partition(":")
    built = getattr(importlib.import_module(module), function)
    sentence = inspect.cleandoc(built.__doc__).split("\n\n")[0].replace("\n", " ")
    title = sentence.removeprefix("Return ").split(";")[0].rstrip(".")
    hints = typing.get_type_hints(built)
    fields_ = [
        {"name": one.name, "default": repr(one.default), "allowed": _words(hints[one.name])}
        for one in inspect.signature(built).parameters.values()
    ]
    about = {"name": name, "kind": "workload", "module": module, "needs": [], "fields": fields_}
    return about | _carded(Card(title=title[0].upper() + title[1:], axes=(), source="", cost=""))


def exact_tests() -> dict[str, int]:
    """Return how many tests of its mathematics each component has: those that say ``@pytest.mark.exact("Name")``.

    Tests are no part of the package: they are counted where its sources lie beside them.
    """
    counts: dict[str, int] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in _exact_of(node):
                counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _exact_of(node: ast.AST) -> list[str]:
    if not isinstance(node, ast.FunctionDef):
        return []
    calls = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
    chosen = [call for call in calls if ast.unparse(call.func) == "pytest.mark.exact"]
    return [ast.literal_eval(argument) for call in chosen for argument in call.args]


def checks(classes: list[Any]) -> dict[str, int]:
    """Return how many checks of the conformance suite each of these has to pass."""
    from regimes.testing import conformance

    return {cls.__name__: len(list(conformance.checks(cls))) for cls in sorted(classes, key=lambda cls: cls.__name__)}


def describe(cls: Any) -> dict[str, Any]:
    """Return the entry of one component class.

    Examples
    --------
    >>> from regimes.schedules import Cosine
    >>> entry = describe(Cosine)
    >>> entry["kind"], entry["axes"], entry["fields"][0]
    ('schedule', ['rates'], {'name': 'peak', 'default': None, 'allowed': 'a finite number'})
    """
    card = getattr(cls, "card", None)
    first = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return {
        "name": cls.__name__,
        "kind": cls.kind,
        "module": cls.__module__,
        **_carded(card or Card(title=first.rstrip("."), axes=(), source="", cost="")),
        "needs": list(getattr(cls, "needs", ())),
        "fields": [
            {"name": info.name, "default": _default(info), "allowed": allowed(info)}
            for info in fields.table(cls).values()
        ],
    }


def _carded(card: Card) -> dict[str, Any]:
    return {
        "title": card.title,
        "axes": list(card.axes),
        "shelf": card.shelf,
        "source": card.source,
        "when": card.when,
        "cost": card.cost,
        "rows": list(card.rows),
        "deviations": list(card.deviations),
        "claims": [claim.text for claim in card.claims],
    }


def _default(info: Info) -> str | None:
    if info.default is MISSING:
        return None
    return "" if info.default is UNSET else fields.printed(info.default)


def allowed(info: Info) -> str:
    """Say what a field takes.

    Examples
    --------
    >>> from regimes.schedules import WSD
    >>> [allowed(info) for info in fields.table(WSD).values()][1:4]
    ['a Duration', 'a finite number', "'linear', 'sqrt', 'cosine', 'exponential' or 'inverse'"]
    """
    if info.spec.role == "knob":
        number = info.spec.allowed()
        if isinstance(info.default, tuple):
            return f"{len(info.default)} knobs, each {number}"
        return f"{number}, a schedule or a controller"
    bounded = any(bound is not None for bound in (info.spec.low, info.spec.high, info.spec.above, info.spec.below))
    return _words(info.annotation, info.spec.allowed() if bounded else None)


def _words(annotation: Any, number: str | None = None) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(choice, number) for choice in inner))
    if origin is typing.Literal:
        shown = [repr(choice) for choice in inner]
        return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
    if origin is tuple:
        kinds = [kind for kind in inner if kind is not Ellipsis]
        return f"a list of {_words(kinds[0], number).removeprefix('a ')}" if len(inner) == 2 else "a list"
    if annotation in (int, float) and number is not None:
        return number.replace("a finite number", _PLAIN[annotation])
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Component | Duration):
        return f"{'an' if annotation.__name__[0] in 'AEIOU' else 'a'} {annotation.__name__}"
    return "any value"


def text() -> str:
    """Return the index as it is stored: one component a line."""
    index = build()
    rows = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in index["components"])
    exports = ",\n".join(f"{json.dumps(name)}: {json.dumps(module)}" for name, module in index["exports"].items())
    functions = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in index["functions"])
    data = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in index["workloads"])
    parts = (
        f'"components": [\n{rows}\n]',
        f'"functions": [\n{functions}\n]',
        f'"workloads": [\n{data}\n]',
        f'"exports": {{\n{exports}\n}}',
        f'"evidence": {json.dumps(index["evidence"])}',
    )
    return "{" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Write the index."""
    # In one piece: another process may be reading it.
    part = Path(INDEX).with_suffix(".part")
    part.write_text(text(), encoding="utf-8")
    part.replace(INDEX)


if __name__ == "__main__":
    main()
