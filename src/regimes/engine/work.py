"""Work: what a run has spent. It only ever grows; it is what equal-cost comparisons compare."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.randomness import kept
from regimes.engine.buffers import copies, put_back, slots

#: Fused attention kernels. torch's counter reports 0 for those of the CPU, and counts what the others compute anew.
_ATTENTION = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
#: Where torch keeps a function that the compiler leaves alone.
_ANSWER = "__dynamo_disable"


@dataclass
class Work:
    """The account of work.

    Parameters
    ----------
    flops : float
        Evaluations of the training steps.
    side_flops : float
        Scoring passes, trials, needed probes and validations.
    samples : int
        Examples drawn.
    observed_flops : float
        What nobody needed: reported apart, and never part of what is compared.
    before_phase : float
        What was spent when the phase began.
    steps : int
        Steps made, those of trials included.
    """

    flops: float = 0.0
    side_flops: float = 0.0
    samples: int = 0
    observed_flops: float = 0.0
    before_phase: float = 0.0
    steps: int = 0

    @property
    def spent(self) -> float:
        """Everything that counts."""
        return self.flops + self.side_flops

    def charge(self, flops: float, beside: bool) -> None:
        """Add evaluations of a training step, or what is made beside it (scoring passes, trials)."""
        if beside:
            self.side_flops += flops
        else:
            self.flops += flops

    def state(self) -> dict[str, Any]:
        """Return the account as a state tree."""
        return dict(vars(self))

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Work:
        """Return the account that `state` describes."""
        return cls(**state)


class Flops:
    """Counts floating-point operations by torch's own counter, once per shape."""

    def __init__(self) -> None:
        self._known: dict[Any, float] = {}
        self._earlier: dict[str, float] = {}

    def evaluation(self, run: Any, live: Any, batch: Any, grad: bool, units: int) -> float:
        """Return the operations of one evaluation of a micro-batch that gave so many units.

        Of batches of one shape a loss may read more or less (hybrid post-training): then its units are more or fewer.
        """
        key = _evaluation(run, batch, grad, units)
        found = self._known.get(key)
        if found is not None:
            return found

        def evaluate() -> None:
            losses = run.forward(live, batch, 0, grad, watched=True)
            if grad:
                run.gradients(losses.values, None)

        return self.counted(key, run.model, evaluate)

    def learn(self, run: Any, batch: Any, grad: bool, units: int, flops: float) -> None:
        """Take over what another run has counted of an evaluation that is the same."""
        self._known[_evaluation(run, batch, grad, units)] = flops

    def asking(self, run: Any, read: Any, batch: Any, plan: Any) -> float:
        """Return the operations that the model made while the batch of a plan was read."""
        if not read.asks:
            return 0.0
        return self.counted(("ask", run.frame.phase, shapes(batch)), run.model, lambda: read(plan, run.streams))

    def counted(self, key: Any, model: nn.Module, evaluate: Callable[[], Any]) -> float:
        """Return the operations of `evaluate`, counted once per key; buffers and random state are put back."""
        found = self._known.get(key)
        if found is None:
            earlier = self._earlier.get(repr(key))
            found = self._known[key] = self._count(model, evaluate) if earlier is None else earlier
        return found

    def state(self) -> dict[str, float]:
        """Return what has been counted: a forward that skips layers at random might count something else now."""
        return self._earlier | {repr(key): count for key, count in self._known.items()}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on with what was counted before."""
        self._known, self._earlier = {}, dict(state)

    def _count(self, model: nn.Module, evaluate: Callable[[], Any]) -> float:
        places = slots(model)
        before = copies(places)
        try:
            with kept(), counting() as counter:
                evaluate()
        finally:
            put_back(places, before)
        return float(counter.get_total_flops())


def _evaluation(run: Any, batch: Any, grad: bool, units: int) -> tuple[Any, ...]:
    # A trial may train another part of the model, or with another loss.
    phase = run.phase.declaration if run.frame.trial else run.frame.phase
    return phase, grad, shapes(batch), units


@contextlib.contextmanager
def counting() -> Iterator[Any]:
    """Inside, torch's counter, which is given, adds up floating-point operations."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=formulas())
    # Only the sum is wanted, and hooks on modules cannot bear a parameter that is passed through one.
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with _uncompiled(), counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield counter


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Where nothing has loaded torch's compiler, let its counter of operations not load it either (2 s a process).

    The counter's dispatch asks the compiler to leave it alone, and loads it for that; under an attribute of this name
    torch keeps the answer.
    """
    from torch.utils import flop_counter

    dispatch = getattr(getattr(flop_counter, "_FlopCounterMode", None), "__torch_dispatch__", None)
    plain = getattr(dispatch, "__wrapped__", None)
    if plain is None or "torch._dynamo" in sys.modules or hasattr(plain, _ANSWER):
        yield
        return
    setattr(plain, _ANSWER, plain)
    try:
        yield
    finally:
        delattr(plain, _ANSWER)


class _NoModules(contextlib.AbstractContextManager[None]):
    """Stands for the tracker of modules: all operations are the whole model's."""

    parents = frozenset({"Global"})

    def __exit__(self, *args: object) -> None:
        return None


def shapes(batch: Any) -> Any:
    """Return the shapes of all tensors of a batch, as a key."""
    if isinstance(batch, Tensor):
        return batch.shape
    if isinstance(batch, tuple | list):
        return tuple([shapes(item) for item in batch])
    if isinstance(batch, dict):
        return tuple([(name, shapes(item)) for name, item in batch.items()])
    return tuple(shapes(value) for value in vars(batch).values()) if hasattr(batch, "__dict__") else None


def formulas() -> dict[Any, Any]:
    """Return formulas by which fused attention counts as much as its products of matrices do, written out.

    Two products forward and four backward, the whole square also where a mask is causal; what a kernel computes anew
    in its backward, to save memory, is no work that the model asks for.
    """
    from torch.utils.flop_counter import sdpa_flop_count

    def forward(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def backward(g: Any, q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * sdpa_flop_count(q, k, v)

    found: dict[Any, Any] = {}
    for name in _ATTENTION:
        for suffix, formula in (("", forward), ("_backward", backward)):
            kernel = getattr(torch.ops.aten, f"_scaled_dot_product_{name}{suffix}", None)
            if kernel is not None:
                found[kernel] = formula
    return found
