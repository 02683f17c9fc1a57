"""How one field of a component is coerced, checked, printed and compared."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from regimes.core.duration import Duration
from regimes.core.errors import FOREIGN, DeclarationError, a_or_an, nearest, show


class _Marker:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


#: No default: the argument is required.
MISSING = dataclasses.MISSING
#: A field of a phase that the person left to the regime or to the default.
UNSET = _Marker("UNSET")


@dataclass(frozen=True)
class Spec:
    """Constraint of a field, declared once: it validates, writes the message and feeds the tests."""

    role: str = "fixed"
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    integer: bool = False
    optional: bool = False
    unset: bool = False

    def allowed(self) -> str:
        """Say which numbers are allowed."""
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
            if bound is not None
        ]
        noun = "an integer" if self.integer else "a finite number"
        return f"{noun} {' and '.join(bounds)}" if bounds else noun

    def check(self, value: float, key: str, origin: str = "") -> None:
        """Refuse a number out of range."""
        inside = (
            _is_finite(value)
            and (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise DeclarationError(f"{origin}got {show(value)}; allowed: {self.allowed()}", key)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


@dataclass(frozen=True)
class Info:
    """A field of a component class: name, annotation, default, constraint."""

    name: str
    annotation: Any
    default: Any
    spec: Spec
    kw_only: bool = False

    def coerce(self, value: Any, key: str) -> Any:
        """Return the validated value; strings become Durations or components where those are expected."""
        if value is UNSET:
            if not self.spec.unset:
                raise DeclarationError("needs a value", key)
            return value
        if self.spec.role == "knob":
            if isinstance(self.default, tuple) or isinstance(value, tuple | list):
                return self._coerce_tuple_of_knobs(value, key)
            return coerce_knob(value, self.spec, key)
        return coerce(value, self.annotation, self.spec, key)

    def _coerce_tuple_of_knobs(self, value: Any, key: str) -> tuple[Any, ...]:
        if not isinstance(value, tuple | list) or not isinstance(self.default, tuple):
            raise DeclarationError(f"got {show(value)}; allowed: {self.spec.allowed()}", key)
        if len(value) != len(self.default):
            raise DeclarationError(f"got {show(value)}; allowed: {len(self.default)} numbers", key)
        return tuple(coerce_knob(item, self.spec, f"{key}.{i}") for i, item in enumerate(value))


_TABLES: dict[type, dict[str, Info]] = {}


def table(cls: type) -> dict[str, Info]:
    """Return the fields of a component class, annotations resolved once."""
    found = _TABLES.get(cls)
    if found is None:
        hints = typing.get_type_hints(cls)
        infos = [
            Info(f.name, hints[f.name], f.default, f.metadata.get("spec", Spec()), f.kw_only is True)
            for f in dataclasses.fields(cls)
        ]
        found = _TABLES[cls] = {info.name: info for info in sorted(infos, key=lambda info: info.kw_only)}
    return found


def positional(cls: type) -> tuple[str, ...]:
    """Return the names of the fields that may be given by position."""
    return tuple(name for name, info in table(cls).items() if not info.kw_only)


def wrap_init(init: Callable[..., None]) -> Callable[..., None]:
    """Turn unknown, missing and surplus arguments into sentences, and gather those of an open field."""
    if getattr(init, "_wrapped_by_regimes", False):
        return init

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        infos = table(type(self))
        names, places = list(infos), positional(type(self))
        unknown = [name for name in kwargs if name not in names]
        if unknown and self.open_field is not None:
            pairs = dict(kwargs.pop(self.open_field, ()))
            pairs |= {name: kwargs.pop(name) for name in unknown}
            self.check_written(unknown, kwargs)
            kwargs[self.open_field] = tuple(sorted(pairs.items()))
        elif unknown:
            held = dict(zip(places, args)) | kwargs
            hint = _of_a_part(type(self), unknown[0], held) or nearest(unknown[0], names)
            raise DeclarationError(f"{type(self).__name__} has no field '{unknown[0]}'; {hint}", unknown[0])
        if len(args) > len(places):
            raise DeclarationError(f"{type(self).__name__} takes at most {len(places)} values, got {len(args)}")
        doubled = [name for name in places[: len(args)] if name in kwargs]
        if doubled:
            raise DeclarationError("given twice, by position and by name", doubled[0])
        given = {*kwargs, *places[: len(args)]}
        missing = [name for name, info in infos.items() if info.default is MISSING and name not in given]
        if missing:
            raise DeclarationError(f"{type(self).__name__} needs a value for '{missing[0]}'", missing[0])
        init(self, *args, **kwargs)

    __init__._wrapped_by_regimes = True  # type: ignore[attr-defined]
    return __init__


def _of_a_part(cls: type, name: str, held: dict[str, Any]) -> str:
    """Say which field's component has the field that is asked of `cls`; empty where it has it itself, or none has it."""
    from regimes.core.component import Component
    from regimes.core.registry import REGISTRY

    wanted = FOREIGN.get(name.lower(), name)
    for place, info in table(cls).items() if wanted not in table(cls) else ():
        for kind in (
            c for c in _choices(info.annotation) if isinstance(c, type) and issubclass(c, Component) and c.kind
        ):
            found = held.get(place)
            some = () if info.spec.role == "knob" else REGISTRY.classes(kind.kind)  # mostly it holds a number
            parts = [type(found)] if isinstance(found, kind) else some
            having = [part for part in parts if issubclass(part, kind) and wanted in table(part)]
            if having:
                key = "" if place in positional(cls)[:1] and info.default is MISSING else f"{place}="
                inner = min(having, key=usual)
                return f"it belongs to its {place}: {cls.__name__}({key}{inner.__name__}({wanted}=...))"
    return ""


def usual(cls: Any) -> tuple[bool, bool, str]:
    """Order examples: optimizers before what else has such a field, what most people want before the rest."""
    card = getattr(cls, "card", None)
    return cls.kind != "optimizer", card is None or card.shelf != "core", cls.__name__


def coerce_knob(value: Any, spec: Spec, key: str) -> Any:
    """Return a number in range, a Schedule or a Controller."""
    from regimes.core.kinds import Controller, Schedule

    if isinstance(value, str):
        allowed = f"{spec.allowed()}, a schedule such as Cosine(...), or a controller"
        value = parsed(value, key, allowed, ("schedule", "controller"))
    if isinstance(value, Schedule | Controller):
        return value
    if value is None and spec.optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DeclarationError(
            f"got {show(value)}; allowed: {spec.allowed()}, a schedule such as Cosine(...), or a controller",
            key,
        )
    spec.check(value, key)
    if spec.integer:
        if value != int(value):
            raise DeclarationError(f"got {value!r}; allowed: {spec.allowed()}", key)
        return int(value)
    return float(value)


def parsed(text: str, key: str, allowed: str = "", kinds: tuple[str, ...] = ()) -> Any:
    """Read notation that stands where a component or number is expected.

    Parameters
    ----------
    text, key : str
    allowed : str
        What is allowed, said where the text is a word that names nothing; of names, the nearest of these `kinds`.
    """
    from regimes.core.notation import parse

    try:
        return parse(text, kinds)
    except DeclarationError as why:
        word = text.strip()
        if allowed and word.isidentifier() and word not in _names(()):
            hint = nearest(word, _names(kinds)) if kinds else ""
            more = f"; {hint}" if hint.startswith("did you mean") else ""
            raise DeclarationError(f"got {show(text)}; allowed: {allowed}{more}", key) from None
        raise why.within(key) from None


def _names(kinds: tuple[str, ...]) -> list[str]:
    from regimes.core.registry import REGISTRY

    return [cls.__name__ for kind in kinds for cls in REGISTRY.classes(kind)] if kinds else REGISTRY.names()


def coerce(value: Any, annotation: Any, spec: Spec, key: str) -> Any:
    """Return `value` as the annotation wants it, or refuse it with a sentence."""
    from regimes.core.component import Component

    choices = _choices(annotation)
    if types.NoneType in choices and (value is None or (value == "None" and str not in choices)):
        return None
    if Duration in choices:
        try:
            return Duration.parse(value)
        except DeclarationError as why:
            raise why.within(key) from None
    kinds = tuple(c for c in choices if isinstance(c, type) and issubclass(c, Component))
    words = [word for c in choices if typing.get_origin(c) is Literal for word in typing.get_args(c)]
    if kinds:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, str):
            if words and value.isidentifier() and value not in _names(()):
                raise DeclarationError(f"got {show(value)}; {_nearest_word(value, words, kinds)}", key)
            value = parsed(value, key, kinds=tuple(kind.kind for kind in kinds if kind.kind))
        if float in choices and isinstance(value, int | float) and not isinstance(value, bool):
            spec.check(value, key)
            return float(value)
        if not isinstance(value, kinds):
            raise DeclarationError(_wrong_kind(value, kinds, words), key)
        return value
    for choice in choices:
        if typing.get_origin(choice) is tuple:
            if words and isinstance(value, str) and value.isidentifier():
                return _one_of(words, value, key)
            return _coerce_tuple(value, choice, spec, key)
    return _coerce_plain(value, annotation, choices, spec, key)


def _nearest_word(value: str, words: list[str], kinds: tuple[type, ...]) -> str:
    """The nearest of words that may stand where else a component does, or all that may stand there."""
    near = nearest(value, words)
    return _words_or_kinds(words, kinds) if near.startswith("allowed") else near


def _words_or_kinds(words: list[str], kinds: tuple[type, ...]) -> str:
    return "allowed: " + " or ".join([*map(repr, words), *(a_or_an(kind.__name__) for kind in kinds)])


def _one_of(words: list[str], value: str, key: str) -> str:
    """A word that may stand where else a tuple does."""
    if value not in words:
        hint = nearest(value, words)
        raise DeclarationError(f"got {show(value)}; {hint}", key)
    return value


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _wrong_kind(value: Any, kinds: tuple[type, ...], words: list[str]) -> str:
    from regimes.core.component import Component

    allowed = _words_or_kinds(words, kinds)
    got = f"{a_or_an(value.kind)} ({show(value)})" if isinstance(value, Component) else show(value)
    if isinstance(value, type) and issubclass(value, kinds):
        return f"got the class {value.__name__}; write {value.__name__}(...)"
    other = value if isinstance(value, type) else type(value)
    if not issubclass(other, Component):
        from regimes.core.registry import elsewhere

        written = elsewhere(other, tuple(kind.kind for kind in kinds))  # type: ignore[attr-defined]
        if written:
            return f"got {f'the class {other.__name__}' if other is value else f'an instance of {other.__name__}'}; {written}"
    if callable(value) and any(getattr(kind, "kind", "") == "loss" for kind in kinds):
        allowed += (
            ": FromFunction(...) of a function (model, batch), FromCriterion(...) of a criterion with reduction='none'"
        )
    return f"got {got}; {allowed}"


def _coerce_tuple(value: Any, annotation: Any, spec: Spec, key: str) -> tuple[Any, ...]:
    inner = typing.get_args(annotation)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value, key)
    if isinstance(value, str) or not isinstance(value, tuple | list):
        value = (value,)
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(coerce(item, inner[0], spec, f"{key}.{i}") for i, item in enumerate(value))
    if len(inner) != len(value):
        raise DeclarationError(f"got {show(value)}; allowed: {len(inner)} values", key)
    return tuple(coerce(item, kind, spec, f"{key}.{i}") for i, (item, kind) in enumerate(zip(value, inner)))


def _coerce_plain(value: Any, annotation: Any, choices: tuple[Any, ...], spec: Spec, key: str) -> Any:
    numeric = float in choices or int in choices
    if int in choices and float not in choices:
        spec = dataclasses.replace(spec, integer=True)
    if isinstance(value, str) and numeric and str not in choices:
        value = _parsed_number(value, choices, spec, key)
    if float in choices and isinstance(value, int) and not isinstance(value, bool) and int not in choices:
        if not _is_finite(value):
            raise DeclarationError(f"got {show(value)}; allowed: {spec.allowed()}", key)
        value = float(value)
    from regimes.core import validation

    try:
        value = validation.plain(value, annotation)
    except ValueError as why:
        raise DeclarationError(f"got {show(value)}; {why}", key) from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        spec.check(value, key)
    return value


def _parsed_number(text: str, choices: tuple[Any, ...], spec: Spec, key: str) -> Any:
    """Read a number written as notation; where words are allowed beside numbers, other text is left to the refusal."""
    words = any(typing.get_origin(choice) is typing.Literal for choice in choices)
    try:
        return parsed(text, key, spec.allowed())
    except DeclarationError:
        if words:
            return text
        raise


def printed(value: Any) -> str:
    """Return the Python that builds a field value again."""
    if isinstance(value, Duration):
        return repr(str(value))
    if isinstance(value, tuple):
        return f"[{', '.join(printed(item) for item in value)}]"
    if isinstance(value, types.FunctionType | types.MethodType):
        return f"{value.__module__}:{value.__qualname__}"  # where it is found, the same in every process
    return repr(value)


def same(value: Any, other: Any) -> bool:
    """Equality that does not take 1 for True or for 1.0 of another type's default."""
    return type(value) is type(other) and value == other
