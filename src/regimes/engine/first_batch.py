"""The first micro-batch of a later phase, read and evaluated on a copy of the model: what does not fit is refused now."""

from __future__ import annotations

from typing import Any

from torch import nn

from regimes.core.errors import NonFinite
from regimes.core.progress import Progress
from regimes.core.randomness import Streams, kept
from regimes.engine.buffers import Buffers
from regimes.engine.distributed import World
from regimes.engine.evaluator import Evaluator
from regimes.engine.forwards import Forward
from regimes.engine.frames import Frame
from regimes.engine.reading import Reader
from regimes.engine.step import draw
from regimes.engine.work import Work


class Ahead:
    """What of a run a phase meets, before the run has come to it.

    Parameters
    ----------
    run : Run
        At its first step; nothing of it changes.
    phase : CompiledPhase
    model : Module
        A copy with the structure that it will have; its values are not looked at.
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

    def first_bad_layer(self, live: Any, batch: Any, number: int) -> None:
        """Values are not looked at."""

    def first_bad_gradient(self, gradients: Any) -> None:
        """Values are not looked at."""

    def evaluate(self) -> None:
        """Draw, read, augment and evaluate the first micro-batch; data that is only read on is left alone.

        Raises
        ------
        DeclarationError
            If loss, selector, augmentation or the weights that they are given do not fit data or model.
        UserCodeError
            If the model, the loss or the data fail in it.
        """
        self.read = Reader(self.workload.sources["train"], self.workload.device, self)
        if not self.read.random_access:
            return
        self.read.settle(self.loss)
        self.buffers = Buffers(self.model)
        plan = draw(self)
        size = self.phase.declaration.micro_batch
        live = self.phase.substitute(self.phase.step_knobs.values(self.states["knobs"], self.position) | plan.knobs)
        with kept():
            evaluate = Evaluator(self, live, plan.part(0, min(size, len(plan)) if isinstance(size, int) else len(plan)))
            try:
                evaluate(grad=False)
            except NonFinite:
                return
