"""The contract of tensorwise rules: one tensor, in place; the engine, stacks and torch.optim share it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from regimes.core.errors import DeclarationError
from regimes.core.kinds import Optimizer, State

#: Where the state of a rule keeps its row, while its run is stacked.
ROW = "cache:row"
#: Types that are too narrow for a state and for the arithmetic of an update.
HALF = frozenset({torch.float16, torch.bfloat16})


class Row(NamedTuple):
    """All trained parameters of a run as one tensor, with their gradients and slots: what an elementwise rule may update.

    Parameters
    ----------
    values, gradients : Tensor, shape (n,)
    views : tuple of Tensor
        The gradients by parameter: the row holds for exactly these tensors.
    slots : dict of str to Tensor, shape (n,)
    """

    values: Tensor
    gradients: Tensor
    views: tuple[Tensor, ...]
    slots: dict[str, Tensor]


class Tensorwise(Optimizer):
    """A first-order rule that updates each tensor from its own gradient and slots.

    Subclasses give `slots` and `update`; `update_all` may be overridden by a fused kernel that is tested
    against `update`. Each parameter's slots count its own updates under ``step`` (torch's word), so that one
    that joins later, after growth or unfreezing, has its own bias correction.

    Of a parameter in half precision (float16, bfloat16) `slots` and `update_all` see a float32 copy, as they see its
    gradient: states are float32, and the new value is rounded once, on its way back.
    """

    #: The rule may run on any flat concatenation of tensors.
    elementwise: ClassVar[bool] = False
    #: `update_all` is one pass over memory already: there is nothing to compile.
    one_pass: ClassVar[bool] = False

    def slots(self, p: Tensor) -> dict[str, Any]:
        """Return the fresh per-parameter state of `p`."""
        return {}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Update one tensor in place, from its gradient, its slots and the number t >= 1 of this update."""
        raise NotImplementedError(f"{type(self).__name__} gives no update")

    def update_all(
        self, tensors: Sequence[Tensor], gradients: Sequence[Tensor], slots: Sequence[dict[str, Any]], t: int
    ) -> None:
        """Update tensors of one type, device and age; the plain form is one `update` each."""
        for p, g, slot in zip(tensors, gradients, slots):
            if p.numel() > 0:  # an empty tensor has no maximum, and some of its shapes are ambiguous
                self.update(p, g, slot, t)

    def check(self, name: str, p: Tensor) -> None:
        """Refuse a parameter that the rule cannot update, naming it."""

    def fresh(self, p: Tensor) -> dict[str, Any]:
        """Return what is kept for a parameter that was never updated: its slots, and ``step`` 0."""
        return {"step": 0, **self.slots(wide(p))}

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """State: slots by parameter name."""
        for name, p in parameters.items():
            self.check(name, p)
        return {"slots": {name: self.fresh(p) for name, p in parameters.items()}}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once, then update every tensor."""
        gradients = evaluate().gradients
        slots, row = state["slots"], state.get(ROW)
        if row is not None and gradients is row.views:
            for slot in slots.values():
                slot["step"] += 1
            self.update_all((row.values,), (row.gradients,), (row.slots,), slot["step"])
            return state
        with torch.no_grad():
            self.advance(tuple(parameters.values()), gradients, [slots[name] for name in parameters], evaluate.compiled)
        return state

    def advance(
        self,
        tensors: Sequence[Tensor],
        gradients: Sequence[Tensor],
        slots: Sequence[dict[str, Any]],
        compiled: bool = False,
    ) -> None:
        """Count one update of each tensor and make it; tensors of different age, type or device apart.

        Parameters
        ----------
        tensors, gradients : sequence of Tensor
        slots : sequence of dict
        compiled : bool
            Whether the update of an elementwise rule goes through torch.compile.
        """
        for slot in slots:
            slot["step"] += 1
        t = slots[0]["step"]
        update_all = self.update_all
        if compiled and self.elementwise and not self.one_pass:
            from regimes.optimizers.tensorwise.compiled import update_all as by_kernels

            update_all = functools.partial(by_kernels, self)
        types = {p.dtype for p in tensors}
        if not HALF.isdisjoint(types):
            update_all = functools.partial(_in_float32, update_all)
        if len({slot["step"] for slot in slots}) == 1 and len(types) == 1 and _together(tensors):
            update_all(tensors, gradients, slots, t)
            return
        kinds: dict[Any, list[int]] = {}
        for place, (p, slot) in enumerate(zip(tensors, slots)):
            kinds.setdefault((slot["step"], p.dtype, p.device), []).append(place)
        for (t, _, _), places in kinds.items():
            update_all(_at(tensors, places), _at(gradients, places), _at(slots, places), t)


def wide(x: Tensor) -> Tensor:
    """Return a tensor in float32 if it is in half precision, else itself."""
    return x.float() if x.dtype in HALF else x


def _in_float32(
    update_all: Callable[..., None],
    tensors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    slots: Sequence[dict[str, Any]],
    t: int,
) -> None:
    """Update tensors through copies in float32.

    In half precision itself g^2 underflows, a mean of beta 0.999 stands still, and torch's fused SGD moves nothing on a CPU.
    """
    copies = [wide(p) for p in tensors]
    update_all(copies, [wide(g) for g in gradients], slots, t)
    for p, copy in zip(tensors, copies):
        if copy is not p:
            p.copy_(copy)


def refuse_complex(name: str, p: Tensor) -> None:
    """Refuse a complex parameter, naming it: rules square gradients, and g^2 is not |g|^2."""
    if p.is_complex():
        raise DeclarationError(
            f"parameter '{name}' is {p.dtype}; allowed: real numbers: make it of torch.view_as_real(...), which has a last "
            "axis of 2, and take torch.view_as_complex of it in the forward"
        )


def _together(tensors: Sequence[Tensor]) -> bool:
    """Whether all tensors are on one device (asked on every step, so it has to be quick)."""
    return len(set(map(Tensor.get_device, tensors))) == 1


def _at(values: Sequence[Any], places: list[int]) -> list[Any]:
    return [values[place] for place in places]


def fusable(tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> bool:
    """Whether torch's fused kernels may be used: they walk memory, so parameter and gradient must lie alike.

    A channels_last weight with a contiguous gradient would be updated with other elements' gradients, silently.
    """
    if tensors[0].device.type not in ("cpu", "cuda") or not tensors[0].is_floating_point():
        return False
    return False not in map(Tensor.is_contiguous, tensors) and False not in map(Tensor.is_contiguous, gradients)


@functools.cache
def counter(device: torch.device) -> Tensor:
    """Return a tensor for the step number: fused kernels want one, and making it anew costs 10 us."""
    return torch.zeros((), device=device)
