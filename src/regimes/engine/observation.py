"""Probes in a run: when they are due, what they see, and that neither they nor their failures change anything."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Probe
from regimes.core.permutation import permutation
from regimes.core.randomness import Streams, seed32
from regimes.core.unit_losses import UnitLosses
from regimes.engine.plan import Plan
from regimes.engine.seam import refuse_sequential, transform_model
from regimes.engine.work import counting
from regimes.probes.view import Snapshot, View, reseed

_OFTEN = Duration(5.0, "%")


class Observer:
    """Runs the probes of a run when they are due.

    A probe looks at the model after a step, also after the last one, in the mode that training left it in; not where
    a phase ended, because the model of the next phase is another one. What it raises is no reason to stop training:
    the record of that step says so under ``probe_error``, and the run goes on. From one measurement
    to the next are kept the weights at step 0, which a resumed run makes again from the declaration, and what a probe says
    that it remembers (`Probe.observe`), a value in the run's checkpoints: a resumed run measures and notes the same as an
    unbroken one.

    Parameters
    ----------
    run : Run
    probes : sequence of Probe
        Their values are named ``<class in snake case>[_2, _3 ...][/<value>]``.
    default : Duration or None
        Cadence of probes that name none; None is every step.
    memory : dict, optional
        Where what probes remember is kept, by their printed form; default the run's own, which its checkpoints hold.

    Raises
    ------
    DeclarationError
        If a probe's cadence cannot be converted to a phase's budget.
    """

    def __init__(
        self,
        run: Any,
        probes: Sequence[Probe],
        default: Duration | None = _OFTEN,
        memory: dict[str, Any] | None = None,
    ) -> None:
        self.run, self.probes, self._default = run, tuple(probes), default
        self._names, self._apart = _names(self.probes), memory
        self._remembering = {repr(probe): probe for probe in self.probes if type(probe).observe is not Probe.observe}
        self._cadences = [[self._cadence(phase, probe) for probe in self.probes] for phase in run.phases]
        self._previous: dict[str, Tensor] | None = None
        self._initial: dict[str, Tensor] | None = None
        self._before: tuple[int, float] | None = None

    def _cadence(self, phase: Any, probe: Probe) -> float:
        cadence = probe.every or self._default
        if cadence is None:
            return 0.0
        try:
            every = phase.length.amount(cadence)
            if every <= 0.0:
                raise DeclarationError(f"got '{probe.every}'; allowed: more than nothing")
        except DeclarationError as why:
            raise why.within(f"probes.{type(probe).__name__}.every") from None
        return every

    def before(self) -> None:
        """Before a step: keep what will be asked about it afterwards."""
        if not self.probes:
            return
        run = self.run
        run.ready()  # a look that somebody takes before the step may have what was drawn drawn anew
        self._before = run.frame.phase, run.consumed
        self._plan = run.frame.plans[0]
        knobs = run.phase.step_knobs.values(run.states["knobs"], run.position) | self._plan.knobs
        self._live = run.phase.substitute(knobs)
        likely = self._due(run.consumed + self._ahead())
        wanted = any(getattr(probe, "wants_previous", False) for _, probe in likely)
        self._previous = {n: p.detach().clone() for n, p in run.parameters.items()} if wanted else None

    def _ahead(self) -> float:
        """The most that the next step can use up of the budget."""
        unit, samples = self.run.phase.length.unit, len(self._plan)
        return {"steps": 1.0, "samples": float(samples)}.get(unit, float("inf"))

    def _due(self, after: float) -> list[tuple[str, Probe]]:
        """(name, probe) where a cadence is crossed on the way to `after`."""
        assert self._before is not None
        phase, before = self._before
        every = zip(self._names, self.probes, self._cadences[phase])
        return [(name, probe) for name, probe, cadence in every if _crosses(before, after, cadence)]

    def after(self, record: Any) -> dict[str, Any]:
        """After the step of that record: let probes remember it, and measure what is due."""
        run = self.run
        for key, probe in self._remembering.items():
            self._memory[key] = probe.observe(self._remembered(probe), record.signals, record.at)
        if self._before is None or run.frame.phase != self._before[0]:
            return {}
        due = self._due(run.consumed)
        return self._measure(due) if due else {}

    def noted(self, record: Any) -> Any:
        """Return the record of the step that was made, with what is due; those of trials are as they are."""
        found = self.after(record) if self.probes and "trial" not in record.signals else {}
        return record._replace(signals=record.signals | found) if found else record

    @property
    def _memory(self) -> dict[str, Any]:
        return self.run.remembered if self._apart is None else self._apart

    def _remembered(self, probe: Probe) -> Any:
        """What a probe remembers, of the steps before this moment."""
        found = self._memory.get(repr(probe))
        return probe.init() if found is None else found

    def _measure(self, due: list[tuple[str, Probe]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        errors: list[str] = []
        untouched = Snapshot(self.run.model)
        for name, probe in due:
            try:
                view = self.view(initial=getattr(probe, "wants_initial", False), memory=self._remembered(probe))
                reseed()
                with _charged(self.run):
                    values = probe.measure(view)
                found |= {f"{name}/{key}" if key else name: float(value) for key, value in values.items()}
            except Exception as why:
                errors.append(f"probe {probe!r} failed: {type(why).__name__}: {why}; the run went on without it")
            finally:
                untouched.restore()
        return found | ({"probe_error": " | ".join(errors)} if errors else {})

    # -- what a probe sees ---------------------------------------------------------------------------------

    def view(self, initial: bool = False, memory: Any = None) -> View:
        """Return the view of this moment, with the weights at step 0 where they are asked for, and a probe's memory."""
        run, part = self.run, self._part()
        sources, numbers = part.placed(run.view.sizes)
        return View(
            run.model,
            self._losses,
            self._step_batch(part),
            parameters=run.parameters,
            previous=self._previous,
            initial=self._first_weights() if initial else None,
            groups=_groups(run.phase.declaration.optimizer, run.states["optimizer"]),
            batches=self._fixed_batches,
            size=run.view.size,
            numbers=numbers.tolist(),
            sources=sources.tolist() if len(run.view.sizes) > 1 else None,
            memory=memory,
        )

    def _first_weights(self) -> dict[str, Tensor]:
        """All weights at step 0: the model is built again, and enters the first phase again."""
        if self._initial is None:
            run, phase = self.run, self.run.phases[0]
            beginning = SimpleNamespace(
                workload=run.workload,
                view=run.view,
                streams=Streams(run.seed, phase.name),
                model=run.workload.build(seed32(run.seed, "init")),
            )
            transform_model(beginning, phase)
            self._initial = {name: p.detach() for name, p in beginning.model.named_parameters()}
        return self._initial

    def _losses(self, model: nn.Module, batch: Any) -> UnitLosses:
        """The loss that is trained on, in the declared precision."""
        run, loss = self.run, self._live.loss
        with run.forward.precision():
            return (run.loss if loss is None else loss).units(run.states["loss"], model, batch)

    def _part(self) -> Plan:
        """The plan of the step's first micro-batch."""
        return self._plan.part(0, self.run.micro_batches(len(self._plan), self._live.micro_batch)[0])

    def _step_batch(self, part: Plan) -> Any:
        """The first micro-batch that the step trained on, augmented as it was."""
        run, plan = self.run, self._plan
        batch = run.read(part)
        for place, augment in enumerate(self._live.augment):
            generator = torch.Generator(device=run.workload.device)
            generator.manual_seed(run.streams.seed32("augment", place, plan.step, 0))
            batch = augment.apply(run.states[f"augment.{place}"], batch, generator)
        return batch

    def _fixed_batches(self, count: int, size: int) -> list[Any]:
        run = self.run
        refuse_sequential(run.workload, "probes")
        order = permutation(run.view.size, Streams(run.seed).rng("probe", "batches"))
        size = min(size, len(order))
        count = min(count, len(order) // size)
        return [
            run.read(Plan(0, order[i * size : (i + 1) * size].astype(np.int64), None, None, {}, {}, {}))
            for i in range(count)
        ]


@contextlib.contextmanager
def _charged(run: Any) -> Iterator[None]:
    """Inside, floating-point operations go to the account of what was only observed."""
    if run.flops is None:
        yield
        return
    with counting() as counter:
        try:
            yield
        finally:
            run.work.observed_flops += float(counter.get_total_flops())


def _crosses(before: float, after: float, every: float) -> bool:
    return every == 0.0 or after == float("inf") or int(after / every + 1e-9) > int(before / every + 1e-9)


def _names(probes: Sequence[Probe]) -> list[str]:
    """Name in the records of each probe; a second one of its class gets a number."""
    seen: Counter[str] = Counter()
    names = []
    for probe in probes:
        name = _snake(type(probe).__name__)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def _snake(name: str) -> str:
    """GradientSNR as gradient_snr: a word begins at a capital after a small letter, or before one."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _groups(optimizer: Any, state: Any) -> dict[str, list[str]]:
    """Parameter groups: what each matches, and the names that its state says it owns; none where there are none."""
    if not isinstance(state, dict):
        return {}
    if "owned" in state:
        return {group.match: names for group, names in zip(optimizer.groups, state["owned"])}
    found: dict[str, list[str]] = {}
    for name, part in optimizer.parts():
        found |= _groups(part, state.get(name))
    return found
