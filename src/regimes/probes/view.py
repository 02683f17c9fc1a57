"""What a probe may look at, and the guard that puts everything back as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError
from regimes.core.unit_losses import UnitLosses


class View:
    """The model, its loss and some batches; whatever a probe does with them is undone by `undisturbed`.

    The model is in the mode that it is in: in a run that is training mode, because what a probe asks about
    (gradient, noise, curvature) are properties of the function that is being descended, dropout and batch
    statistics included. Random numbers in the forward begin at a fixed seed, so that two measurements differ by
    the weights alone. Call ``model.eval()`` before measuring in a loop of one's own to look at the other function.

    Parameters
    ----------
    model : nn.Module
    loss_fn : callable
        ``loss_fn(model, batch)`` returns the mean loss, the losses per example, or UnitLosses (so any Loss of
        ours is one), with graph.
    batch : batch
        What the step trained on: its first micro-batch.
    parameters : mapping of str to Tensor, optional
        Those that are trained. Default: all that require gradients.
    previous : mapping of str to Tensor, optional
        Trained weights before the step, for probes that say ``wants_previous``.
    initial : mapping of str to Tensor, optional
        All weights at step 0 of the run, after the transforms of its first phase, for probes that say
        ``wants_initial``.
    groups : mapping of str to names, optional
        Parameter groups: what they match, and the names of the parameters that they own.
    batches : callable, optional
        ``batches(count, size)`` returns up to `count` disjoint batches of up to `size` training examples, the same
        at every call. Default: pieces of `batch`.
    size : int, optional
        Examples in the training data; None stands for a stream without end.
    numbers : sequence of int, optional
        Number of each example of `batch`, within its source.
    sources : sequence of int, optional
        Position of its source, where there are several.
    memory : mapping, optional
        What the probe remembers of the steps of the run (`Probe.observe`).
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[nn.Module, Any], Any],
        batch: Any,
        *,
        parameters: Mapping[str, Tensor] | None = None,
        previous: Mapping[str, Tensor] | None = None,
        initial: Mapping[str, Tensor] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        batches: Callable[[int, int], list[Any]] | None = None,
        size: int | None = None,
        numbers: Sequence[int] | None = None,
        sources: Sequence[int] | None = None,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.batch, self.size = model, batch, size
        self.numbers, self.sources = numbers, sources
        self.previous, self.initial = previous, initial
        self.memory = memory
        self.parameters = dict(parameters or {n: p for n, p in model.named_parameters() if p.requires_grad})
        self.groups = dict(groups or {})
        self._loss_fn, self._batches = loss_fn, batches

    def losses(self, batch: Any = None) -> Tensor | UnitLosses:
        """What the loss function returns on a batch (default: the step's), with graph."""
        return self._loss_fn(self.model, self.batch if batch is None else batch)

    def loss(self, batch: Any = None) -> Tensor:
        """Mean loss on a batch (default: the step's), with graph."""
        found = self.losses(batch)
        if isinstance(found, Tensor):
            return found.mean()
        if found.weights is None:
            return found.values.mean()
        # A unit of weight 0 (padding) may hold anything; it counts as nothing rather than as 0 * inf.
        kept = torch.where(found.weights != 0, found.values * found.weights, 0.0)
        return kept.sum() / found.weights.sum()

    def example_losses(self, batch: Any = None) -> Tensor:
        """Mean unit loss of every example of a batch (default: the step's) that has any weight, without graph.

        Raises
        ------
        DeclarationError
            If the loss function returns one number for the whole batch.
        """
        return self.placed_losses(batch)[0]

    def placed_losses(self, batch: Any = None) -> tuple[Tensor, Tensor]:
        """`example_losses`, and the place in the batch of each of these examples.

        Raises
        ------
        DeclarationError
            As `example_losses`.
        """
        with torch.no_grad():
            found = self.losses(batch)
        if isinstance(found, Tensor):
            if found.ndim == 0:
                raise DeclarationError(
                    "got one number for the whole batch; allowed: losses per example (reduction='none') or UnitLosses",
                    "loss_fn",
                )
            return found.reshape(len(found), -1).mean(1), torch.arange(len(found))
        values = found.values.reshape(-1)
        if found.examples is None and found.weights is None:
            return values, torch.arange(len(values))
        place = torch.arange(len(values), device=values.device) if found.examples is None else found.examples
        weights = torch.ones_like(values) if found.weights is None else found.weights.to(values)
        size = int(place.max()) + 1
        mass = values.new_zeros(size).index_add_(0, place, weights)
        total = values.new_zeros(size).index_add_(0, place, torch.where(weights != 0, values * weights, 0.0))
        return total[mass > 0] / mass[mass > 0], torch.nonzero(mass > 0).view(-1)

    def gradients(self, batch: Any = None) -> tuple[Tensor, ...]:
        """Gradient of the mean loss on a batch (default: the step's), in parameter order."""
        leaves = list(self.parameters.values())
        found = torch.autograd.grad(self.loss(batch), leaves, allow_unused=True)
        return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(found, leaves))

    def fixed(self, examples: int) -> Any:
        """One batch of `examples` training examples, always the same; outside a run, the given batch."""
        return self.batch if self._batches is None else self._batches(1, examples)[0]

    def pieces(self, examples: int, size: int) -> list[Any]:
        """Up to `examples` training examples in batches of `size`, always the same; outside a run, the given batch."""
        return [self.batch] if self._batches is None else self._batches(-(-examples // size), min(size, examples))

    def batches(self, count: int, size: int) -> list[Any]:
        """Up to `count` disjoint batches of `size` examples, the same at every call.

        Raises
        ------
        DeclarationError
            Outside a run, if the given batch holds fewer than two such pieces.
        """
        if self._batches is not None:
            return self._batches(count, size)
        total = length(self.batch)
        if total < 2 * size:
            raise DeclarationError(
                f"got {total} examples for batches of {size}; allowed: at least {2 * size}, or give batches=", "batch"
            )
        return [piece(self.batch, i * size, (i + 1) * size) for i in range(min(count, total // size))]


def length(batch: Any) -> int:
    """Number of examples in a batch: that of its first tensor.

    Examples
    --------
    >>> length({"x": torch.zeros(5, 2), "y": torch.zeros(5)})
    5
    """
    for part in _members(batch).values():
        return len(part) if isinstance(part, Tensor) else length(part)
    return len(batch)


def piece(batch: Any, start: int, stop: int) -> Any:
    """The examples start .. stop of a batch, whatever holds its tensors.

    Examples
    --------
    >>> piece((torch.arange(4), [torch.arange(4) * 2]), 1, 3)
    (tensor([1, 2]), [tensor([2, 4])])
    """
    if isinstance(batch, Tensor):
        return batch[start:stop]
    parts = {name: piece(part, start, stop) for name, part in _members(batch).items()}
    if isinstance(batch, Mapping):
        return parts
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return dataclasses.replace(batch, **parts)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*parts.values())
    return type(batch)(parts.values())


def _members(batch: Any) -> dict[Any, Any]:
    if isinstance(batch, Tensor):
        return {}
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    if isinstance(batch, tuple | list):
        return dict(enumerate(batch))
    raise DeclarationError(
        f"got a batch of type {type(batch).__name__}, which cannot be cut into pieces; give batches=", "batch"
    )


class Snapshot:
    """Everything of a model that a measurement could disturb; `restore` puts it back bitwise.

    Weights, gradients, buffers, modes, ``requires_grad`` and the random state of torch (all devices in use), numpy
    and Python. What a model keeps in plain attributes of its modules is out of reach.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modes = [(module, module.training) for module in model.modules()]
        self._weights = [(p, p.data, p.detach().clone(), p.requires_grad, *_gradient(p)) for p in model.parameters()]
        self._buffers = [
            (module, name, buffer, None if buffer is None else buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
        ]
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._random = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        self._device_random = torch.cuda.get_rng_state_all() if self._cuda else []

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        torch.set_rng_state(self._random[0])
        np.random.set_state(self._random[1])
        random.setstate(self._random[2])
        if self._cuda:
            torch.cuda.set_rng_state_all(self._device_random)
        for p, data, value, requires, grad, kept in self._weights:
            p.data = data
            p.copy_(value)
            p.requires_grad_(requires)
            p.grad = grad
            if grad is not None and kept is not None:
                grad.copy_(kept)
        for module, name, buffer, kept in self._buffers:
            module._buffers[name] = buffer
            if buffer is not None and kept is not None:
                buffer.copy_(kept)
        for module, training in self._modes:
            module.training = training


def _gradient(p: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return p.grad, None if p.grad is None else p.grad.detach().clone()


def reseed() -> None:
    """Begin the random streams that a forward may read at a fixed place: measurements differ by the weights alone."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    random.seed(0)
    np.random.seed(0)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, random streams begin at a fixed place; afterwards everything is bitwise what it was.

    Examples
    --------
    >>> model = nn.BatchNorm1d(2)
    >>> with undisturbed(model): _ = model(torch.randn(8, 2)); model.eval().weight.data.zero_()
    tensor([0., 0.])
    >>> model.training, model.weight.tolist(), model.num_batches_tracked.item()
    (True, [1.0, 1.0], 0)
    """
    before = Snapshot(model)
    reseed()
    try:
        yield
    finally:
        before.restore()
