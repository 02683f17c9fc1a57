"""Python imports this by its name when it starts; it hands on to the environment's own, and watches torch once that comes.

Nothing of the command is changed: it is watched where the environment variable ``REGIMES_WATCH`` asks for it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent


def hand_on() -> None:
    """Run the next ``sitecustomize`` on the path: that of the environment, which this one hides."""
    rest = [place for place in sys.path if not place or Path(place).resolve() != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


class AfterTorch(importlib.abc.MetaPathFinder):
    """Calls a function when torch has been imported; a command that never does is not slowed down."""

    def __init__(self, then: Any) -> None:
        self.then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Let the others find torch, and have its loader call the function behind it."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def loaded(module: Any) -> None:
                load(module)
                self.then()

            spec.loader.exec_module = loaded  # type: ignore[method-assign]
        return spec


def begin() -> None:
    """Watch this process as the environment asks."""
    import regimes_watch  # it lies beside this file

    watch = regimes_watch.from_environment(os.environ)
    if watch is not None:
        sys.meta_path.insert(0, AfterTorch(watch.install))


if __name__ == "sitecustomize":
    hand_on()
    if "REGIMES_WATCH" in os.environ:
        begin()
