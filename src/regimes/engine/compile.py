"""A phase, compiled once: how long it is, which knobs vary, who observes, what is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from regimes.core import paths, signals
from regimes.core.component import Component, Stateful, observes, proposes, round_half_up
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.fields import Spec
from regimes.core.kinds import Controller, Schedule, SourceView, Span
from regimes.core.progress import Progress
from regimes.core.regime import DATA_SLOTS, Phase, Regime
from regimes.core.registry import REGISTRY

#: Points at which a schedule's whole table is checked, 1 included.
TABLE = np.linspace(0.0, 1.0, 1025)
_COUNTERS = {"steps": "phase_step", "samples": "phase_samples", "tokens": "phase_tokens"}
_SLOTS = ("mixture", "sampler", "augment", "loss", "selector", "grad_transforms", "optimizer", "average")


class Length:
    """Converts amounts within one phase: its budget's unit, and what a plain batch size makes convertible."""

    def __init__(self, regime: Regime, index: int, epoch: int, example_tokens: int | None) -> None:
        phase = regime.phases[index]
        own = phase.budget if phase.budget is not None else regime.budget
        assert own is not None
        self.budget = (
            Duration(own.share * regime.budget.value, regime.budget.unit) if own.unit == "%" and regime.budget else own
        )
        self.epoch, self.example_tokens = epoch, example_tokens
        self.batch = phase.batch_size if isinstance(phase.batch_size, int) else None
        self.unit = "samples" if self.budget.unit == "epochs" else self.budget.unit
        self.total = self.budget.value * (epoch if self.budget.unit == "epochs" else 1.0)
        self.run: tuple[float, float | None] = (self.total, None)
        self._column = None if self.unit == "flops" else Progress._fields.index(_COUNTERS[self.unit])

    def amount(self, duration: Duration) -> float:
        """Return `duration` in the budget's own unit, or refuse, naming both."""
        if duration.unit == "%":
            return duration.share * self.total
        have, want = self.in_samples(duration), self.unit
        if ("samples" if duration.unit == "epochs" else duration.unit) == want:
            return duration.value * (self.epoch if duration.unit == "epochs" else 1.0)
        scale = {
            "samples": 1.0,
            "steps": self.batch,
            "tokens": self.example_tokens and 1.0 / self.example_tokens,
        }.get(want)
        if have is None or not scale:
            raise DeclarationError(
                f"got '{duration}' where the budget is '{self.budget}', and nothing declared converts one into the "
                "other (steps need a plain batch_size, tokens examples of one declared length); write a percentage"
            )
        return have / scale

    def in_samples(self, duration: Duration) -> float | None:
        """The amount in samples, where what is declared allows it."""
        factor = {
            "samples": 1.0,
            "epochs": float(self.epoch),
            "steps": None if self.batch is None else float(self.batch),
            "tokens": 1.0 / self.example_tokens if self.example_tokens else None,
        }.get(duration.unit)
        return None if factor is None else duration.value * factor

    @property
    def steps(self) -> int | None:
        """Number of steps, where it is known beforehand."""
        if self.unit == "steps":
            return round(np.ceil(self.total - 1e-9))
        samples = self.in_samples(Duration(self.total, self.unit))
        return None if samples is None or self.batch is None else int(np.ceil(samples / self.batch - 1e-9))

    def span(self) -> Span:
        """What a schedule may know: of the phase, and of the run where its phases share a unit."""
        total, steps = self.run
        return Span(self._share(self.total), self.steps, run=Span(self._share(total), steps))

    def _share(self, total: float) -> Callable[[Duration], float]:
        return lambda duration: duration.share if duration.unit == "%" else self.amount(duration) / total

    def consumed(self, at: Progress, spent: float) -> float:
        """How much of the budget is used up, in its own unit."""
        return spent if self._column is None else float(at[self._column])  # type: ignore[arg-type]


class CompiledPhase:
    """One phase, ready to run: knobs bound, slots known, needs checked.

    Parameters
    ----------
    regime : Regime
    index : int
        Which phase.
    length : Length
        How long it is, and how Durations convert in it.
    """

    def __init__(self, regime: Regime, index: int, length: Length) -> None:
        self.declaration: Phase = regime.phases[index]
        self.name, self.index = self.declaration.name, index
        self.length = length
        self.slots: dict[str, Any] = {name: getattr(self.declaration, name) for name in _SLOTS}
        self.functions: dict[str, Callable[[Progress], float]] = {}
        self.controllers: dict[str, Controller] = {}
        self.specs: dict[str, Spec] = {}
        self._bind()
        data = {path: path.split(".")[0] in DATA_SLOTS for path in self.specs}
        self.data_knobs, self.step_knobs = (
            _Knobs(self, [path for path, is_data in data.items() if is_data]),
            _Knobs(self, [path for path, is_data in data.items() if not is_data]),
        )
        self._check_cadence()
        self.proposing = [name for name, part in self.parts() if proposes(part)]
        self.proposing += [f"knobs.{path}" for path, controller in self.controllers.items() if proposes(controller)]
        self.watching = [_place(name) for name, part in self.parts() if name != "average" and observes(part)]
        self.needs = frozenset(signals.check(name) for name in self._needs())
        self._check_trials()
        self._refuse_idle()
        self._refuse_unread_order()

    def _bind(self) -> None:
        span = self.length.span()
        for path, value, spec in paths.knobs(self.declaration):
            if not isinstance(value, Schedule | Controller):
                continue
            self.specs[path] = spec
            try:
                if isinstance(value, Controller):
                    controller = self.controllers[path] = value.bind_parts(span)
                    spec.check(
                        controller.value(controller.init(), Progress(run_fraction=0.0)), "", f"{value!r} begins "
                    )
                else:
                    self.functions[path] = value.bind(span)
                    _check_table(self.functions[path], spec, value)
            except DeclarationError as why:
                raise why.within(path) from None

    def parts(self) -> list[tuple[str, Stateful]]:
        """(slot, component) for every filled slot; members of tuples as ``grad_transforms.0``."""
        out: list[tuple[str, Stateful]] = []
        for name, value in self.slots.items():
            if isinstance(value, tuple):
                out += [(f"{name}.{i}", item) for i, item in enumerate(value)]
            elif value is not None:
                out.append((name, value))
        return out

    def substitute(self, knobs: dict[str, float]) -> Phase:
        """Return the declaration with numbers in it, copied along varying paths only."""
        live = self.declaration
        if self.data_knobs.paths:
            live = self.data_knobs.rebuild(live, knobs)
        return self.step_knobs.rebuild(live, knobs)

    def observing(self, live: Phase) -> list[tuple[str, Any]]:
        """(slot, live component) for everybody who observes, the averager apart."""
        return [
            (slot, getattr(live, name) if place is None else getattr(live, name)[place])
            for slot, name, place in self.watching
        ]

    def _check_cadence(self) -> None:
        every = self.declaration.evaluate
        if every is not None:
            try:
                amount = self.length.amount(every)
            except DeclarationError as why:
                raise why.within("evaluate") from None
            if amount <= 0.0:
                raise DeclarationError(f"got '{every}'; allowed: more than nothing", "evaluate")
        if self.declaration.average is not None:
            try:
                self.declaration.average.check(self.length.span())
            except DeclarationError as why:
                raise why.within("average") from None

    def _check_trials(self) -> None:
        for path, part in paths.walk(self.declaration):
            for name in part.trial_lengths if isinstance(part, Stateful) else ():
                try:
                    self.length.amount(getattr(part, name))
                except DeclarationError as why:
                    raise why.within(f"{path}.{name}") from None

    def _refuse_idle(self) -> None:
        """Refuse needs that no step will meet, and gradient transforms that no step will ask."""
        phase = self.declaration
        if not phase.optimizer.uses_gradients:
            idle = sorted(self.needs & {"gradient_norm", "micro_batch_gradient_norms", "example_gradients"})
            if idle or phase.grad_transforms:
                asks = f"'{idle[0]}'" if idle else repr(phase.grad_transforms[0])
                raise DeclarationError(
                    f"{type(phase.optimizer).__name__} makes no gradient, but {asks} wants one", "optimizer"
                )
        micro, wanted = phase.micro_batch, "micro_batch_gradient_norms" in self.needs
        if wanted and (not isinstance(micro, int) or micro >= self._least_batch()):
            raise DeclarationError(
                f"got {show(micro)}, but 'micro_batch_gradient_norms' needs two micro-batches or more; allowed: a number "
                f"below the batch size ({self._least_batch():g} at its smallest)",
                "micro_batch",
            )

    def _refuse_unread_order(self) -> None:
        """Refuse an order of the data beside a rule that draws each source in an order of its own."""
        phase = self.declaration
        if not phase.optimizer.source_by_source:
            return
        rule, mixture = type(phase.optimizer).__name__, cast(Any, phase.mixture)
        sampler = phase.sampler if mixture is None else mixture.sampler
        if sampler is not None and sampler != REGISTRY.default("sampler")():
            raise DeclarationError(
                f"got {show(sampler)}, but {rule} draws every source in an order of its own; write "
                f"{rule}(..., sampler={show(sampler)})",
                "sampler" if mixture is None else "mixture.sampler",
            )
        if mixture is not None and mixture.all_needs():
            raise DeclarationError(
                f"got {show(mixture)}, but {rule} takes every source it names as a client, whatever its share; allowed: "
                "a mixture that learns nothing",
                "mixture",
            )

    def _least_batch(self) -> float:
        """The smallest batch that is known beforehand; of a controller, the first."""
        name = "batch_size"
        if name in self.controllers:
            controller = self.controllers[name]
            return float(controller.value(controller.init(), Progress(run_fraction=0.0)))
        if name in self.functions:
            return min(self.functions[name](Progress(fraction=f, run_fraction=f)) for f in TABLE.tolist())
        return float(self.declaration.batch_size)

    def _needs(self) -> set[str]:
        components = [component for _, component in self.parts()] + list(self.controllers.values())
        return set().union(*(component.all_needs() for component in components))


def _place(slot: str) -> tuple[str, str, int | None]:
    name, _, place = slot.partition(".")
    return slot, name, int(place) if place else None


class _Knobs:
    """The varying knobs of one moment: their values, and the declaration with these numbers in it."""

    def __init__(self, phase: CompiledPhase, paths_: list[str]) -> None:
        self.functions = [
            (path, phase.functions[path], phase.specs[path]) for path in paths_ if path in phase.functions
        ]
        self.controllers = [(p, phase.controllers[p], phase.specs[p]) for p in paths_ if p in phase.controllers]
        self.paths, self.rebuild = paths_, rebuilder(phase.declaration, paths_)

    def values(self, states: dict[str, Any], at: Progress) -> dict[str, float]:
        """Resolve every knob once: the only reading of schedules and controllers."""
        values: dict[str, float] = {}
        for path, function, spec in self.functions:
            value = function(at)
            values[path] = round_half_up(value) if spec.integer else value
        for path, controller, spec in self.controllers:
            value = controller.value(states[path], at)
            spec.check(value, path, f"at step {at.step} the controller {controller!r} gave a value out of range: ")
            values[path] = round_half_up(value) if spec.integer else value
        return values


def _check_table(function: Callable[[Progress], float], spec: Spec, schedule: Schedule) -> None:
    for fraction in TABLE.tolist():
        try:
            value = function(Progress(fraction=fraction, run_fraction=fraction))
            # An integer knob is used rounded: 0.4 of a batch would be 0.
            used = round_half_up(value) if spec.integer else value
        except (ValueError, OverflowError):
            raise DeclarationError(f"{schedule!r} is not finite") from None
        try:
            spec.check(used, "", "")
        except DeclarationError as why:
            raise DeclarationError(f"{schedule!r} at {fraction:.1%} of the stretch {why.message}") from None


def rebuilder(root: Component, paths_: list[str]) -> Callable[[Any, dict[str, float]], Any]:
    """Return a function (declaration, values) -> copy with numbers in it, made along the varying paths only."""
    if not paths_:
        return lambda node, values: node
    return _node_builder(root, [(path, path.split(".")) for path in paths_])


def _node_builder(node: Any, targets: list[tuple[str, list[str]]]) -> Callable[[Any, dict[str, float]], Any]:
    below: dict[str, list[tuple[str, list[str]]]] = {}
    for path, segments in targets:
        below.setdefault(segments[0], []).append((path, segments[1:]))
    makers: list[tuple[str, Callable[[Any, dict[str, float]], Any]]] = []
    for name, inner in below.items():
        if inner[0][1]:
            child = paths.get(node, name)
            makers.append((name, _node_builder(child, inner)))
        else:
            makers.append((name, _reader(inner[0][0])))
    if isinstance(node, tuple):
        return lambda old, values: _rebuilt_tuple(old, makers, values)
    if node.open_field is not None:
        return lambda old, values: _rebuilt_open(old, makers, values)
    return lambda old, values: old.with_values({name: make(getattr(old, name), values) for name, make in makers})


def _reader(path: str) -> Callable[[Any, dict[str, float]], Any]:
    return lambda old, values: values[path]


def _rebuilt_tuple(old: tuple[Any, ...], makers: Any, values: dict[str, float]) -> tuple[Any, ...]:
    new = list(old)
    for name, make in makers:
        new[int(name)] = make(old[int(name)], values)
    return tuple(new)


def _rebuilt_open(old: Component, makers: Any, values: dict[str, float]) -> Component:
    pairs, changed = dict(getattr(old, str(old.open_field))), {}
    for name, make in makers:
        if name in pairs:
            pairs[name] = make(pairs[name], values)
        else:
            changed[name] = make(getattr(old, name), values)
    return old.with_values(changed | {str(old.open_field): tuple(sorted(pairs.items()))})


def epochs(regime: Regime, view: SourceView) -> list[int]:
    """Examples in each phase's sources together.

    Raises
    ------
    DeclarationError
        If a mixture names a source that the workload does not have.
    """
    found = []
    for phase in regime.phases:
        named = [name for name, _ in getattr(phase.mixture, "sources", ())] if phase.mixture is not None else []
        for name in named:
            if name not in view.sizes:
                raise DeclarationError(f"the workload has no source '{name}'; {nearest(name, view.sizes)}", "mixture")
        found.append(sum(view.sizes[name] for name in named) if named else view.size)
    return found


def compile_regime(regime: Regime, epochs: list[int], example_tokens: int | None) -> list[CompiledPhase]:
    """Compile every phase; refusals name the phase's path.

    Parameters
    ----------
    regime : Regime
    epochs : list of int
        Examples in each phase's sources together.
    example_tokens : int or None
    """
    compiled = []
    lengths = [Length(regime, index, epochs[index], example_tokens) for index in range(len(regime.phases))]
    if len({length.unit for length in lengths}) == 1:
        steps = [length.steps for length in lengths]
        whole = None if None in steps else float(sum(s for s in steps if s is not None))
        for length in lengths:
            length.run = sum(other.total for other in lengths), whole
    for index, phase in enumerate(regime.phases):
        try:
            compiled.append(CompiledPhase(regime, index, lengths[index]))
        except DeclarationError as why:
            raise (why if len(regime.phases) == 1 else why.within(phase.name)) from None
    _check_run_fraction(compiled)
    return compiled


def _check_run_fraction(compiled: list[CompiledPhase]) -> None:
    if len({phase.length.unit for phase in compiled}) == 1:
        return
    for phase in compiled:
        for path, value in paths.walk(phase.declaration):
            if isinstance(value, Schedule) and value.over == "run":
                raise DeclarationError(
                    "got 'run', but the phases' budgets share no unit "
                    f"({', '.join(str(p.length.budget) for p in compiled)})",
                    f"{phase.name}.{path}.over",
                )
