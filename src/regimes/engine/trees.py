"""State trees (dicts and lists of tensors, numbers, strings, None) to and from files."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from regimes.core.errors import RegimesError, show

_TENSOR, _FLOAT, _TUPLE = "__tensor__", "__float__", "__tuple__"

#: A key that starts so holds what can be made again. No parameter, module or source of a person's is called like that.
CACHE = "cache:"


def clone(tree: Any) -> Any:
    """Return a deep copy without caches (keys that start with ``cache:``)."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: clone(value) for key, value in tree.items() if not str(key).startswith(CACHE)}
    if isinstance(tree, list | tuple):
        return type(tree)(clone(value) for value in tree)
    return tree


def flatten(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Return the JSON part of a tree; tensors go into `tensors` by path, shared ones once.

    Raises
    ------
    RegimesError
        If something is neither tensor, number, string, None, dict nor list.
    """
    return _flat(tree, tensors, {id(tensor): name for name, tensor in tensors.items()}, path)


def _flat(tree: Any, tensors: dict[str, Tensor], names: dict[int, str], path: str) -> Any:
    if isinstance(tree, Tensor):
        name = names.setdefault(id(tree), path)
        tensors[name] = tree
        stored: dict[str, Any] = {_TENSOR: name}
        # Column-major results (of qr, eigh) must come back as they lay: later products round by layout.
        return stored if tree.is_contiguous() else stored | {"stride": list(tree.stride())}
    if isinstance(tree, bool | int | str) or tree is None:
        return tree
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else {_FLOAT: repr(tree)}
    if isinstance(tree, dict):
        for key in tree:
            if not isinstance(key, str):
                raise RegimesError(f"state at '{path}' has the key {show(key)}; allowed: strings")
        return {
            key: _flat(value, tensors, names, f"{path}.{key}" if path else key)
            for key, value in tree.items()
            if not key.startswith(CACHE)
        }
    if isinstance(tree, list):
        return [_flat(value, tensors, names, f"{path}.{i}") for i, value in enumerate(tree)]
    if isinstance(tree, tuple):
        return {_TUPLE: [_flat(value, tensors, names, f"{path}.{i}") for i, value in enumerate(tree)]}
    raise RegimesError(f"state at '{path}' is {show(tree)}; allowed: tensors, numbers, strings, None, dicts, lists")


def restore(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the tree that `flatten` took apart."""
    if isinstance(tree, dict):
        if _TENSOR in tree:
            found = tensors[tree[_TENSOR]]
            if "stride" not in tree:
                return found
            return torch.empty_strided(found.shape, tree["stride"], dtype=found.dtype).copy_(found)
        if _FLOAT in tree:
            return float(tree[_FLOAT])
        if _TUPLE in tree:
            return tuple(restore(value, tensors) for value in tree[_TUPLE])
        return {key: restore(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [restore(value, tensors) for value in tree]
    return tree


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the paths at which two trees are not bitwise equal; caches do not count."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        equal = one.dtype == other.dtype and one.shape == other.shape and _same_bytes(one, other)
        return [] if equal else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [k for k in dict.fromkeys([*one, *other]) if not str(k).startswith(CACHE)]
        out = []
        for key in keys:
            below = f"{path}.{key}" if path else str(key)
            out += differences(one[key], other[key], below) if key in one and key in other else [below]
        return out
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [d for i, (a, b) in enumerate(zip(one, other)) for d in differences(a, b, f"{path}.{i}")]
    same = type(one) is type(other) and (one == other or (one != one and other != other))
    return [] if same else [path]


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    one, other = one.detach().cpu().contiguous(), other.detach().cpu().contiguous()
    return bool(torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)))
