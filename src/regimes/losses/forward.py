"""How a batch meets a model: which part is the target, which parts are inputs; and how outputs become units."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import Loss, State, no_distribution
from regimes.core.unit_losses import UnitLosses

TARGETS = ("target", "targets", "label", "labels", "y")


def split(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return (positional inputs, named inputs, target) of a batch.

    A tuple's last part is the target; a dict's or dataclass's is the one called target, label or y.

    Raises
    ------
    DeclarationError
        If no part can be the target.

    Examples
    --------
    >>> split((1, 2)), split({"x": 1, "y": 2})
    (((1,), {}, 2), ((), {'x': 1}, 2))
    """
    if isinstance(batch, tuple | list) and not hasattr(batch, "_fields") and len(batch) >= 2:
        return tuple(batch[:-1]), {}, batch[-1]
    named = _named(batch)
    if named is not None:
        for name in TARGETS:
            if name in named:
                return (), {key: value for key, value in named.items() if key != name}, named[name]
    raise DeclarationError(
        f"got a batch {show(batch)} in which no part is the target; allowed: (inputs, target), or a dict or "
        f"dataclass with one of {', '.join(TARGETS)}; or give a loss function (model, batch) -> per-example losses",
        "loss",
    )


def _named(batch: Any) -> dict[str, Any] | None:
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return batch._asdict() if hasattr(batch, "_asdict") else None


def predict(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Return (the model's output, the target)."""
    args, kwargs, target = split(batch)
    return model(*args, **kwargs), target


def examples_in(batch: Any) -> int:
    """Return how many examples a batch holds: the first axis of its first tensor.

    Examples
    --------
    >>> examples_in({"name": ["a", "b"], "x": torch.zeros(2, 5)})
    2
    """
    for part in _parts(batch):
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    raise DeclarationError(f"got a batch {show(batch)} without a tensor; its examples cannot be counted", "loss")


def _parts(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        yield batch
    named = _named(batch)
    if named is not None or isinstance(batch, tuple | list):
        for part in named.values() if named is not None else batch:
            yield from _parts(part)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; afterwards every module is in its own again.

    Examples
    --------
    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(net):
    ...     [part.training for part in net]
    [False, False]
    >>> [part.training for part in net]
    [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class OutputLoss(Loss):
    """A loss that is a function of the model's output and the target; metrics can share its forward."""

    #: Torch's criterion that computes the same, for a refusal of that where only a loss may stand.
    criterion_class: ClassVar[type[nn.Module] | None] = None

    @classmethod
    def stands_for(cls, other: str | type) -> str | None:
        """``MSE()`` for torch's criterion or its name."""
        theirs = cls.criterion_class
        if theirs is None or (other is not theirs and other != theirs.__name__):
            return None
        return f"write {cls.__name__}()"

    def per_unit(self, output: Any, target: Any) -> UnitLosses:
        """Return the losses per unit."""
        raise NotImplementedError(f"{type(self).__name__} gives no units")

    def logits(self, output: Any, target: Any) -> Tensor:
        """Return the logits of every unit, shape (units, classes), of a loss that takes a softmax of them."""
        raise NotImplementedError(f"{type(self).__name__} takes no softmax")

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """One forward, then `per_unit`."""
        return self.per_unit(*predict(model, batch))

    def per_unit_drawn(self, output: Any, target: Any, generator: torch.Generator) -> UnitLosses:
        """Return the losses per unit of targets drawn from the output; what `target` ignores stays ignored."""
        raise no_distribution(self)

    def sampled(self, state: State, model: nn.Module, batch: Any, generator: torch.Generator) -> UnitLosses:
        """One forward, then `per_unit_drawn`."""
        return self.per_unit_drawn(*predict(model, batch), generator)


def flat_tokens(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (units, classes), targets (units,) and the example of each unit, for (n, length) targets."""
    n, length = target.shape
    return output.reshape(n * length, -1), target.reshape(-1), _examples(n, length, target.device)


@functools.lru_cache(maxsize=64)
def _examples(n: int, each: int, device: torch.device) -> Tensor:
    """The example of every unit where each has equally many; kept, as every step asks for the same."""
    return torch.arange(n, device=device).repeat_interleave(each)


def per_position(values: Tensor, weights: Tensor | None = None) -> UnitLosses:
    """Return every entry of `values`, shape (n, d1, ...), as a unit of the example that its first axis says.

    Examples
    --------
    >>> per_position(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).examples
    tensor([0, 0, 1, 1])
    """
    if values.ndim == 1:
        return UnitLosses(values, weights)
    examples = _examples(len(values), values[0].numel(), values.device)
    return UnitLosses(values.reshape(-1), None if weights is None else weights.reshape(-1), examples)


def per_example(values: Tensor) -> UnitLosses:
    """Return the mean over all axes but the first: one unit per example.

    Examples
    --------
    >>> per_example(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).values
    tensor([2., 2.])
    """
    return UnitLosses(values if values.ndim == 1 else values.reshape(len(values), -1).mean(1))


def same_shape(output: Tensor, target: Tensor) -> None:
    """Refuse shapes that torch would broadcast: every output against every target.

    Raises
    ------
    DeclarationError
        If output and target differ in shape.
    """
    if output.shape != target.shape:
        raise DeclarationError(
            f"got an output of shape {tuple(output.shape)} and a target of shape {tuple(target.shape)}; allowed: the "
            "same shape (squeeze the output, or unsqueeze the target)",
            "loss",
        )


_SUPPOSED: ContextVar[list[int] | None] = ContextVar("supposed", default=None)


@contextlib.contextmanager
def supposing() -> Iterator[list[int]]:
    """Inside, `kept` supposes that every target counts, and notes what is ignored: to be asked again of other targets.

    Examples
    --------
    >>> with supposing() as ignored:
    ...     kept(torch.tensor([0, -100]), -100)
    >>> ignored, kept(torch.tensor([0, -100]), -100)
    ([-100], tensor([ True, False]))
    """
    noted: list[int] = []
    token = _SUPPOSED.set(noted)
    try:
        yield noted
    finally:
        _SUPPOSED.reset(token)


def kept(target: Tensor, ignore: int) -> Tensor | None:
    """Return True where a target counts; None, the cheap case, where all do."""
    if (noted := _SUPPOSED.get()) is not None:
        noted.append(ignore)
        return None
    if ignore < 0 and target.min().item() >= 0:  # a quarter of the time of the comparison
        return None
    counts = target != ignore
    return None if counts.all() else counts


def drawn_classes(logits: Tensor, target: Tensor, ignore: int, generator: torch.Generator) -> Tensor:
    """Return classes drawn from softmax(logits), `ignore` where the target is.

    Parameters
    ----------
    logits : Tensor, shape (n, classes)
    target : Tensor of int64, shape (n,)
    ignore : int
    generator : torch.Generator

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 50.0], [50.0, 0.0], [0.0, 0.0]])
    >>> drawn_classes(logits, torch.tensor([0, 0, -100]), -100, torch.Generator())
    tensor([   1,    0, -100])
    """
    # In float32 at least: in half precision small probabilities would be rounded away.
    shares = torch.softmax(logits.detach().to(torch.promote_types(logits.dtype, torch.float32)), -1)
    # What is not finite is the loss's to show: torch would refuse to draw.
    drawn = torch.multinomial(shares.nan_to_num(nan=1.0), 1, generator=generator).view(-1)
    return torch.where(target == ignore, target, drawn)
