"""A rule of another package: its instance is a cache around slots that are ours."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core import fields
from regimes.core.component import Component, fixed
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.fields import Spec
from regimes.core.kinds import Controller, Optimizer, Schedule, State
from regimes.core.registry import REGISTRY

#: Options that no rule takes below 0: their schedules are checked for it before anything is spent.
_NOT_NEGATIVE = ("lr", "weight_decay", "momentum", "eps")
#: What a torch optimizer keeps on itself and we keep elsewhere, or that cannot move.
_HELD = ("state", "param_groups", "defaults")

#: A torch.optim.Optimizer class (type checkers do not take those for hashable).
Class = Any


class Foreign(Optimizer):
    """An optimizer class found by name; numbers among its options are knobs.

    The instance is built where it is missing and never saved: its per-parameter state dicts are our slots (the
    same objects), and what it moves in its parameter group is kept under ``group``.
    """

    open_field = "options"

    name: str = fixed()
    options: tuple[tuple[str, Any], ...] = fixed((), kw_only=True)

    @staticmethod
    def find(name: str) -> Class:
        """Return the class called `name`, or refuse it."""
        raise NotImplementedError

    @classmethod
    def named(cls, other: str | type) -> str | None:
        """Return the name by which `find` knows a class, or what is written for its name; None if it does not."""
        return None

    @classmethod
    def stands_for(cls, other: str | type) -> str | None:
        """``Torch('Adam', lr=...)`` for its class or its name, or why not."""
        name = cls.named(other)
        if name is None:
            return None
        try:
            cls(name)
        except DeclarationError as why:
            return f"{cls.__name__}({name!r}) is refused: {why.message}"
        return f"write {cls.__name__}({name!r}, lr=...)"

    # -- declaration ---------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        if isinstance(self.name, type):
            written = self.stands_for(self.name)
            hint = written or "allowed: the name of one, quoted"
            raise DeclarationError(f"got the class {self.name.__name__}; {hint}", "name")
        if isinstance(self.name, str) and isinstance(self.options, tuple):
            known = signature(self.find(self.name))
            pairs = tuple((name, _option(value, known.get(name), name)) for name, value in self.options)
            object.__setattr__(self, "options", pairs)
        super().__post_init__()

    def validate(self) -> None:
        """Refuse unknown options, values that the class refuses, and classes that no plain step can drive."""
        known = signature(self.find(self.name))
        for name, _ in self.options:
            if name not in known:
                raise DeclarationError(f"{self.name} has no option '{name}'; {nearest(name, known)}", name)
        read = try_out(self.find(self.name), tuple(self._numbers().items()))
        for name, value in self.options:
            if _varies(value) and not (name in read and isinstance(known[name].default, float | tuple)):
                raise DeclarationError(
                    f"got {show(value)}; allowed: a value that does not vary ({self.name} reads it once)", name
                )

    def _numbers(self) -> dict[str, Any]:
        """The options, with numbers in place of what varies: for construction before any step."""
        known = signature(self.find(self.name))
        return {name: _stand_in(value, known[name]) for name, value in self.options}

    def spec(self, segment: str) -> Spec:
        """Numbers among the options are knobs."""
        if segment not in dict(self.options):
            return super().spec(segment)
        value = dict(self.options)[segment]
        if _varies(value) or _is_number(value) or (isinstance(value, tuple) and all(map(_is_number, value))):
            return Spec("knob", low=0.0 if segment in _NOT_NEGATIVE else None)
        return Spec()

    # -- training ------------------------------------------------------------------------------------------

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Slots, which the class fills on its first step, and what it moves in its parameter group."""
        cls, numbers = self.find(self.name), self._numbers()
        _attempt(cls, "does not take these parameters", lambda: cls(list(parameters.values()), **numbers))
        return {"slots": {name: {} for name in parameters}, "group": {}}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, hand over gradients, slots and knobs, and let the class step."""
        gradients = evaluate().gradients
        instance = self._instance(state, parameters)
        slots, group = state["slots"], instance.param_groups[0]
        group.update((name, value) for name, value in self.options if name in group)
        try:
            for (name, p), g in zip(parameters.items(), gradients):
                instance.state[p], p.grad = slots[name], g
            _address(evaluate.rng(self.name), next(iter(parameters.values())).device)
            instance.step()
        finally:
            for p in parameters.values():
                p.grad = None
        for name, p in parameters.items():
            slots[name] = instance.state[p]
        state["group"] = moved_in_group(instance, dict(self.options))
        return state

    def _instance(self, state: State, parameters: Mapping[str, Tensor]) -> torch.optim.Optimizer:
        tensors = list(parameters.values())
        instance = state.get("cache:instance")
        if instance is not None and _same_objects(instance.param_groups[0]["params"], tensors):
            return instance
        instance = state["cache:instance"] = self.find(self.name)(tensors, **dict(self.options))
        instance.param_groups[0].update(state["group"])
        for name, p in parameters.items():
            # Some classes fill their state on construction: theirs holds unless there is an older one.
            state["slots"][name] = state["slots"][name] or instance.state[p]
        return instance


def moved_in_group(instance: torch.optim.Optimizer, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the class itself has moved in its parameter group (a step count, a distance estimate)."""
    return {
        name: value
        for name, value in instance.param_groups[0].items()
        if name != "params" and name not in ours and value is not instance.defaults.get(name, instance)
    }


def _same_objects(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other))


def _address(generator: torch.Generator, device: torch.device) -> None:
    """Address what the class may draw from the global generators."""
    seed = generator.initial_seed()
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


# -- options -------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _varies(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_varies(item) for item in value)
    return isinstance(value, Schedule | Controller)


def _option(value: Any, parameter: inspect.Parameter | None, key: str) -> Any:
    """Return an option as it is kept: notation read, lists as tuples, whole numbers as the class's default has them."""
    default = None if parameter is None else parameter.default
    if isinstance(value, str) and not isinstance(default, str) and default is not None:
        value = fields.parsed(value, key)
    if isinstance(value, list | tuple):
        return tuple(_option(item, None, f"{key}.{i}") for i, item in enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(default, float):
        return float(value)
    if isinstance(value, Component) and not _varies(value):
        raise DeclarationError(f"got {show(value)}; allowed: a number, a schedule or a controller", key)
    return value


def _stand_in(value: Any, parameter: inspect.Parameter) -> Any:
    """Return a number in place of what varies, for trying the class out."""
    if isinstance(value, tuple):
        defaults = parameter.default if isinstance(parameter.default, tuple) else (0.5,) * len(value)
        return tuple(d if _varies(v) else v for v, d in zip(value, defaults))
    if not _varies(value):
        return value
    return parameter.default if _is_number(parameter.default) else 0.1


@functools.cache
def signature(cls: Class) -> dict[str, inspect.Parameter]:
    """Return the options of a class by name."""
    found = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p for p in list(found)[2:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


# -- what can be driven --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def try_out(cls: Class, options: tuple[tuple[str, Any], ...]) -> frozenset[str]:
    """Refuse a class, or options, with which two plain steps on a 2 by 2 weight do not go well.

    Returns
    -------
    frozenset of str
        The options that the class reads on each step.

    Raises
    ------
    DeclarationError
        If it needs a closure, sparse gradients, a model, a graph, another optimizer; if it refuses its options; if
        it keeps memory outside its state, which no checkpoint would hold.
    """
    if _needs_closure(cls):
        raise DeclarationError(
            f"{cls.__name__} evaluates several times a step through a closure; allowed: classes whose step takes "
            "gradients that are there already",
            "name",
        )
    if hasattr(cls, "train") and hasattr(cls, "eval"):
        raise DeclarationError(
            f"{cls.__name__} leaves its evaluation weights to the user (eval, train); use a rule whose evaluation "
            "weights the engine knows, such as ScheduleFreeAdamW",
            "name",
        )
    with torch.random.fork_rng(devices=[]):
        p = nn.Parameter(torch.tensor([[1.0, 0.5], [-0.5, 2.0]]))
        try:
            instance = _attempt(cls, "does not take these options", lambda: cls([p], **dict(options)))
        except DeclarationError:
            _refuse_marked_groups(cls, p, options)
            raise
        before = _memory(instance)
        for number in (1.0, -0.5):
            p.grad = torch.full_like(p, number)
            _attempt(cls, "cannot be stepped with plain, dense gradients", instance.step)
    lost = [name for name, value in _memory(instance).items() if before.get(name) != value]
    lost += [f"state[{key!r}]" for key in instance.state if key is not p]
    kept = {**moved_in_group(instance, dict(options)), **instance.state[p]}
    lost += [name for name, value in kept.items() if not _is_plain(value)]
    if lost:
        raise DeclarationError(
            f"{cls.__name__} keeps memory ('{lost[0]}') that no checkpoint holds, because it lies outside its "
            "parameters' state or is no tensor, number, list or dict: a resumed run would end in other bits",
            "name",
        )
    return frozenset(instance.param_groups[0])


def _refuse_marked_groups(cls: Class, p: Tensor, options: tuple[tuple[str, Any], ...]) -> None:
    """Say it where a class asks parameter groups for a mark (``use_muon``), of which torch's plain groups know nothing."""
    try:
        cls([{"params": [p]}], **dict(options))
    except ValueError as why:
        ours = [f"{known.__name__}(...)" for known in REGISTRY.classes("optimizer") if known.__name__ == cls.__name__]
        hint = f"write {ours[0]}, the rule of that name here" if ours else "allowed: classes that take plain parameters"
        raise DeclarationError(f"{cls.__name__} wants marked parameter groups ({why}); {hint}", "name") from None
    except Exception:
        return


def _needs_closure(cls: Class) -> bool:
    closure = inspect.signature(cls.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _attempt(cls: Class, what: str, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except Exception as why:
        said = str(why).strip().splitlines()
        raise DeclarationError(f"{cls.__name__} {what}: {said[0] if said else type(why).__name__}", "name") from None


def _memory(instance: torch.optim.Optimizer) -> dict[str, str]:
    return {name: repr(value) for name, value in vars(instance).items() if name not in _HELD}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, Tensor | bool | int | float | str)
