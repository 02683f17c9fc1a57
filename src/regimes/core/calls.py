"""Calls of torch's functions inside a region: heard, or answered in torch's place, whoever's model makes them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: ``answer(function, args, kwargs) -> result``; to leave a call as it is, it returns ``function(*args, **kwargs)``.
Answer = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Calls(TorchFunctionMode):
    """Inside, calls of some functions of torch are answered by others; what an answer calls itself is not.

    Functions are met as Python calls them, above autograd, `vmap` and autocast. ``nn.MultiheadAttention`` calls its
    products from a function of its own, which is looked into. What torch calls from compiled code (LSTM and GRU, a
    scripted model) is not met.

    Parameters
    ----------
    answers : mapping of functions to Answer

    Examples
    --------
    >>> import torch
    >>> def louder(function, args, kwargs):
    ...     return 2 * function(*args, **kwargs)
    >>> x = torch.ones(1, 3)
    >>> with Calls({functional.linear: louder}):
    ...     functional.linear(x, x), x @ x.T
    (tensor([[6.]]), tensor([[3.]]))
    """

    def __init__(self, answers: Mapping[Any, Answer]) -> None:
        super().__init__()
        self.answers = answers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer one call."""
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with self:
                return _looked_into(func)(*args, **kwargs)
        answer = self.answers.get(func)
        return func(*args, **kwargs) if answer is None else answer(func, args, kwargs)


@functools.cache
def _looked_into(function: Any) -> Any:
    """A function of torch's own Python that does not hand itself to a mode, so that the mode meets what it calls."""
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def given(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, by its place or by its name.

    Examples
    --------
    >>> given((1, 2), {"scale": 3}, 1, "other"), given((1, 2), {"scale": 3}, 7, "scale"), given((), {}, 0, "mask")
    (2, 3, None)
    """
    return args[place] if place < len(args) else kwargs.get(name, default)
