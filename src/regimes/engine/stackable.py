"""Which runs can be stacked, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from regimes.core.errors import RegimesError
from regimes.engine.attributes import Attributes, keeps_state
from regimes.engine.step import begin
from regimes.engine.work import Flops
from regimes.losses.forward import OutputLoss

#: Operations of a forward and backward from which on a CPU's time goes into arithmetic: at 1 MFLOP a stack is three times as
#: fast as runs one after another, at 32 as fast, at 400 slower (docs/log.md).
BOUND = 5e7


class Unstackable(RegimesError):
    """Runs cannot be stacked; the message is the reason."""


def why_not(run: Any) -> str | None:
    """Return why a run cannot be stacked with others in its present phase; None where it can.

    Parameters
    ----------
    run : Run
        Between two steps.
    """
    declared = run.phase.declaration
    rule, loss = declared.optimizer, declared.loss if declared.loss is not None else run.workload.loss
    dtypes = {p.dtype for p in run.trained}
    checks = (
        (run.finished, "it is finished"),
        (not run.frame.plans, "it has given up"),
        (run.world.size > 1, "it is trained by several processes"),
        (
            not (rule.single_evaluation and rule.uses_gradients),
            f"{type(rule).__name__} evaluates more than once, or asks for more than the gradient",
        ),
        (bool(run.phase.proposing), "it makes trials"),
        (declared.selector is not None, f"{type(declared.selector).__name__} looks at the losses before the step"),
        (declared.micro_batch == "auto", "micro_batch='auto' may halve it alone"),
        (
            not isinstance(loss, OutputLoss) or type(loss).units is not OutputLoss.units,
            f"{type(loss).__name__} is no function of the model's output and the target alone",
        ),
        (run.read.asks, "its data ask the model"),
        (not run.read.random_access, "its data are read in order"),
        (len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}, "its parameters are not of one float type"),
        (not all(p.is_contiguous() for p in run.trained), "its parameters are not contiguous"),
        (run.forward.draws is True, "its forward draws from Python's or numpy's generators"),
        (keeps_state(run.model), "its modules keep state beside parameters and buffers (get_extra_state)"),
    )
    return next((why for refused, why in checks if refused), None)


def bound(run: Any) -> str | None:
    """Return why a run would gain nothing from being stacked with others of its form; None where it may.

    Told by how many operations a step has, not by the clock: the same study is stacked alike every time.

    Parameters
    ----------
    run : Run
        Between two steps.
    """
    if run.workload.device.type != "cpu" or run.phase.declaration.compile:
        return None
    begun = begin(run)
    batch = begun.evaluate.batches()[0][2]
    with run.buffers.aside():
        flops = Flops().evaluation(run, begun.live, batch, True, 0)
    if flops <= BOUND:
        return None
    return f"{flops / 1e6:.0f} MFLOP in a forward and backward keep a core busy, and stacking would save nothing"


def form(run: Any) -> tuple[Any, ...]:
    """Return what runs have in common that can be stacked: model, trained parameters, precision, batch size."""
    model, declared = run.model, run.phase.declaration
    modules = tuple((name, _kind(module), module.training, repr_of(module)) for name, module in model.named_modules())
    tensors = tuple((name, t.shape, t.dtype, t.device) for name, t in model.state_dict(keep_vars=True).items())
    batch = declared.micro_batch, len(run.frame.plans[0])
    return id(run.workload), modules, tensors, tuple(run.parameters), run.autocast, declared.compile, batch


def _kind(module: Any) -> type:
    """Its class; of one with parametrizations, which has a class of its own, the class that it was made of."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def repr_of(module: Any) -> str:
    """What a module says of itself, without its parts: the rate of a dropout, the size of a kernel."""
    return module.extra_repr() if hasattr(module, "extra_repr") else ""


def refuse(runs: Sequence[Any]) -> None:
    """Refuse runs that cannot be stacked with one another.

    Raises
    ------
    Unstackable
        With the reason.
    """
    for run in runs:
        why = why_not(run)
        if why is not None:
            raise Unstackable(why)
    if len({form(run) for run in runs}) > 1:
        raise Unstackable("their models, what is trained of them, their precision or their batch sizes differ")
    first, *others = [Attributes(run.model) for run in runs]
    for other in others:
        name = first.differs(other)
        if name is not None:
            raise Unstackable(f"what their models keep in '{name}' differs")
