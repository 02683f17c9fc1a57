"""What an evaluation captures: of single modules inputs, outputs and gradients of outputs; of the batch its targets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, UserCodeError, nearest
from regimes.core.listening import heard
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import split

KINDS = ("input", "output", "output_gradient")
#: Captured of the batch itself, not of a module.
OF_BATCH = ("target", "weight")


class Captures:
    """Lists of tensors, one per call of the module and micro-batch, in the order of the calls; of the batch one per
    micro-batch.

    An input is the module's first, as it was before the forward. Gradients are of the micro-batch's sum of weighted
    unit losses, each unit's own, before the step divides by the sum of weights; a call whose output no trained
    parameter lies under has gradient zero. Tensors are copies in the type that the forward computed in. A ``target`` is
    that part of the batch (`regimes.losses.forward.split`) as the loss saw it, after augmentation; ``weight`` is what
    each unit's loss counts in the gradient: the loss's own weight, the sampler's and the selector's together.

    Parameters
    ----------
    model : nn.Module
    wanted : sequence of str
        ``input:<module>``, ``output:<module>`` or ``output_gradient:<module>``; ``target``, ``weight``.
    grad : bool
        Whether the evaluation makes gradients.

    Raises
    ------
    UserCodeError
        If there is no such module, or nothing such can be captured; inside `listening`, if what a module takes or
        gives is no tensor.
    DeclarationError
        In `note`, if targets are wanted beside a module that is not called once in each micro-batch.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[str], grad: bool) -> None:
        self.found: dict[str, list[Tensor]] = {item: [] for item in wanted}
        modules = dict(model.named_modules()) if wanted else {}
        self._hooks = []
        for item in self.found:
            if item in OF_BATCH:
                continue
            what, _, name = item.partition(":")
            if what not in KINDS:
                raise UserCodeError(f"got '{item}' to capture; {nearest(what, (*KINDS, *OF_BATCH))}")
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

    def note(self, batch: Any, losses: UnitLosses, weights: Tensor | None) -> None:
        """Keep what is wanted of one micro-batch; `weights` None stands for all 1."""
        if "target" in self.found:
            target = split(batch)[2]
            self.found["target"].append(target.detach().clone() if isinstance(target, Tensor) else target)
            self._refuse_unpaired(len(self.found["target"]))
        if "weight" in self.found:
            values = losses.values.detach()
            self.found["weight"].append(torch.ones_like(values) if weights is None else weights.detach().clone())

    def _refuse_unpaired(self, batches: int) -> None:
        """Whoever asks for targets beside what a module takes or gives reads them in pairs."""
        for item, _, module in self._hooks:
            if len(self.found[item]) != batches:
                raise DeclarationError(
                    f"got '{item}' beside targets, but {type(module).__name__} was called {len(self.found[item])} times in "
                    f"{batches} micro-batches; allowed: a model and a loss that call it once in each, so that each has its "
                    "target",
                    "optimizer",
                )

    def _attach(self, item: str, what: str, module: nn.Module) -> Any:
        store = self.found[item]

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if heard():
                store.append(_tensor(next(iter((*args, *kwargs.values())), None), item).detach().clone())

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if not heard():
                return
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


@contextlib.contextmanager
def calling(model: nn.Module, before: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Inside, ``before[name]()`` is called whenever the module of that name is about to run."""
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, call=call: call())
        for name, call in before.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensor(value: Any, item: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserCodeError(f"'{item}' cannot be captured: it is {type(value).__name__}; allowed: a tensor")
    return value
