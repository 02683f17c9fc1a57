"""What a script has to know of a phase before it is written: positions, batches, and what one forward does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.component import round_half_up
from regimes.core.errors import UserCodeError
from regimes.core.progress import Progress
from regimes.core.randomness import Marks, kept, seed_all
from regimes.engine import seam
from regimes.engine.batches import Batches
from regimes.engine.buffers import copies, slots
from regimes.engine.compile import CompiledPhase
from regimes.engine.plan import Plan
from regimes.engine.run import Run
from regimes.sources.tensors import Tensors
from regimes.sources.windows import TextWindows


@dataclass
class Facts:
    """One phase as the script meets it.

    Parameters
    ----------
    run : Run
        At its first step.
    phase : CompiledPhase
    model : Module
        With the structure that it has in the phase.
    places, sizes : list or None
        Position and batch size of every step; None where they depend on what is measured.
    begin : Progress
        The position at which the phase begins.
    """

    run: Run
    phase: CompiledPhase
    model: nn.Module
    begin: Progress
    places: list[Progress] | None = None
    sizes: list[int] | None = None
    #: A batch as the loss meets it, the plan it is of, and what one forward and backward showed.
    batch: Any = None
    plan: Plan | None = None
    each: int | None = None
    weighted: bool = False
    draws: str = ""
    unreached: bool = False
    changed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        declared = self.phase.declaration
        self.declared = declared
        self.loss = declared.loss if declared.loss is not None else self.run.workload.loss
        self.parameters = seam.phase_parameters(self.model, declared, self.run.view)
        self.sampler = getattr(declared, declared.data_slot)
        self._look()
        self._walk()

    # -- what one step shows ---------------------------------------------------------------------------------------

    def first_values(self) -> dict[str, float]:
        """The data knobs with which the first step is drawn."""
        states = {path: controller.init() for path, controller in self.phase.controllers.items()}
        return self.phase.data_knobs.values(states, self.begin)

    def _look(self) -> None:
        """Draw and evaluate one micro-batch on a copy of the model; nothing of the run is changed."""
        values, lead = self.first_values(), f"{self.declared.data_slot}."
        size: Any = values.get("batch_size", self.declared.batch_size)
        batches = Batches(self.run.workload, self.sampler, self.run.seed, self.phase.name)
        inner = {path.removeprefix(lead): v for path, v in values.items() if path.startswith(lead)}
        self.plan = batches.draw(int(size), inner)
        part = (
            self.plan.part(0, int(self.declared.micro_batch))
            if isinstance(self.declared.micro_batch, int)
            else self.plan
        )
        self.batch = batches.read(part)
        with kept():
            for augment in self._live_augments():
                self.batch = augment.apply(augment.init(), self.batch, torch.Generator().manual_seed(0))
            self._evaluate(copy.deepcopy(self.model), len(part))

    def _live_augments(self) -> tuple[Any, ...]:
        states = {path: controller.init() for path, controller in self.phase.controllers.items()}
        knobs = self.phase.step_knobs.values(states, self.begin) | self.first_values()
        self.live_at_begin = self.phase.substitute(knobs)
        return self.live_at_begin.augment

    def _evaluate(self, model: nn.Module, examples: int) -> None:
        found = slots(model)
        before, marks = copies(found), Marks()
        seed_all(1)
        torches, others = torch.default_generator.get_state(), marks()
        loss = self.live_at_begin.loss if self.live_at_begin.loss is not None else self.loss
        try:
            units = loss(model, self.batch)
        except Exception as why:
            raise UserCodeError(
                f"the model or the loss failed on a batch of {examples} examples: {type(why).__name__}: {why}"
            ) from why
        moved = not torch.equal(torches, torch.default_generator.get_state())
        self.draws = "all" if marks() != others else "torch" if moved else ""
        after = copies(found)
        self.changed = [name for name in found if not _same(before[name], after[name])]
        values = units.values.reshape(-1)
        self.weighted, self.values = units.weights is not None, units.values
        self.each = len(values) // examples if len(values) % examples == 0 else None
        trained = [dict(model.named_parameters())[name] for name in self.parameters]
        if self.declared.optimizer.uses_gradients:
            gradients = torch.autograd.grad(values.sum(), trained, allow_unused=True)
            self.unreached = any(g is None for g in gradients)

    # -- where its steps are ---------------------------------------------------------------------------------------

    def _walk(self) -> None:
        """Positions and batch sizes of all steps, where the declaration alone determines them."""
        if "batch_size" in self.phase.controllers:
            return
        tokens = self.tokens_each()
        if tokens is None and self.phase.length.unit == "tokens":
            return
        self.places, self.sizes = [], []
        at = self.begin
        waiting = [self._size(at)] * self.declared.lag
        while True:
            self.places.append(at)
            waiting.append(self._size(at))
            self.sizes.append(n := waiting.pop(0))
            at = self.moved(at, n, n * (tokens or 0))
            if self.phase.length.consumed(at, 0.0) >= self.phase.length.total * (1.0 - 1e-12):
                self.end = at
                return

    def tokens_each(self) -> int | None:
        """Units of an example, where all have the same number and all count."""
        varying = self.plan is not None and "length" in self.plan.columns
        return None if varying or self.weighted or self.may_ignore() else self.each

    def _size(self, at: Progress) -> int:
        function = self.phase.functions.get("batch_size")
        return int(self.declared.batch_size) if function is None else round_half_up(function(at))

    def moved(self, at: Progress, n: int, tokens: int) -> Progress:
        """The position after a step of `n` examples."""
        counts = [a + b for a, b in zip(at[:6], (1, n, tokens, 1, n, tokens))]
        return located(self.run, self.phase, Progress(*counts))

    def may_ignore(self) -> bool:
        """Whether targets of the data may say that they count as nothing."""
        ignore = getattr(self.loss, "ignore", None)
        if ignore is None:
            return False
        if self.declared.augment:
            return True
        return any(_may_hold(source, ignore) for source in self.run.workload.sources["train"].values())

    @property
    def steps(self) -> int | None:
        """Number of steps, where it is known."""
        return None if self.places is None else len(self.places)

    @property
    def even(self) -> bool:
        """Whether every step has the same number of examples."""
        return self.sizes is not None and len(set(self.sizes)) == 1


def located(run: Run, phase: CompiledPhase, at: Progress) -> Progress:
    """Return a position with its fractions, as `Run` works them out."""
    fraction = min(phase.length.consumed(at, 0.0) / phase.length.total, 1.0)
    whole = None
    if run._totals is not None:
        whole = (run._totals[phase.index] + fraction * phase.length.total) / run._totals[-1]
    return at._replace(fraction=fraction, run_fraction=whole)


def phases(run: Run) -> Iterator[Facts]:
    """Yield the facts of each phase, in order."""
    model, at = copy.deepcopy(run.model), Progress()
    for place, phase in enumerate(run.phases):
        for transform in phase.declaration.on_entry if place else ():
            model = transform.structure(model)
        begin = located(run, phase, Progress(at.step, at.samples, at.tokens))
        found = Facts(run, phase, copy.deepcopy(model), begin)
        yield found
        if found.places is None:
            return
        at = found.end


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))


def _may_hold(source: Any, ignore: int) -> bool:
    if isinstance(source, TextWindows):
        tokens = source.tokens
    elif type(source).fetch is Tensors.fetch or isinstance(source, Tensors):
        tokens = list(source.parts.values())[-1]
    else:
        return True
    return not tokens.is_floating_point() and bool((tokens == ignore).any())
