"""Where the names of the notation are found: our components, other packages' and the user's own files."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from regimes.core.errors import DeclarationError, nearest

#: The packages that hold our own components, one per kind; imported when a name is first looked up.
PACKAGES = tuple(
    f"regimes.{kind}"
    for kind in (
        "augment",
        "averagers",
        "controllers",
        "grad_transforms",
        "losses",
        "mixtures",
        "model_transforms",
        "optimizers",
        "probes",
        "samplers",
        "schedules",
        "selectors",
        "sources",
        "weights",
    )
)


def unknown(name: str, options: Iterable[str], kinds: tuple[str, ...] = ()) -> DeclarationError:
    """Return the refusal of a name that no component has, with how one's own are named where nothing is near."""
    options = list(options)
    ours = name.lower() in {option.lower() for option in options}
    near = (not ours and elsewhere(name, kinds)) or nearest(name, options)
    own = "; one of your own is known once its module is imported (in YAML: modules: [mymodule])"
    return DeclarationError(f"there is no component '{name}'; {near}{own if near.startswith('allowed') else ''}")


def elsewhere(other: str | type, kinds: tuple[str, ...] = ()) -> str:
    """Return a half sentence on how a class of another package is written here; empty where no component takes it.

    Parameters
    ----------
    other : str or type
        A class, or what it is called there.
    kinds : tuple of str
        Plug-in kinds that are asked; empty is all.
    """
    said = (cls.stands_for(other) for cls in REGISTRY.classes() if not kinds or cls.kind in kinds)
    return next((found for found in said if found), "")


class Registry:
    """Names of component classes (and of a few functions that build values), by the class's own name."""

    def __init__(self) -> None:
        self._entries: dict[str, Any] = {}
        self._owners: dict[str, str] = {}
        self._own_loaded = self._third_party_loaded = False

    def add(self, name: str, entry: Any, owner: str) -> None:
        """Register an entry; a clash of names is an error naming both owners."""
        other = self._owners.get(name)
        if other is not None and other != owner:
            raise DeclarationError(f"both '{other}' and '{owner}' register the name '{name}'; rename one of them", name)
        self._entries[name], self._owners[name] = entry, owner

    def knows(self, cls: type) -> bool:
        """Whether `cls` is found again under its own name."""
        return self._entries.get(cls.__name__) is cls

    def names(self) -> list[str]:
        """All names, sorted."""
        self.load_own()
        self.load_third_party()
        return sorted(self._entries)

    def classes(self, kind: str | None = None) -> list[Any]:
        """Registered component classes, of one kind if given."""
        from regimes.core.component import Component

        return [
            self._entries[name]
            for name in self.names()
            if isinstance(self._entries[name], type)
            and issubclass(self._entries[name], Component)
            and (kind is None or self._entries[name].kind == kind)
        ]

    def default(self, kind: str) -> Any:
        """Return the class that stands where a slot of this kind is left out (it says ``is_default = True``)."""
        for entry in self._entries.values():
            if getattr(entry, "kind", None) == kind and getattr(entry, "is_default", False):
                return entry
        if not self._own_loaded:
            self.load_own()
            return self.default(kind)
        raise DeclarationError(f"no {kind} says that it is the default", kind)

    def find(self, name: str) -> Any:
        """Return the entry called `name`, refusing an unknown one with the nearest."""
        if name not in self._entries:
            self.load_own()
        if name not in self._entries:
            self.load_third_party()
        if name not in self._entries:
            raise unknown(name, self._entries)
        return self._entries[name]

    def load_own(self) -> None:
        """Import our own packages once; importing registers what they hold."""
        if not self._own_loaded:
            self._own_loaded = True
            for module in ("regimes.core.regime", *PACKAGES, "regimes.groups", "regimes.study.ranges"):
                importlib.import_module(module)

    def load_third_party(self) -> None:
        """Import the entry points of the group ``regimes.components`` once."""
        if self._third_party_loaded:
            return
        self._third_party_loaded = True
        for point in entry_points(group="regimes.components"):
            loaded = point.load()
            owner = point.dist.name if point.dist is not None else point.value
            self.add(point.name, loaded, owner)


REGISTRY = Registry()
#: Modules and files that the user named, from which ``package.module:Class`` may be imported.
USER_MODULES: set[str] = set()


def register(entry: Any) -> Any:
    """Class (or function) decorator: make an entry known to the notation under its own name."""
    REGISTRY.add(entry.__name__, entry, entry.__module__)
    return entry


def user_class(spec: str) -> Any:
    """Import ``package.module:Class`` if the user named that module, refuse it otherwise."""
    module, _, name = spec.partition(":")
    if module not in USER_MODULES:
        raise DeclarationError(f"'{spec}' is imported only where the file's `modules:` list names '{module}'")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise DeclarationError(f"module '{module}' has no '{name}'")
    return found
