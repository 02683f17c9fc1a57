"""What an evaluation captures of single modules: inputs, outputs, gradients of outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from regimes.core.errors import UserCodeError, nearest

KINDS = ("input", "output", "output_gradient")


class Captures:
    """Lists of tensors, one per call of the module and micro-batch, in the order of the calls.

    An input is the module's first, as it was before the forward. Gradients are of the micro-batch's sum of weighted
    unit losses, each unit's own, before the step divides by the sum of weights; a call whose output no trained
    parameter lies under has gradient zero. Tensors are copies in the type that the forward computed in.

    Parameters
    ----------
    model : nn.Module
    wanted : sequence of str
        ``input:<module>``, ``output:<module>`` or ``output_gradient:<module>``.
    grad : bool
        Whether the evaluation makes gradients.

    Raises
    ------
    UserCodeError
        If there is no such module, or nothing such can be captured; inside `listening`, if what a module takes or
        gives is no tensor.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[str], grad: bool) -> None:
        self.found: dict[str, list[Tensor]] = {item: [] for item in wanted}
        modules = dict(model.named_modules()) if wanted else {}
        self._hooks = []
        for item in self.found:
            what, _, name = item.partition(":")
            if what not in KINDS:
                raise UserCodeError(f"got '{item}' to capture; {nearest(what, KINDS)}")
            if name not in modules:
                raise UserCodeError(f"there is no module '{name}' to capture; {nearest(name, modules)}")
            if what == "output_gradient" and not grad:
                raise UserCodeError(f"got '{item}' to capture from an evaluation without gradients")
            self._hooks.append((item, what, modules[name]))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, forwards are captured; their backward may follow outside."""
        handles = [self._attach(item, what, module) for item, what, module in self._hooks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _attach(self, item: str, what: str, module: nn.Module) -> Any:
        store = self.found[item]

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            store.append(_tensor(next(iter((*args, *kwargs.values())), None), item).detach().clone())

        def after(module: nn.Module, args: Any, output: Any) -> None:
            output = _tensor(output, item)
            if what == "output":
                store.append(output.detach().clone())
                return
            place = len(store)
            store.append(output.detach().new_zeros(()).expand_as(output))

            def keep(g: Tensor) -> None:
                store[place] = g.detach().clone()

            # On the tensor, not on the module: a module's backward hook fires only where its input's gradient is made.
            if output.requires_grad:
                output.register_hook(keep)

        if what == "input":
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)


def _tensor(value: Any, item: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserCodeError(f"'{item}' cannot be captured: it is {type(value).__name__}; allowed: a tensor")
    return value
