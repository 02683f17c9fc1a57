"""How tensors of a narrow network fill those of a wide one: index maps, and which axis of a parameter is which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError
from regimes.optimizers.roles import roles_of

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
#: What the rows of a parameter are: read ("in"), written ("out"), or neither (entries of a table).
Axes = tuple[str, ...]


def width_map(old: int, new: int, width: int, grown: int) -> Tensor:
    r"""Return g: the old index of every new index of an axis.

    An axis of ``old = k * width`` that becomes ``k * grown`` has k parts (queries, keys and values in one matrix; a
    feed-forward four times as wide), each of which goes round on its own; any other is one part:

    .. math:: g(a \cdot \text{grown} + j) = a \cdot \text{width} + (j \bmod \text{width})

    Parameters
    ----------
    old, new : int
        Length of the axis before and after.
    width, grown : int
        Width of the network before and after.

    Examples
    --------
    >>> width_map(2, 5, 2, 5).tolist()
    [0, 1, 0, 1, 0]
    >>> width_map(4, 6, 2, 3).tolist()
    [0, 1, 0, 2, 3, 2]
    """
    parts = old // width if old % width == 0 and new == old // width * grown else 1
    inside = torch.arange(new // parts) % (old // parts)
    return (torch.arange(parts)[:, None] * (old // parts) + inside).flatten()


def widened(value: Tensor, axes: Axes, indices: Sequence[Tensor | None]) -> Tensor:
    r"""Return a parameter on the new indices, axes that are read divided by how often their index now occurs.

    .. math:: W'_{ij} = W_{g(i), h(j)} / |\{j' : h(j') = h(j)\}|

    Parameters
    ----------
    value : Tensor
        W.
    axes : tuple of str
        "in", "out" or "" for each axis.
    indices : sequence of (Tensor or None)
        g, h, ... None: the axis stays.

    Examples
    --------
    >>> widened(torch.tensor([[6.0, 4.0]]), ("out", "in"), (None, torch.tensor([0, 1, 0])))
    tensor([[3., 4., 3.]])
    """
    for axis, (role, index) in enumerate(zip(axes, indices)):
        if index is not None:
            index = index.to(value.device)
            value = value.index_select(axis, index)
            if role == "in":
                count = torch.bincount(index)[index].to(value.dtype)
                value = value / count.view(-1, *[1] * (value.ndim - axis - 1))
    return value


def axes_of(model: nn.Module) -> dict[str, Axes | None]:
    """Return what each axis of a parameter is, where the module that holds it says so.

    Linear layers, embeddings, norms and torch's attention are known, and tables by their name (``pos_emb``); a vector
    is written. None where nothing says it, or two that share a weight say different things.

    Examples
    --------
    >>> axes_of(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)))
    {'0.weight': ('', 'out'), '1.weight': ('out', 'in'), '1.bias': ('out',)}
    """
    listed, roles = {id(p): name for name, p in model.named_parameters()}, roles_of(model)
    found: dict[str, Axes | None] = {}
    for module in model.modules():
        for own, p in module.named_parameters(recurse=False):
            name = listed[id(p)]
            axes = _axes(module, own, p)
            if axes is None and "embedding" in roles.get(name, ""):
                axes = (*[""] * (p.ndim - 1), "out")
            found[name] = axes if found.get(name, axes) == axes else None
    return {name: found[name] for name in listed.values()}


def _axes(module: nn.Module, own: str, p: Tensor) -> Axes | None:
    if p.ndim == 1:
        return ("out",)
    if isinstance(module, nn.Embedding):
        return ("", "out")
    if isinstance(module, _NORMS):
        return ("out",) * p.ndim
    if isinstance(module, nn.Linear) or (isinstance(module, nn.MultiheadAttention) and own == "in_proj_weight"):
        return ("out", "in")
    return None


def plan(
    small: nn.Module, large: nn.Module, width: int, grown: int
) -> dict[str, tuple[Axes, tuple[Tensor | None, ...]]]:
    """Return axes and index maps of every parameter whose shape changes.

    Raises
    ------
    DeclarationError
        If the networks are not of one form, a parameter shrinks, or nothing says what its axes are.
    """
    before, after = dict(small.named_parameters()), dict(large.named_parameters())
    strange = sorted(set(before) ^ set(after))
    if strange:
        raise DeclarationError(
            f"{type(small).__name__}.grown makes a network of another form: only one of the two has '{strange[0]}'",
            "width",
        )
    axes, found = axes_of(small), {}
    for name, p in after.items():
        old = before[name]
        if p.shape == old.shape:
            continue
        if p.ndim != old.ndim or any(b < a for a, b in zip(old.shape, p.shape)):
            raise DeclarationError(f"'{name}' of shape {tuple(old.shape)} cannot grow into {tuple(p.shape)}", "width")
        known = axes[name]
        if known is None:
            raise DeclarationError(
                f"nothing says which axis of '{name}', shape {tuple(old.shape)}, is read and which is written; allowed "
                "to grow: vectors, and matrices of Linear, Embedding, norms and MultiheadAttention that no two share "
                "in different roles",
                "width",
            )
        indices = (None if a == b else width_map(a, b, width, grown) for a, b in zip(old.shape, p.shape))
        found[name] = known, tuple(indices)
    return found


def grown_buffers(small: nn.Module, large: nn.Module, width: int, grown: int) -> Mapping[str, Tensor]:
    """Return the old network's buffers at the new one's sizes: statistics of a norm go round, others must be alike.

    Those of another shape that belong to no norm are left out: the new network has made its own.
    """
    found = {}
    for name, new in large.named_buffers():
        old = small.get_buffer(name)
        if old.shape == new.shape:
            found[name] = old
        elif isinstance(large.get_submodule(name.rpartition(".")[0]), _NORMS):
            found[name] = old[width_map(len(old), len(new), width, grown).to(old.device)]
    return found
