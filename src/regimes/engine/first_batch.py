"""The first micro-batch of every phase, read and evaluated before anything is spent: what does not fit is refused now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from regimes.core.errors import NonFinite
from regimes.core.progress import Progress
from regimes.core.randomness import Streams, kept
from regimes.engine.buffers import Buffers
from regimes.engine.diagnose import refuse_randomness
from regimes.engine.distributed import World
from regimes.engine.evaluator import Evaluation, Evaluator
from regimes.engine.forwards import Forward
from regimes.engine.frames import Frame
from regimes.engine.plan import Plan
from regimes.engine.reading import Reader
from regimes.engine.step import draw
from regimes.engine.work import Work


class _Asked(Exception):
    """The rule has made its first evaluation; nothing has been written yet."""


class _First:
    """The evaluator of a rule that is stopped after its first evaluation, made without gradients at unmoved weights."""

    def __init__(self, inner: Evaluator) -> None:
        self._inner = inner

    def __call__(self, grad: bool = True, final: bool = True, capture: Sequence[str] = (), **how: Any) -> Evaluation:
        values = [name for name in capture if not name.startswith("output_gradient:")]
        self._inner(grad=False, capture=values, sampled=how.get("sampled", False))
        raise _Asked

    @contextlib.contextmanager
    def at(self, direction: Sequence[torch.Tensor]) -> Iterator[None]:
        """Values are not looked at."""
        yield

    @contextlib.contextmanager
    def moved(self, move: Callable[[float], None], scale: float) -> Iterator[None]:
        """Values are not looked at."""
        yield

    def shifted(self, direction: Sequence[torch.Tensor]) -> _First:
        """Values are not looked at."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Ahead:
    """What of a run a phase meets, before the run has come to it.

    Parameters
    ----------
    run : Run
        At its first step; nothing of it changes.
    phase : CompiledPhase
    model : Module
        Of the first phase the run's own; else a copy with the structure that it will have, whose values are not looked at.
    """

    #: What an evaluation asks of a run and what nobody looks at here: no work is counted, no unit kept.
    keep_units = micro_norms = wants_norm = example_gradients = self_normalised = False
    flops = None

    def __init__(self, run: Any, phase: Any, model: nn.Module) -> None:
        declared = phase.declaration
        self.workload, self.view, self.seed, self.world = run.workload, run.view, run.seed, World()
        self.phase, self.model, self.frame = phase, model, Frame(phase=phase.index)
        self.loss = declared.loss if declared.loss is not None else run.workload.loss
        self.position, self.streams, self.work = Progress(run_fraction=0.0), Streams(run.seed, phase.name), Work()
        self.autocast = declared.precision == "bfloat16"
        self.parameters: Any = {}
        self.trained: list[Any] = []
        self.states: dict[str, Any] = {}
        self.held: tuple[Any, ...] = ()
        self.forward = Forward(self)

    def micro_batches(self, n: int, declared: Any) -> list[int]:
        """All of what was read: one micro-batch."""
        return [n]

    def rule_generator(self, name: str, step: int) -> torch.Generator:
        """Return a generator for a rule's stream, which leads to nothing."""
        return torch.Generator(device=self.workload.device)

    def first_bad_layer(self, live: Any, batch: Any, number: int) -> None:
        """Values are not looked at."""

    def first_bad_gradient(self, gradients: Any) -> None:
        """Values are not looked at."""

    def evaluate(self, drawn: Plan | None = None) -> None:
        """Draw, read and augment the first micro-batch, and evaluate it as the rule first asks for it.

        Data that is only read on is left alone. Afterwards buffers and generators are as before.

        Parameters
        ----------
        drawn : Plan, optional
            What has been drawn already.

        Raises
        ------
        DeclarationError
            If loss, selector, augmentation or the weights that they are given do not fit data or model, the rule asks for
            what the batch does not have, or the forward draws random numbers under ``micro_batch="auto"``.
        UserCodeError
            If the model, the loss or the data fail in it.
        """
        self.read = Reader(self.workload.sources["train"], self.workload.device, self)
        if not self.read.random_access:
            return
        self.read.settle(self.loss)
        self.buffers = Buffers(self.model)
        plan = draw(self) if drawn is None else drawn
        self.frame.plans = [plan]
        size = self.phase.declaration.micro_batch
        size = 2 if size == "auto" else len(plan) if size is None else size  # of "auto" no more is sure to fit
        live = self.phase.substitute(self.phase.step_knobs.values(self.states["knobs"], self.position) | plan.knobs)
        # Not those that the evaluator watches: what it has come to watch would not be put back.
        with kept(), Buffers(self.model).aside():
            first = _First(Evaluator(self, live, plan.part(0, min(size, len(plan)))))
            # Where memory is short the step says so.
            with contextlib.suppress(_Asked, NonFinite, torch.OutOfMemoryError):
                live.optimizer.step(self.states["optimizer"], self.parameters, first)
        if drawn is None and self.phase.declaration.micro_batch == "auto":
            refuse_randomness(self)
