"""What modules keep in Python beside parameters, buffers and parts: a stack runs those of one model for all."""

from __future__ import annotations

import contextlib
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_TORCH = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
#: How deep attributes are looked into, and how much of them.
_DEPTH, _MOST = 5, 10_000


class Attributes:
    """The attributes of a model's modules at this moment, by value: containers and plain objects are looked into.

    What a forward changes outside its modules (globals, closures) is not seen.

    Parameters
    ----------
    model : nn.Module

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> before = Attributes(layer)
    >>> layer.seen = [1]
    >>> before.changed(), Attributes(layer).changed()
    ('seen', None)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._found = _of(model)

    def changed(self) -> str | None:
        """Return the name of an attribute that is another now; None where all are as they were."""
        return _first(self._found, _of(self._model))

    def differs(self, other: Attributes) -> str | None:
        """Return the name of an attribute that another model of this form has otherwise; None where there is none."""
        return _first(self._found, other._found)


@contextlib.contextmanager
def unchanged(models: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, forwards may change attributes of modules; numbers, texts and flags are afterwards as before."""
    before = [
        (vars(module), {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)})
        for model in models
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for attributes, values in before:
            attributes.update(values)


def hooked(model: nn.Module) -> bool:
    """Whether hooks of modules listen to forwards or backwards."""
    return any(getattr(module, name) for module in model.modules() for name in _HOOKS)


def keeps_state(model: nn.Module) -> bool:
    """Whether a module has state of its own kind in its state dict."""
    return any(type(module).get_extra_state is not nn.Module.get_extra_state for module in model.modules())


def _first(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    return next((name for name in {**one, **other} if not _same(one.get(name), other.get(name))), None)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        return bool(one == other)
    except Exception:  # what cannot be compared may differ
        return False


def _of(model: nn.Module) -> dict[str, Any]:
    left, found = [_MOST], dict[str, Any]()
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _OF_TORCH:
                found[f"{place}.{name}".lstrip(".")] = _value(value, _DEPTH, left)
    return found


def _value(value: Any, depth: int, left: list[int]) -> Any:
    """A copy that tells values apart: tuples of what is inside, of what is never looked into its type."""
    left[0] -= 1
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, _PLAIN):
        return value
    if depth == 0 or left[0] < 0 or isinstance(value, nn.Module | type | types.ModuleType):
        return type(value)
    if callable(value) and not hasattr(value, "__dict__"):
        return type(value)
    if isinstance(value, types.FunctionType | types.MethodType):
        return value.__qualname__
    if isinstance(value, Mapping):
        return (type(value), *((_value(k, depth - 1, left), _value(v, depth - 1, left)) for k, v in value.items()))
    if isinstance(value, list | tuple | deque):
        return (type(value), *(_value(item, depth - 1, left) for item in value))
    if isinstance(value, set | frozenset):
        return (type(value), frozenset(map(repr, value)))
    inside = getattr(value, "__dict__", {})
    return (type(value), *((name, _value(item, depth - 1, left)) for name, item in inside.items()))
