"""Modules that do something more in their forward, and keep their names: their class becomes another one."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class Swapped(nn.Module):
    """What is added to a module's class, in front of it: ``forward`` calls ``super().forward``.

    Parameters, buffers and parts stay where they are, so that weights fit a model with it and one without. Copies and
    pickles are made again from the module's own class.
    """

    #: The module's own class, and what has been put in front of it, from the outside inwards.
    own: type[nn.Module]
    added: tuple[type[Swapped], ...] = ()
    #: Of several in front of one module, whether this is the nearest to it, whenever it came.
    nearest: ClassVar[bool] = False

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The class has no place of its own from which it could be imported."""
        return _empty, (self.own, self.added), self.__dict__


#: One class for each, so that modules of two models are of one type.
_MADE: dict[tuple[type[nn.Module], tuple[type[Swapped], ...]], type[nn.Module]] = {}


def _class(own: type[nn.Module], added: tuple[type[Swapped], ...]) -> type[nn.Module]:
    if not added:
        return own
    if (own, added) not in _MADE:
        name = "".join(part.__name__ for part in added) + own.__name__
        _MADE[own, added] = type(name, (*added, own), {"own": own, "added": added, "__module__": __name__})
    return _MADE[own, added]


def _empty(own: type[nn.Module], added: tuple[type[Swapped], ...]) -> nn.Module:
    made = _class(own, added)
    return made.__new__(made)


def put(module: nn.Module, part: type[Swapped], **attributes: Any) -> None:
    """Put a part in front of a module's class, with attributes that it reads; one that is there is replaced.

    Examples
    --------
    >>> class Doubled(Swapped):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> net = nn.Identity()
    >>> put(net, Doubled)
    >>> net(3), isinstance(net, nn.Identity), take(net, Doubled), type(net) is nn.Identity
    (6, True, None, True)
    """
    own, added = _parts(module)
    kept = (*(one for one in added if one is not part), part)
    module.__class__ = _class(own, tuple(sorted(kept, key=lambda one: one.nearest)))
    for name, value in attributes.items():
        setattr(module, name, value)


def take(model: nn.Module, part: type[Swapped], *attributes: str) -> None:
    """Take a part, and its attributes, from every module of a model that has it."""
    for module in model.modules():
        own, added = _parts(module)
        if part in added:
            module.__class__ = _class(own, tuple(one for one in added if one is not part))
            for name in attributes:
                delattr(module, name)


def _parts(module: nn.Module) -> tuple[type[nn.Module], tuple[type[Swapped], ...]]:
    return (module.own, module.added) if isinstance(module, Swapped) else (type(module), ())
