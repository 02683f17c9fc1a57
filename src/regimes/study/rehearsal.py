"""A throwaway run enters every phase and takes a step or a few in each: what plans and checks know comes from it."""

from __future__ import annotations

import statistics
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regimes.core import paths
from regimes.core.component import round_half_up
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Weights
from regimes.core.progress import Progress
from regimes.engine.compile import TABLE
from regimes.engine.run import Run
from regimes.optimizers.groups import Groups
from regimes.study.costs import Cost, Measuring

#: Of the table on which schedules are checked, every eighth point is enough to draw.
_EVERY = 8


class Curve(NamedTuple):
    """One varying knob over its phase; a controller is known at the start only."""

    path: str
    declared: str
    start: float
    peak: float
    end: float | None
    values: tuple[float, ...]


class Group(NamedTuple):
    """One row of a groups table: who owns what."""

    match: str
    rule: str
    tensors: int
    parameters: int
    names: tuple[str, ...]


class Memory(NamedTuple):
    """Bytes of what a run keeps; `peak` is measured on devices that count it."""

    parameters: int
    gradients: int
    optimizer: int
    other_states: int
    batch: int
    peak: int | None = None

    @property
    def total(self) -> int:
        """Everything but activations."""
        return self.parameters + self.gradients + self.optimizer + self.other_states + self.batch


@dataclass
class Rehearsed:
    """What was seen of one phase."""

    parameters: int
    tokens_per_sample: float
    flops_per_sample: float
    mean_batch: float
    mean_inverse_batch: float
    step_seconds: float | None
    #: All trials of the phase, and operations of one needed validation and of the runs whose weights it is given.
    trials: Cost
    validation: float
    given: float
    memory: Memory
    curves: tuple[Curve, ...]
    groups: tuple[Group, ...]


@dataclass
class Rehearsal:
    """What was seen of a run."""

    phases: list[Rehearsed] = field(default_factory=list)
    validation_seconds: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def memory(self) -> Memory:
        """That of the phase which keeps most."""
        return max((phase.memory for phase in self.phases), key=lambda memory: memory.total)


def entered(run: Run) -> Iterator[int]:
    """Enter the phases of a fresh run one after another, yielding each one's index.

    Raises
    ------
    DeclarationError
        If a phase cannot be entered: a seam that carries what is not there, a group that matches nothing.
    """
    yield 0
    for index in range(1, len(run.phases)):
        if run.frame.phase < index:
            _next_phase(run)
        yield index


def _next_phase(run: Run) -> None:
    name = run.phases[run.frame.phase + 1].name
    try:
        run.next_phase()
    except DeclarationError as why:
        raise (why if why.key.startswith(f"{name}.") else why.within(name)) from None


def rehearse(run: Run, *, time: bool) -> Rehearsal:
    """Take steps at some places of every phase of a throwaway run, and a little of the trials that are proposed.

    Parameters
    ----------
    run : Run
        Fresh; it is used up.
    time : bool
        Whether to time.
    """
    found = Rehearsal()
    for index in entered(run):
        found.phases.append(_rehearse_phase(run, index, time, found.notes))
    if time and run.validation.present:
        began = clock.perf_counter()
        run.validation.measure("val")
        found.validation_seconds = clock.perf_counter() - began
    elif time:
        found.validation_seconds = 0.0
    return found


def _rehearse_phase(run: Run, index: int, time: bool, notes: list[str]) -> Rehearsed:
    phase = run.phases[index]
    parameters, groups = sum(p.numel() for p in run.trained), _groups(run)
    measuring = Measuring(run, index, notes)
    measuring.trials_first()
    batch, states = _bytes(run.read(run.frame.plans[0])), run.states
    measuring.step()
    memory = _memory(run, states, batch)
    measuring.rest()
    found = measuring.found
    if "batch_size" in phase.controllers:
        notes.append(
            f"the batch size of phase '{phase.name}' follows its signals: steps and work are counted as if it "
            "stayed at its first"
        )
    return Rehearsed(
        parameters,
        found.per_sample("tokens", phase.length.unit),
        found.per_sample("flops", phase.length.unit),
        *_mean_batches(phase),
        statistics.median(found.seconds[1:] or found.seconds) if time else None,
        found.trials,
        found.validation,
        sum(value.flops() for _, value in paths.walk(phase.declaration) if isinstance(value, Weights)),
        memory,
        tuple(_curves(run, index)),
        groups,
    )


def _mean_batches(phase: Any) -> tuple[float, float]:
    """Return the means of the batch size and of its inverse over the phase's fraction."""
    if phase.length.batch is not None:
        return float(phase.length.batch), 1.0 / phase.length.batch
    function = phase.functions.get("batch_size")
    if function is None:  # a controller: known at the start only
        controller = phase.controllers["batch_size"]
        size = round_half_up(controller.value(controller.init(), Progress(run_fraction=0.0)))
        return float(size), 1.0 / size
    sizes = [round_half_up(function(Progress(fraction=f, run_fraction=f))) for f in map(float, TABLE[:-1])]
    return statistics.fmean(sizes), statistics.fmean(1.0 / size for size in sizes)


def _curves(run: Run, index: int) -> Iterator[Curve]:
    phase = run.phases[index]
    before, total = _share_of_run(run, index)
    for path in phase.specs:
        declared = repr(paths.get(phase.declaration, path))
        if path in phase.functions:
            function = phase.functions[path]
            at = [Progress(fraction=f, run_fraction=before + f * total) for f in map(float, TABLE)]
            values = [function(progress) for progress in at]
            yield Curve(path, declared, values[0], max(values, key=abs), values[-1], tuple(values[::_EVERY]))
        else:
            controller = phase.controllers[path]
            start = controller.value(controller.init(), Progress(run_fraction=before))
            yield Curve(path, declared, start, start, None, ())


def _share_of_run(run: Run, index: int) -> tuple[float, float]:
    """Return where the phase begins and how long it is, as shares of the run (0 and 1 where phases share no unit)."""
    lengths = [phase.length for phase in run.phases]
    if len({length.unit for length in lengths}) > 1:
        return 0.0, 1.0
    whole = sum(length.total for length in lengths)
    return sum(length.total for length in lengths[:index]) / whole, lengths[index].total / whole


def _groups(run: Run) -> tuple[Group, ...]:
    found = []
    for _, value in paths.walk(run.phase.declaration.optimizer, ""):
        if isinstance(value, Groups):
            found.append(value)
    own = run.phase.declaration.optimizer
    for groups in [own] if isinstance(own, Groups) else found[:1]:
        owned = groups.assign(run.parameters, run.parameters.roles)
        return tuple(
            Group(group.match, repr(group.rule), len(names), sum(p.numel() for p in names.values()), tuple(names)[:2])
            for group, names in zip(groups.groups, owned)
        )
    return ()


def _memory(run: Run, states: dict[str, Any], batch: int) -> Memory:
    """Count what the run keeps; `states` are those of the phase that took the step, which may have ended with it."""
    device = run.workload.device
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Memory(
        _bytes([*run.model.parameters(), *run.model.buffers()]),
        _bytes(run.trained),
        _bytes(states.get("optimizer")),
        _bytes({name: state for name, state in states.items() if name != "optimizer"}),
        batch,
        peak,
    )


def _bytes(tree: Any) -> int:
    """Bytes of all tensors in a tree."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(_bytes(value) for value in tree.values())
    return sum(map(_bytes, tree)) if isinstance(tree, list | tuple) else 0
