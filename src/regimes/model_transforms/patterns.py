"""Parameters named by patterns."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import Tensor, nn

from regimes.core.errors import DeclarationError, nearest_pattern


def matching(model: nn.Module, patterns: Sequence[str]) -> dict[str, Tensor]:
    """Return the parameters that match any pattern, by every name they have (tied weights have several).

    Raises
    ------
    DeclarationError
        If a pattern matches nothing.

    Examples
    --------
    >>> list(matching(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), ["1.*"]))
    ['1.weight', '1.bias']
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for place, pattern in enumerate(patterns):
        if not any(fnmatch.fnmatchcase(name, pattern) for name in named):
            raise DeclarationError(
                f"got '{pattern}', which matches no parameter; {nearest_pattern(pattern, named)}", f"patterns.{place}"
            )
    return {name: p for name, p in named.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


def refuse_shared(model: nn.Module, places: Sequence[str], key: str) -> None:
    """Refuse modules that are to be copied but share a parameter with what is outside them: copies would untie it.

    Raises
    ------
    DeclarationError
        If one does.

    Examples
    --------
    >>> refuse_shared(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), ["0", "1"], "blocks")
    """
    owners: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        owner = next((place for place in places if name.startswith(f"{place}.")), "")
        first = owners.setdefault(id(p), owner)
        if first != owner:
            raise DeclarationError(
                f"'{first or owner}' shares '{name}' with what is outside it, and cannot be copied", key
            )


def matching_modules(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of the modules that match any pattern, in model order.

    Raises
    ------
    DeclarationError
        If a pattern matches nothing.

    Examples
    --------
    >>> matching_modules(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["1"])
    ['1']
    """
    modules = [name for name, _ in model.named_modules() if name]
    for place, pattern in enumerate(patterns):
        if not fnmatch.filter(modules, pattern):
            raise DeclarationError(
                f"got '{pattern}', which matches no module; {nearest_pattern(pattern, modules)}", f"patterns.{place}"
            )
    return [name for name in modules if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def outermost(names: Sequence[str]) -> list[str]:
    """Return the names of modules that lie in no other of them.

    Examples
    --------
    >>> outermost(["blocks.0", "blocks.0.up", "blocks.1"])
    ['blocks.0', 'blocks.1']
    """
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
