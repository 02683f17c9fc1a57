"""Modules whose forward runs inside a context of a transform: classes made for them, which keep all else as it is."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Protocol

from torch import nn


class Surrounds(Protocol):
    """A transform that stands around the forward of modules."""

    #: Of two around one module, which is the nearer one, and meets calls first.
    innermost: bool

    def around(self, module: Any) -> contextlib.AbstractContextManager[Any]:
        """Return the context of one forward."""


def surround(module: nn.Module, transform: Any) -> None:
    """Have a module's forward run inside ``transform.around(module)``, in place of an earlier transform of this kind.

    Examples
    --------
    >>> class Loud:
    ...     innermost = False
    ...     def around(self, module): return contextlib.nullcontext(print("forward"))
    >>> import torch
    >>> net = nn.Identity()
    >>> surround(net, Loud())
    >>> net(torch.ones(1)), isinstance(net, nn.Identity), free(net, Loud), type(net) is nn.Identity
    forward
    (tensor([1.]), True, None, True)
    """
    plain, around = _parts(module)
    others = [one for one in around if type(one) is not type(transform)]
    module.__class__ = _made(plain, (*others, transform))


def free(module: nn.Module, kind: type) -> None:
    """Take a kind of transform from around a module's forward, if it is there."""
    plain, around = _parts(module)
    others = tuple(one for one in around if type(one) is not kind)
    if len(others) < len(around):
        module.__class__ = _made(plain, others) if others else plain


def _parts(module: nn.Module) -> tuple[Any, tuple[Any, ...]]:
    return getattr(type(module), "_surrounded", (type(module), ()))


@functools.cache
def _made(plain: Any, around: tuple[Any, ...]) -> Any:
    """One class for each class and transforms, so that a model that is built again is of the same."""
    outwards = sorted(around, key=lambda one: one.innermost)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for one in outwards:
                stack.enter_context(one.around(self))
            return plain.forward(self, *args, **kwargs)

    forward.__doc__ = plain.forward.__doc__
    body = {
        "forward": forward,
        "_surrounded": (plain, around),
        "__doc__": plain.__doc__,
        "__module__": plain.__module__,
    }
    return type(plain.__name__, (plain,), body)
