"""offload: blocks of a model whose weights lie in host memory or in a file, and are fetched while a block runs."""

from __future__ import annotations

import fnmatch
import mmap
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from regimes.core.errors import DeclarationError, UserCodeError, nearest_pattern

Model = TypeVar("Model", bound=nn.Module)
#: The file mapping in which a parameter lies, for those in files.
_MAPPED: Any = WeakIdKeyDictionary()


def offload(model: Model, blocks: Sequence[str], folder: str | Path | None = None) -> Model:
    """Let blocks of a model keep their weights elsewhere, in place, and return the model.

    While a block runs its weights are copies on the device of its input; what is written to them meanwhile is written
    back. In between they are in host memory (pinned where there is CUDA), or in files without a name, of which the system
    keeps in memory what it likes. The model is otherwise what it was: parameters have their names and values, and whoever
    reads them reads what lies elsewhere. Moving the model to a device moves all but these weights.

    Forwards only, without gradients: for evaluation, and for rules that ask for nothing else (`ZO2`, which moves a block's
    weights while they are there; `MeZO`, which moves them where they lie).

    Parameters
    ----------
    model : nn.Module
    blocks : sequence of str
        Patterns of names of modules, of which the outermost that match are the blocks.
    folder : path, optional
        Where the files lie. Default: host memory, which changes nothing for a model on the CPU.

    Raises
    ------
    DeclarationError
        If a pattern matches no module, or there is no such folder.
    UserCodeError
        In a forward with gradients of the block's weights.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> x = torch.ones(1, 2)
    >>> before = model(x).item()
    >>> with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
    ...     offload(model, ["0"], folder)(x).item() == before
    True
    """
    if folder is not None and not Path(folder).is_dir():
        raise DeclarationError(f"got '{folder}'; allowed: a folder that there is", "folder")
    for block in _outermost(model, blocks):
        for p in block.parameters():
            _lay(p, p.data, folder)
        block.register_forward_pre_hook(_fetch, with_kwargs=True)
        block.register_forward_hook(_put_back, always_call=True)
        # A bound method, so that a copy of the block has its own.
        block.__dict__ |= {"_apply": types.MethodType(_apply, block), "_elsewhere": folder, "_fetched": []}
    return model


def _outermost(model: nn.Module, patterns: Sequence[str]) -> Iterator[nn.Module]:
    names = [name for name, _ in model.named_modules() if name]
    for place, pattern in enumerate(patterns):
        if not fnmatch.filter(names, pattern):
            raise DeclarationError(
                f"got '{pattern}', which matches no module; {nearest_pattern(pattern, names)}", f"blocks.{place}"
            )
    inside = ""
    for name in names:
        if any(fnmatch.fnmatchcase(name, p) for p in patterns) and not (inside and name.startswith(f"{inside}.")):
            inside = name
            yield model.get_submodule(name)


def _lay(p: Tensor, values: Tensor, folder: str | Path | None) -> None:
    """Let a parameter lie elsewhere, with these values."""
    _MAPPED.pop(p, None)
    if folder is None or not values.numel():
        pinned = torch.cuda.is_available()
        p.data = torch.empty_like(values, device="cpu", pin_memory=pinned).copy_(values) if pinned else values.cpu()
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(values.nbytes)
        mapping = mmap.mmap(file.fileno(), values.nbytes)
    there = torch.frombuffer(mapping, dtype=values.dtype)
    like = torch.empty_like(values, device="meta")  # dense, in the order of axes that the values have
    p.data = there.as_strided(like.shape, like.stride()).copy_(values)
    _MAPPED[p] = mapping
    _drop(p)


def _drop(p: Tensor) -> None:
    """Have the pages of a mapped parameter leave this process's memory; the file keeps them."""
    if p in _MAPPED and hasattr(mmap, "MADV_DONTNEED"):
        _MAPPED[p].madvise(mmap.MADV_DONTNEED)


def _fetch(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if torch.is_grad_enabled() and any(p.requires_grad for p in block.parameters()):
        raise UserCodeError(
            f"a {type(block).__name__} whose weights lie elsewhere has no backward; allowed: forwards under torch.no_grad(), "
            "or requires_grad_(False)"
        )
    device = next((x.device for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), torch.device("cpu"))
    for p in block.parameters():
        if p in _MAPPED or p.device != device:
            elsewhere = p.data
            p.data = elsewhere.to(device, copy=True)
            block._fetched.append((p, elsewhere, p._version))
            _drop(p)


def _put_back(block: Any, args: tuple[Any, ...], output: Any) -> None:
    while block._fetched:
        p, elsewhere, version = block._fetched.pop()
        if p._version != version:
            elsewhere.copy_(p.data)
        p.data = elsewhere
        _drop(p)


def _apply(block: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """What moves a module to a device or a type: buffers follow, weights take the type and stay where they lie."""
    for module in block.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else fn(buffer)
    for p in block.parameters():
        wanted = fn(p.new_empty(0)).dtype
        if wanted != p.dtype:
            _lay(p, p.data.to(wanted), block._elsewhere)
    return block
