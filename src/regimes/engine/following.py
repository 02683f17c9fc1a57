"""Who follows a run: is told every record once it is made, and has no way to change or stop anything."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show

#: Given the session of a run, opens what follows it, and returns whom to tell of each record.
Follower = Callable[[Any], contextlib.AbstractContextManager[Callable[[Any], None]]]

#: name -> "module:function" that returns a follower, given what stands behind an @; filled by the package's top level.
FOLLOWERS: dict[str, str] = {}


def followers(track: Any, folder: Any) -> tuple[Follower, ...]:
    """Return who follows a run.

    Parameters
    ----------
    track : str, Follower, sequence of them, or None
        A name, with what it is asked behind an @: ``"tensorboard"``, ``"mlflow@tokens"``.
    folder : path or None
        The run's.

    Raises
    ------
    DeclarationError
        For a name that nobody has, and for a run without a folder: its records are what followers read.
    """
    given = () if track is None else (track,) if isinstance(track, str) or callable(track) else tuple(track)
    if given and folder is None:
        raise DeclarationError(f"got {show(track)}, but the run has no folder; allowed: with out=", "track")
    return tuple(one if callable(one) else named(one) for one in given)


def named(text: Any) -> Any:
    """Return the follower of a name.

    Raises
    ------
    DeclarationError
        If there is none.
    """
    name, _, asked = text.partition("@") if isinstance(text, str) else (None, "", "")
    if name not in FOLLOWERS:
        raise DeclarationError(f"got {show(text)}; {nearest(str(name), FOLLOWERS)}", "track")
    module, _, function = FOLLOWERS[name].partition(":")
    return getattr(importlib.import_module(module), function)(name, asked)


@contextlib.contextmanager
def told(session: Any) -> Iterator[list[Callable[[Any], None]]]:
    """Inside, whoever follows a session is open: whom to tell of each record."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(follower(session)) for follower in session.options["track"]]
