"""A plan in the terminal: tables, and every schedule drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from regimes.study.drawing import braille, si
from regimes.study.rehearsal import Curve, Group, Memory
from regimes.study.table import duration

_WIDTH, _HEIGHT = 32, 3
#: A table that fits in 80 columns.
_PLAIN: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "bold underline"}


def renderables(plan: Any) -> Iterator[Any]:
    """Yield what a terminal shows of a plan."""
    trained = si(plan.parameters).rstrip()
    yield Text(f"{plan.workload}, seed {plan.seed}: {trained} trained parameters", style="bold")
    yield _phases(plan)
    yield _time(plan)
    yield _memory(plan.memory)
    several = len(plan.phases) > 1
    for phase in plan.phases:
        if phase.groups:
            yield _groups(phase.groups, f"groups of {phase.name}" if several else "groups")
        for curve in phase.curves:
            yield from _curve(curve, f"{phase.name}." if several else "")
    for phase in plan.phases:
        if phase.trial_flops or phase.trial_steps:
            lead = f"{phase.name}: " if several else ""
            yield Text(
                f"{lead}about {si(phase.trial_flops, 'FLOP')} of that in trials: {phase.trial_steps:,} steps beside, "
                f"{phase.trial_samples:,} samples"
            )
    for note in plan.notes:
        yield Text(f"note: {note}", style="yellow")


def _phases(plan: Any) -> Table:
    made = Table(**_PLAIN)
    for name in ("phase", "budget"):
        made.add_column(name, no_wrap=True)
    several = len(plan.phases) > 1
    for name in (*(["trained"] if several else []), "steps", "samples", "tokens", "work", "time", "validated"):
        made.add_column(name, justify="right", no_wrap=True)
    for phase in plan.phases:
        about = "" if phase.exact else "~"
        took = "-" if phase.seconds is None else duration(phase.seconds)
        trained = [si(phase.parameters).rstrip()] if several else []
        made.add_row(
            phase.name, phase.budget, *trained, f"{about}{phase.steps:,}", f"{about}{phase.samples:,}",
            f"{about}{phase.tokens:,}", si(phase.flops, "FLOP"), took, f"{phase.validations}x",
        )  # fmt: skip
    return made


def _time(plan: Any) -> str:
    if plan.seconds is None:
        return "time: not measured (--no-time)"
    step, validation = plan.step_seconds or 0.0, plan.validation_seconds or 0.0
    return (
        f"time: about {duration(plan.seconds)} here ({1000 * step:.3g} ms a step, {1000 * validation:.3g} ms a "
        "validation; checkpoints and probes come on top)"
    )


def _memory(memory: Memory) -> str:
    words = [("parameters", memory.parameters), ("gradients", memory.gradients), ("optimizer", memory.optimizer)]
    words += [("other states", memory.other_states), ("batch", memory.batch)]
    shown = ", ".join(f"{name} {si(size, 'B')}" for name, size in words if size)
    peak = "" if memory.peak is None else f"; measured peak {si(memory.peak, 'B')}"
    return f"memory: {si(memory.total, 'B')} ({shown}), activations not counted{peak}"


def _groups(groups: tuple[Group, ...], title: str) -> Table:
    made = Table(title=title, title_justify="left", **_PLAIN)
    for name in ("match", "rule"):
        made.add_column(name)
    for name in ("tensors", "parameters"):
        made.add_column(name, justify="right")
    made.add_column("for example")
    for group in groups:
        names = ", ".join(group.names) + (", ..." if group.tensors > len(group.names) else "")
        made.add_row(*map(escape, (group.match, group.rule, str(group.tensors), f"{group.parameters:,}", names)))
    return made


def _curve(curve: Curve, lead: str) -> Iterator[Text]:
    yield Text.assemble((f"{lead}{curve.path}", "bold"), f" = {curve.declared}")
    if curve.end is None:
        yield Text(f"  begins at {curve.start:.3g}, then as its signals say")
        return
    end = 0.0 if abs(curve.end) < 1e-9 * abs(curve.peak) else curve.end  # no rounding errors of formulas
    words = ("", f"start {curve.start:.3g}, peak {curve.peak:.3g}, end {end:.3g}", "")
    for line, said in zip(braille(curve.values, _WIDTH, _HEIGHT), words):
        yield Text.assemble("  ", (line, "cyan"), f"  {said}".rstrip())
