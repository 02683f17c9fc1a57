"""Components are frozen, validated dataclasses whose fields are addressed by dotted paths.

A subclass of `Component` is a frozen dataclass by itself. Its numbers are declared with `knob` (may vary while
training: a number, a Schedule or a Controller may stand there) or `fixed` (shapes state or structure, or sits
inside a schedule). Constructors coerce and validate; nothing is stored on ``self`` afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from regimes.core import fields
from regimes.core.errors import DeclarationError, nearest
from regimes.core.fields import MISSING, UNSET, Spec

if TYPE_CHECKING:
    from regimes.core.trial import Trial, TrialEnd


def knob(
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    integer: bool = False,
    optional: bool = False,
    unset: bool = False,
    kw_only: bool = False,
) -> Any:
    """Declare a number that may change while training.

    Parameters
    ----------
    default : float or tuple of float, optional
        Default value; a tuple declares as many knobs, addressed ``name.0``, ``name.1``.
    low, high : float, optional
        Inclusive bounds of the allowed range.
    above, below : float, optional
        Exclusive bounds.
    integer : bool
        Rounded half up at each step, and logged as the integer used.
    optional : bool
        None is allowed.
    unset : bool
        May be left open, to be filled by what holds the component.
    kw_only : bool
        Given by name only (for fields of a base class, so that subclasses may add required ones).
    """
    return _field(default, Spec("knob", low, high, above, below, integer, optional, unset), kw_only)


def fixed(
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    unset: bool = False,
    kw_only: bool = False,
) -> Any:
    """Declare a field that never varies while training; bounds as for `knob`, checked on every number in it."""
    return _field(default, Spec("fixed", low, high, above, below, unset=unset), kw_only)


def _field(default: Any, spec: Spec, kw_only: bool) -> Any:
    if default is MISSING:
        return dataclasses.field(metadata={"spec": spec}, kw_only=kw_only)
    return dataclasses.field(default=default, metadata={"spec": spec}, kw_only=kw_only)


class Component:
    """Base of everything that stands in a declaration.

    Attributes
    ----------
    open_field : str or None
        Name of a field that collects arbitrary keyword arguments as sorted (name, value) pairs
        (sources of a mixture, options of a wrapped optimizer); their paths are the bare names.
    kind : str
        Set by the base class of each plug-in kind.
    """

    open_field: ClassVar[str | None] = None
    kind: ClassVar[str] = ""

    if TYPE_CHECKING:
        # Checkers cannot see that constructors coerce ("5%" for a Duration, a list for a tuple).
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, repr=False)(cls)
        cls.__init__ = fields.wrap_init(cls.__init__)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        for name, info in fields.table(type(self)).items():
            value = getattr(self, name)
            object.__setattr__(self, name, info.coerce(value, name))
        self.validate()

    @classmethod
    def check_written(cls, names: list[str], given: Mapping[str, Any]) -> None:
        """Check the names that an open field collects, in the order in which they are written, beside other fields."""

    @classmethod
    def stands_for(cls, other: str | type) -> str | None:
        """Say how a class of another package, or the name of one, is written with this component; None if it has none."""
        return None

    def validate(self) -> None:
        """Check what concerns several fields at once; raise DeclarationError naming the key."""

    # -- printing ------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"{self.printed_name()}({', '.join(self.printed_arguments())})"

    @classmethod
    def printed_name(cls) -> str:
        """Name under which the notation finds this class again."""
        from regimes.core.registry import REGISTRY

        return cls.__name__ if REGISTRY.knows(cls) else f"{cls.__module__}:{cls.__qualname__}"

    def printed_arguments(self) -> list[str]:
        """Arguments of the printed form; fields at their default are left out."""
        out = []
        first = next(iter(fields.positional(type(self))), None)
        for name, info in fields.table(type(self)).items():
            value = getattr(self, name)
            if name == self.open_field:
                out += [f"{key}={fields.printed(item)}" for key, item in value]
            elif value is not UNSET and (info.default is MISSING or not fields.same(value, info.default)):
                out.append(
                    fields.printed(value)
                    if name == first and info.default is MISSING
                    else f"{name}={fields.printed(value)}"
                )
        return out

    # -- structure -----------------------------------------------------------------------------------------

    def children(self) -> Iterator[tuple[str, Any]]:
        """Yield (path segment, value) for every field; an open field yields its own names."""
        for name in fields.table(type(self)):
            value = getattr(self, name)
            if name == self.open_field:
                yield from value
            elif value is not UNSET:
                yield name, value

    def child(self, segment: str) -> Any:
        """Return what stands at one path segment; KeyError if nothing does."""
        for name, value in self.children():
            if name == segment:
                return value
        raise KeyError(segment)

    def replace(self, segment: str, value: Any) -> Component:
        """Return a validated copy with one segment replaced."""
        table = fields.table(type(self))
        if segment in table and segment != self.open_field:
            return self._replaced(segment, value)
        if self.open_field is not None:
            pairs = dict(getattr(self, self.open_field)) | {segment: value}
            return self._replaced(self.open_field, tuple(sorted(pairs.items())))
        options = [name for name, _ in self.children()]
        raise DeclarationError(f"{type(self).__name__} has no field '{segment}'; {nearest(segment, options)}", segment)

    def _replaced(self, name: str, value: Any) -> Any:
        return dataclasses.replace(self, **{name: value})  # type: ignore[type-var]

    def spec(self, segment: str) -> Spec:
        """Return the declared constraint of a segment (that of the open field for its names)."""
        table = fields.table(type(self))
        name = segment if segment in table else self.open_field
        return Spec() if name is None else table[name].spec

    def with_values(self, values: dict[str, Any]) -> Any:
        """Return a copy with some fields replaced, unvalidated: the engine's per-step substitution."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(values)
        return copy


class Stateful(Component):
    """A component that may remember: state is a value, passed in and returned.

    The default forwards to component-valued fields, whose states are nested by field name. Schedules and
    controllers are no parts here: the engine keeps controllers' states by knob path.
    """

    #: Signals from `regimes.core.signals` that `observe` reads.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Keys of its state's ``slots`` that hold weights, "*" where a slot is nothing else: a change of the model's values
    #: would leave them behind.
    weight_slots: ClassVar[tuple[str, ...]] = ()
    #: Fields that say how long a trial is: before anything is spent it is seen that the phase can count them.
    trial_lengths: ClassVar[tuple[str, ...]] = ()

    def parts(self) -> Iterator[tuple[str, Stateful]]:
        """Yield (name, part) for each component-valued field, members of tuples as ``name.0``."""
        for name, value in self.children():
            if isinstance(value, Stateful):
                yield name, value
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    if isinstance(item, Stateful):
                        yield f"{name}.{index}", item

    def observe(self, state: dict[str, Any], signals: Any, at: Any) -> dict[str, Any]:
        """Advance what was learned, once per applied step; the default forwards to parts.

        Parameters
        ----------
        state : dict
            This component's own state.
        signals : mapping
            What the step measured; only declared `needs` are promised.
        at : Progress
            Position of the step that was applied.
        """
        for name, part in self.parts():
            state[name] = part.observe(state[name], signals, at)
        return state

    def propose(self, state: dict[str, Any], at: Any) -> Trial | None:
        """Return a trial to be made before the step at `at`, or None; the default asks parts, in order.

        It is asked again after every trial, and then before every step; what it answers depends on state and position
        alone. Inside a trial nobody is asked.
        """
        for name, part in self.parts():
            trial = part.propose(state[name], at)
            if trial is not None:
                return trial.within(name)
        return None

    def absorb(self, state: dict[str, Any], end: TrialEnd) -> dict[str, Any]:
        """Take in what came of the trial that was proposed; the default forwards to the part that did.

        Parameters
        ----------
        state : dict
            This component's own state, as it was when the trial was proposed.
        end : TrialEnd
            What came of it.
        """
        name = end.owner[0]
        state[name] = dict(self.parts())[name].absorb(state[name], end.inside())
        return state

    def all_needs(self) -> frozenset[str]:
        """Signals needed by this component and its parts."""
        return frozenset(self.needs).union(*(part.all_needs() for _, part in self.parts()))


def keeper_of_weights(component: Stateful) -> Stateful | None:
    """The component itself, or the first of its parts, whose state holds weights; None where none does."""
    if component.weight_slots:
        return component
    return next((found for _, part in component.parts() if (found := keeper_of_weights(part))), None)


def observes(component: Stateful) -> bool:
    """Whether `observe` can change anything: overridden here or in a part."""
    if type(component).observe is not Stateful.observe:
        return True
    return any(observes(part) for _, part in component.parts())


def proposes(component: Stateful) -> bool:
    """Whether `propose` can ever answer: overridden here or in a part."""
    if type(component).propose is not Stateful.propose:
        return True
    # A rate's controller is asked by its knob path, not through the rule that reads it.
    inner = [part for _, part in component.parts() if component.kind == "controller" or part.kind != "controller"]
    return any(proposes(part) for part in inner)


def round_half_up(value: float) -> int:
    """Round a knob to the integer used.

    Examples
    --------
    >>> round_half_up(2.5), round_half_up(3.49)
    (3, 3)
    """
    return math.floor(value + 0.5)


Better = Literal["lower", "higher"]
Build = Callable[..., Any]
