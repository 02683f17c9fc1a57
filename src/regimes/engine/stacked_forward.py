"""The forwards of several models of one architecture as one: `torch.func.vmap` over stacked weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from regimes.engine.batched import RULES
from regimes.engine.buffers import slots
from regimes.engine.stackable import Unstackable

#: Functions that draw a mask as large as their first argument from the global generator.
_DROPOUTS = (functional.dropout, torch.dropout)
#: Makes the context of a forward from its masks.
Mode = Callable[[Sequence[Tensor]], AbstractContextManager[Any]]


class StackedForward:
    """The forward of R models, ``outputs(args, kwargs, *drawn(args, kwargs, seeds))``: inputs and outputs have a leading
    axis of R.

    The first model's modules run, with stacked weights in the places of its own; its hooks and modes count for all.
    Dropout takes masks that are drawn for every replica from its own seed, as its own forward would draw them; any
    other use of random numbers is refused by `vmap`.

    Parameters
    ----------
    models : sequence of nn.Module
    rows : mapping of str to Tensor, shape (R, ...)
        Stacked parameters, by name; of all that the models have.
    """

    def __init__(self, models: Sequence[nn.Module], rows: Mapping[str, Tensor]) -> None:
        self.model = models[0]
        self._places = list(_places(self.model, rows))
        #: Stacked weights, by place in the model: a tied one comes as often as it is used.
        self.leaves = tuple(leaf for _, _, leaf in self._places)
        found = [slots(model) for model in models]
        self._slots = {
            name: slot for name, slot in found[0].items() if slot.get() is not None and _differ(found, name, slot)
        }
        self.buffers = {name: _stacked_buffers(found, name) for name in self._slots}
        # All others are the same in all models, and stay as they are; or the stack is one no longer.
        rest = {name: slot for name, slot in found[0].items() if name not in self._slots}
        self._constant = [
            (name, slot, value, value.clone(), value._version)
            for name, slot in rest.items()
            if (value := slot.get()) is not None
        ]
        #: By the shapes of the inputs, what a forward calls.
        self._looks: dict[Any, _Look] = {}

    def outputs(self, args: Sequence[Any], kwargs: Mapping[str, Any], masks: Sequence[Tensor], mode: Mode) -> Any:
        """Return the outputs, with what `drawn` returned."""
        return self.mapped(self.leaves, self.written, args, kwargs, masks, mode)

    @property
    def written(self) -> tuple[Tensor, ...]:
        """Stacked buffers, which a forward may write."""
        return tuple(self.buffers.values())

    def drawn(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], seeds: Callable[[], Sequence[int]]
    ) -> tuple[Sequence[Tensor], Mode]:
        """Return the masks that a forward on such inputs takes, and the mode that hands them out.

        Parameters
        ----------
        args, kwargs
            Tensors with a leading axis of R; anything else is the same for all.
        seeds : callable
            Returns the seed of every replica's forward; asked only if something is drawn.
        """
        key = tuple([leaf.shape if isinstance(leaf, Tensor) else None for leaf in pytree.tree_leaves((args, kwargs))])
        if key not in self._looks:
            self._looks[key] = self._look(args, kwargs)
        seen = self._looks[key]
        if seen.masks:
            return _masks(seen.masks, seeds()), _Given
        return (), _Ruled if seen.ruled else _plain

    def _look(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Look:
        """See what a forward on such inputs calls; nothing else comes of it."""
        before = [buffer.clone() for buffer in self.written]
        look = _Look()
        with torch.no_grad():
            self.mapped(self.leaves, self.written, args, kwargs, (), lambda _: look)
            for buffer, value in zip(self.written, before):
                buffer.copy_(value)
        return look

    def mapped(
        self,
        leaves: Sequence[Tensor],
        buffers: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        masks: Sequence[Tensor],
        mode: Mode,
    ) -> Any:
        """Return the outputs at these weights and buffers, which are written."""
        flat, form = pytree.tree_flatten((args, kwargs))
        tensors = tuple([leaf for leaf in flat if isinstance(leaf, Tensor)])

        def one(leaves: Any, buffers: Any, inputs: Any, masks: Any) -> Any:
            self._put(leaves, buffers)
            rest = iter(inputs)
            own, named = pytree.tree_unflatten(
                [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in flat], form
            )
            with mode(masks):
                output = self.model(*own, **named)
            replaced.extend(name for (name, slot), own_ in zip(self._slots.items(), buffers) if slot.get() is not own_)
            return output

        replaced: list[str] = []
        kept = [places[key] for places, key, _ in self._places]
        held = [slot.get() for slot in self._slots.values()]
        try:
            outputs = vmap(one)(leaves, buffers, tensors, tuple(masks))
        finally:
            for (places, key, _), value in zip(self._places, kept):
                places[key] = value
            for slot, buffer in zip(self._slots.values(), held):
                slot.module._buffers[slot.key] = buffer
            replaced += self._put_back()
        if replaced:
            raise Unstackable(f"its forward writes the buffer '{replaced[0]}' in a way that no stack keeps apart")
        return outputs

    def _put_back(self) -> list[str]:
        """Put buffers back that are the same in all models and that a forward has written; return their names."""
        written = []
        for place, (name, slot, tensor, value, version) in enumerate(self._constant):
            if slot.get() is not tensor or tensor._version != version:
                written.append(name)
                slot.module._buffers[slot.key] = tensor
                with torch.no_grad():
                    tensor.copy_(value)
                self._constant[place] = (name, slot, tensor, value, tensor._version)
        return written

    def _put(self, leaves: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
        for (places, key, _), leaf in zip(self._places, leaves):
            places[key] = leaf
        for slot, buffer in zip(self._slots.values(), buffers):
            slot.module._buffers[slot.key] = buffer


def _places(model: nn.Module, rows: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Every place of a parameter, tied ones included, with the row of its first name."""
    first: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    for module in model.modules():
        for key, p in module._parameters.items():
            if p is not None:
                yield module._parameters, key, rows[first[id(p)]]


def _differ(found: Sequence[Mapping[str, Any]], name: str, first: Any) -> bool:
    """Whether a buffer has to be stacked: norms write theirs; of others those that are not the same in all models."""
    if isinstance(first.module, nn.modules.batchnorm._NormBase):
        return True
    own = first.get()
    return any(not torch.equal(own, other[name].get()) for other in found[1:])


def _stacked_buffers(found: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    """Stack a buffer of all models, and give every model its row."""
    stacked = torch.stack([each[name].get() for each in found])
    for each, row in zip(found, stacked):
        each[name].module._buffers[each[name].key] = row
    return stacked


def _masks(dropped: Sequence[tuple[torch.Size, torch.dtype, float]], seeds: Sequence[int]) -> list[Tensor]:
    """Masks of every dropout, shape (R, ...): a replica's are drawn in order, as its own forward draws them."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    made = []
    for shape, dtype, p in dropped:
        masks = torch.empty((len(seeds), *shape), dtype=dtype)
        for mask, generator in zip(masks, generators):
            mask.bernoulli_(1.0 - p, generator=generator)
        made.append(masks.div_(1.0 - p))
    return made


def _plain(_: Sequence[Tensor]) -> AbstractContextManager[Any]:
    return nullcontext()


class _Ruled(TorchFunctionMode):
    """Inside, functions that have a batching rule of ours take it."""

    def __init__(self, _: Sequence[Tensor]) -> None:
        super().__init__()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return RULES.get(function, function)(*args, **(kwargs or {}))


class _Dropout(TorchFunctionMode):
    """The same, and dropout does what `dropped` says."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function not in _DROPOUTS:
            return RULES.get(function, function)(*args, **(kwargs or {}))
        given = dict(zip(("input", "p", "training"), args)) | (kwargs or {})
        p = given.get("p", 0.5)
        if not given.get("training", True) or p == 0.0:
            return given["input"]
        return self.dropped(given["input"], p) if p < 1.0 else given["input"] * 0.0

    def dropped(self, input: Tensor, p: float) -> Tensor:
        """Return what dropout leaves."""
        raise NotImplementedError


class _Look(_Dropout):
    """Notes what a forward calls, and drops nothing."""

    def __init__(self) -> None:
        super().__init__()
        #: Shape, type and probability of every mask that dropout draws.
        self.masks: list[tuple[torch.Size, torch.dtype, float]] = []
        #: Whether something is called that has a batching rule of ours.
        self.ruled = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ruled = self.ruled or function in RULES
        return super().__torch_function__(function, types, args, kwargs)

    def dropped(self, input: Tensor, p: float) -> Tensor:
        """Drop nothing."""
        self.masks.append((input.shape, input.dtype, p))
        return input


class _Given(_Dropout):
    """Multiplies by masks that have been drawn before."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        super().__init__()
        self._masks = iter(masks)

    def dropped(self, input: Tensor, p: float) -> Tensor:
        """Drop what the next mask says."""
        return input * next(self._masks)
