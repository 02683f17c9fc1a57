"""Elementwise rules through torch.compile: one pass over memory, made from a rule's own `update`.

`update` is played through on single numbers, every step, which costs some tens of microseconds: what it does to tensors
is noted as a program, and every number that it hands to them (rates, decays, bias corrections, whatever was made of
them) as an input of that program. A program is compiled once; numbers that change with every step are a tensor of its
inputs, and recompile nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from regimes.optimizers.tensorwise.rule import Tensorwise

#: Tensors that one call of a kernel updates: each call costs some tens of microseconds, each tensor of a kernel half a
#: second of compilation.
LANES = 8
#: Tensors of so few numbers are joined for the call, and copied back: cheaper than a place in a kernel for each.
SMALL = 8192


@dataclass(frozen=True)
class Place:
    """A tensor of a program, by number: inputs first, then what its operations return."""

    number: int


@dataclass(frozen=True)
class Number:
    """A number that a program is given on each step, by place."""

    place: int


class Operation(NamedTuple):
    """One operation on tensors."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    result: Place


class Unplayable(Exception):
    """An `update` does what a program cannot: it looks at values, say."""


class _Playing(TorchFunctionMode):
    """Inside, operations on tensors are noted."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.numbers: list[float] = []
        self._kept = list(inputs)  # as long as they live, no other tensor has their id
        self._places = {id(x): Place(number) for number, x in enumerate(inputs)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        noted = tuple([self._noted(x) for x in args]), tuple([(key, self._noted(x)) for key, x in kwargs.items()])
        name = _plain(func)
        for where, value in (*enumerate(noted[0]), *noted[1]):
            if isinstance(value, Number) and name not in _TAKES_TENSORS and _SPELLED.get(name, (None,))[0] != where:
                raise Unplayable(f"{func} may take Python's numbers only")
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            raise Unplayable(f"{func} returns no tensor")
        if id(result) not in self._places:
            self._places[id(result)] = Place(len(self._kept))
            self._kept.append(result)
        self.operations.append(Operation(func, *noted, self._places[id(result)]))
        return result

    def _noted(self, value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) in self._places:
            return self._places[id(value)]
        if isinstance(value, bool | torch.dtype | None):
            return value
        if isinstance(value, int | float):
            self.numbers.append(float(value))
            return Number(len(self.numbers) - 1)
        raise Unplayable(f"{value!r} is no tensor of the update, and no number")


def play(
    rule: Tensorwise, dtype: torch.dtype, names: Sequence[str], slot: dict[str, Any], t: int
) -> tuple[tuple[Operation, ...], list[float]]:
    """Return the program of a rule's update number t, and its numbers; the numbers in `slot` move on.

    Parameters
    ----------
    rule : Tensorwise
    dtype : torch.dtype
    names : sequence of str
        The slots that are tensors. Inputs of the program: parameter, gradient, these.
    slot : dict
        The others.
    t : int

    Raises
    ------
    Unplayable
    """
    inputs = [torch.ones(1, dtype=dtype) for _ in range(2 + len(names))]
    tensors = dict(zip(names, inputs[2:]))
    slot.update(tensors)
    with torch.no_grad(), _Playing(inputs) as playing:
        rule.update(inputs[0], inputs[1], slot, t)
    if [key for key, value in slot.items() if isinstance(value, Tensor) and tensors.get(key) is not value]:
        raise Unplayable("the update makes a slot")
    for name in names:
        del slot[name]
    return tuple(playing.operations), playing.numbers


def update_all(
    rule: Tensorwise, tensors: Sequence[Tensor], gradients: Sequence[Tensor], slots: Sequence[dict[str, Any]], t: int
) -> None:
    """Update tensors of one type, device and age, as ``rule.update_all`` does, by compiled kernels.

    What does not lie in memory as its gradient and slots do, and an update that is no program, is left to the rule.

    Parameters
    ----------
    rule : Tensorwise
        An elementwise one.
    tensors, gradients, slots, t
        As of ``Tensorwise.update_all``.
    """
    names = [name for name, value in slots[0].items() if isinstance(value, Tensor)]
    state = {name: value for name, value in slots[0].items() if name not in names}
    if not _fit(tensors, gradients, slots, names, state):
        fitting = [_fit([p], [g], [slot], names, state) for p, g, slot in zip(tensors, gradients, slots)]
        rest = [not fits for fits in fitting]
        rule.update_all(list(compress(tensors, rest)), list(compress(gradients, rest)), list(compress(slots, rest)), t)
        if not any(fitting):
            return
        tensors, gradients = list(compress(tensors, fitting)), list(compress(gradients, fitting))
        slots = list(compress(slots, fitting))
    dtype, device = tensors[0].dtype, tensors[0].device
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    try:
        program, numbers = play(rule, dtype, names, state, t)
    except Unplayable:
        return rule.update_all(tensors, gradients, slots, t)
    given = torch.tensor(numbers, dtype=exact, device=device)
    _run(program, given, _columns(tensors, gradients, slots, names))
    for slot in slots if state else ():
        slot.update(state)
    return None


def _columns(
    tensors: Sequence[Tensor], gradients: Sequence[Tensor], slots: Sequence[dict[str, Any]], names: Sequence[str]
) -> list[Sequence[Tensor]]:
    """Inputs of a program, each with all its tensors."""
    return [tensors, gradients, *[[slot[name] for slot in slots] for name in names]]


def _fit(
    tensors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    slots: Sequence[dict[str, Any]],
    names: Sequence[str],
    state: dict[str, Any],
) -> bool:
    """Whether one program does for all of them, and every element meets its own gradient and slots."""
    for slot in slots:
        if len(slot) != len(names) + len(state) or any(slot.get(name) != value for name, value in state.items()):
            return False
    sizes, p = [x.shape for x in tensors], tensors[0]
    if not p.is_floating_point() or not {*map(type, tensors), *map(type, gradients)} <= {Tensor, torch.nn.Parameter}:
        return False
    for column in _columns(tensors, gradients, slots, names):
        if False in map(Tensor.is_contiguous, column) or [x.shape for x in column] != sizes:
            return False
        if {x.dtype for x in column} != {p.dtype} or {x.device for x in column} != {p.device}:
            return False
    return True


def _run(program: tuple[Operation, ...], numbers: Tensor, columns: Sequence[Sequence[Tensor]]) -> None:
    """Run a program on tensors of any shapes: large ones as they are, small ones joined."""
    sizes = [p.numel() for p in columns[0]]
    lanes = [[column[place].view(-1) for column in columns] for place, size in enumerate(sizes) if size > SMALL]
    few = [[x for x, size in zip(column, sizes) if size <= SMALL] for column in columns]
    joined = [torch._C._nn.flatten_dense_tensors(column) for column in few] if few[0] else []
    if joined and joined[0].numel() < 2:  # one number is a size of its own to the compiler
        joined = [torch.cat((x, x)) for x in joined]
    lanes += [joined] if joined else []
    width = 1 if len(lanes) == 1 else LANES
    kernel, filling = _kernel(program, len(columns), width, numbers.dtype, columns[0][0].dtype, numbers.device)
    for start in range(0, len(lanes), width):
        own = [x for lane in lanes[start : start + width] for x in lane]
        kernel(numbers, *own, *filling[len(own) :])
    for place, (column, flat) in enumerate(zip(few, joined)):
        if place != 1:
            torch._foreach_copy_(column, torch._C._nn.unflatten_dense_tensors(flat, column))


@functools.cache
def _kernel(
    program: tuple[Operation, ...],
    inputs: int,
    width: int,
    exact: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Callable[..., Any], list[Tensor]]:
    """Return the compiled program for so many tensors in a call, and what fills empty places."""
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    numbers, *places = [fx.Proxy(graph.placeholder(f"x{place}"), tracer) for place in range(1 + width * inputs)]
    given = torch.ones(len(_given(program)), dtype=exact, device=device)
    # Sizes that are equal while it is compiled would have to be equal ever after.
    first = [torch.ones(64 + 8 * lane, dtype=dtype, device=device) for lane in range(width) for _ in range(inputs)]
    for start in range(0, len(places), inputs):
        _replay(program, numbers, places[start : start + inputs])
    graph.output(())
    kernel = torch.compile(fx.GraphModule({}, graph), dynamic=True, fullgraph=True)
    kernel(given, *first)
    return kernel, first


def _given(program: Sequence[Operation]) -> list[Number]:
    """The numbers that a program is given."""
    values = [value for done in program for value in (*done.args, *dict(done.kwargs).values())]
    return [value for value in values if isinstance(value, Number)]


def _lerp(x: Any, y: Any, weight: Any) -> Any:
    """The nearer end is the exact one, as in torch's kernel."""
    near = weight.abs() < 0.5
    return torch.where(near, x, y) + torch.where(near, weight, weight - 1.0) * (y - x)


#: Operations of which torch takes a number, never a tensor, in one place: that place, and the same in plain arithmetic.
_SPELLED: dict[str, tuple[int | str, Callable[..., Any]]] = {
    "add": ("alpha", lambda x, y, alpha: x + alpha * y),
    "sub": ("alpha", lambda x, y, alpha: x - alpha * y),
    "addcmul": ("value", lambda x, a, b, value: x + value * (a * b)),
    "addcdiv": ("value", lambda x, a, b, value: x + value * (a / b)),
    "lerp": (2, _lerp),
}


#: Operations that take 0-d tensors in place of numbers.
_TAKES_TENSORS = frozenset(["add", "sub", "mul", "div", "pow", "clamp", "__rsub__", "__rdiv__", "__rpow__"])


def _plain(function: Callable[..., Any]) -> str:
    """The name of an operation, without the mark of those in place."""
    name = function.__name__
    return name if name.endswith("__") else name.removesuffix("_")


def _replay(program: Sequence[Operation], numbers: fx.Proxy, inputs: Sequence[fx.Proxy]) -> None:
    """Write a program into a graph, its numbers as elements of a tensor."""
    found: dict[Place, Any] = {Place(number): x for number, x in enumerate(inputs)}

    def proxy(value: Any) -> Any:
        if isinstance(value, Place):
            return found[value]
        return numbers.select(0, value.place) if isinstance(value, Number) else value

    for done in program:
        name, plain, kwargs = done.function.__name__, _plain(done.function), dict(done.kwargs)
        in_place = name != plain
        written = done.args[0] if in_place else kwargs.pop("out", None)
        args, named = tuple([proxy(value) for value in done.args]), {key: proxy(value) for key, value in kwargs.items()}
        where, spelled = _SPELLED.get(plain, (None, None))
        if spelled is not None and (where in kwargs or where == len(args) - 1):
            made, in_place = spelled(*args, **named), False
        elif hasattr(Tensor, name):
            made = numbers.tracer.create_proxy("call_method", name, args, named)
        else:
            made = numbers.tracer.create_proxy("call_function", done.function, args, named)
        if written is None:
            found[done.result] = made
        elif not in_place:
            found[written].copy_(made)
