"""A function as a loss: per-example losses, or one number for the batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import Loss, State
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import examples_in


class FromFunction(Loss):
    """A function ``(model, batch) -> losses``.

    Losses of shape (n,) for a batch of n examples are one unit each. A scalar is one unit that weighs n: the mean of
    the batch, over which micro-batches are then averaged; per-example weights cannot reach into it.

    Parameters
    ----------
    function : callable
        Called with the model and the batch as the data gives it.
    separable : bool
        Say True if the loss of an example does not depend on the others of its batch: a function does not show it.
        Default False.

    Raises
    ------
    DeclarationError
        For a function that is not called with (model, batch), or gives neither n losses nor one.

    Examples
    --------
    >>> import torch
    >>> def squares(model, batch):
    ...     return model(batch[0]).square().mean(1)
    >>> FromFunction(squares).units({}, nn.Identity(), (torch.tensor([[1.0, 3.0], [2.0, 2.0]]),)).values
    tensor([5., 4.])
    >>> scalar = FromFunction(lambda model, batch: squares(model, batch).mean())
    >>> units = scalar.units({}, nn.Identity(), (torch.tensor([[1.0, 3.0], [2.0, 2.0]]),))
    >>> units.values, units.weights
    (tensor([4.5000]), tensor([2.]))
    """

    function: Callable[..., Any] = fixed()
    separable: bool = fixed(False, kw_only=True)  # type: ignore[misc]

    def validate(self) -> None:
        """Refuse what cannot be called with (model, batch)."""
        if not callable(self.function):
            raise DeclarationError(f"got {show(self.function)}; allowed: a function (model, batch)", "loss")
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return
        if "reduction" in signature.parameters:
            raise DeclarationError(
                f"got {_name(self.function)}, a function of (output, target); give the criterion, for example "
                "nn.CrossEntropyLoss(), or a function (model, batch) -> per-example losses",
                "loss",
            )
        try:
            signature.bind(None, None)
        except TypeError:
            raise DeclarationError(
                f"got {_name(self.function)}{signature}; allowed: a function (model, batch) -> per-example losses",
                "loss",
            ) from None

    def __repr__(self) -> str:
        return f"FromFunction({_name(self.function)}{', separable=True' if self.separable else ''})"

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """Losses of one micro-batch."""
        try:
            losses, n = self.function(model, batch), examples_in(batch)
        except (AttributeError, TypeError) as why:
            if type(model).__name__ in str(why):
                why.add_note(
                    "a function is called with (model, batch), the batch as the data give it; what is called with (output, "
                    "target) is a criterion: loss=nn.CrossEntropyLoss()"
                )
            raise
        if not isinstance(losses, Tensor):
            raise DeclarationError(f"{_name(self.function)} gave {show(losses)}; allowed: a tensor", "loss")
        if losses.shape == (n,):
            return UnitLosses(losses)
        if losses.ndim == 0 and not self.separable:
            return UnitLosses(losses.reshape(1), losses.new_full((1,), n), losses.new_zeros(1).long())
        raise DeclarationError(
            f"{_name(self.function)} gave losses of shape {tuple(losses.shape)} for a batch of {n} examples; allowed: "
            f"({n},){' since separable=True' if self.separable else ' or one number'}",
            "loss",
        )


def _name(function: Any) -> str:
    """Where a function is found: the same on every machine."""
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"partial({', '.join([_name(function.func), *given])})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"
