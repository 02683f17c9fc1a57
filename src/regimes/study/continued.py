"""Schedules that go on otherwise from a step on: rates fall, all else holds the value of now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regimes.core import paths
from regimes.core.algebra import ControlledPair
from regimes.core.combinators import Then, Window, clocks
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import Controller, Schedule
from regimes.core.progress import Progress
from regimes.core.regime import Regime
from regimes.engine.compile import CompiledPhase, Length
from regimes.engine.run import Run
from regimes.schedules import Constant

#: The rest of a rate, from its value of now on, following "phase" or "run".
Fall = Callable[[float, str], Schedule]
#: Where courses are looked at, of the way from here to the end.
SHARES = [share / 64 for share in range(65)]


def budgeted(run: Run, total: float) -> Regime:
    """Return the regime with so much in its last phase; shares of the whole become the amounts that they were."""
    budgets = [phase.length.total for phase in run.phases[:-1]] + [total]
    durations = [_duration(phase.length, amount) for phase, amount in zip(run.phases, budgets)]
    if len(run.phases) == 1:
        return run.regime.replace("budget", durations[0])
    return Regime([phase.replace("budget", amount) for phase, amount in zip(run.regime.phases, durations)])


def _duration(length: Length, total: float) -> Duration:
    """An amount of a budget's unit, as a person would write it."""
    if length.budget.unit == "epochs":
        return Duration(total / length.epoch, "epochs")
    return Duration(total, length.unit)


def rates_of(run: Run) -> list[str]:
    """Return the paths of the present phase's rates: knobs that are called lr."""
    return [path for path, _, _ in paths.knobs(run.phase.declaration) if path.rsplit(".", 1)[-1] == "lr"]


def continued(run: Run, plain: Regime, rate: Callable[[Any], Any] | None) -> Regime:
    """Return `plain` with the present phase's schedules held from here on, and its rates as `rate` makes them.

    Parameters
    ----------
    run : Run
        Where it goes on.
    plain : Regime
        What is trained, with the budget that it shall have.
    rate : callable or None
        From the value of a knob called lr, which may be a number; None holds rates as well.

    Raises
    ------
    DeclarationError
        If there is no rate, all are at 0, or one cannot be brought down.
    """
    rates = rates_of(run)
    if rate is not None and not rates:
        raise DeclarationError("no knob is called lr")
    _refuse_standstill(run, rates)
    edits = dict[str, Any]()
    for path, value, _ in paths.knobs(run.phase.declaration):
        if rate is not None and path in rates:
            edits[f"{run.phase.name}.{path}"] = rate(value)
        elif isinstance(value, Schedule | Controller):
            edits[f"{run.phase.name}.{path}"] = then(run, value, None)
    return paths.edit(plain, edits, flatten=True)


def then(run: Run, value: Any, fall: Fall | None) -> Any:
    """Return a knob that was what it is up to now, and from here on falls, or (None) holds."""
    if isinstance(value, ControlledPair):
        return _then_pair(run, value, fall)
    if isinstance(value, Controller):
        if fall is not None:
            raise DeclarationError(
                f"a rate is {show(value)}, which nothing but itself brings down; allowed: a product of it and a number or a "
                "schedule"
            )
        return value
    if isinstance(value, Schedule) and len(clocks(value)) > 1:
        raise DeclarationError(f"{show(value)} follows both the phase and the run; allowed: one of them")
    over = next(iter(clocks(value))) if isinstance(value, Schedule) else "phase"
    at, whole = _place(run, over)
    unit = run.phase.length.unit
    if isinstance(value, Schedule):
        now = value.bind(run.phase.length.span())(run.position)
        first: Schedule = Window(value, Duration(0.0, "%"), Duration(whole, unit), over=over)
    else:
        now, first = float(value), Constant(float(value))
    rest = Constant(now, over=over) if fall is None else fall(now, over)
    if at == 0.0:
        return rest
    if fall is None and at >= whole * (1.0 - 1e-12):
        return first  # a window holds its last value
    return Then(first, rest, Duration(at, unit), over=over)


def _then_pair(run: Run, value: ControlledPair, fall: Fall | None) -> ControlledPair:
    """A product or sum with a controller in it, whose state goes on: its form stays, and only its other sides change."""
    sides = {"left": value.left, "right": value.right}
    fallen = [] if fall is None else list(sides)
    if fall is not None and value.operation == "*":  # one factor that goes to 0 takes the product there
        fallen = [min(sides, key=lambda name: _stiffness(sides[name]))]
    done = {
        name: then(run, side, fall if name in fallen else None)
        if isinstance(side, Schedule | Controller) or name in fallen
        else side
        for name, side in sides.items()
    }
    return ControlledPair(value.operation, done["left"], done["right"])


def _stiffness(side: Any) -> int:
    """How hard a side is to bring down: a number or a schedule can be, a pair in one of its sides, else nothing."""
    if not isinstance(side, Controller):
        return 0
    return 1 if isinstance(side, ControlledPair) else 2


def _place(run: Run, over: str) -> tuple[float, float]:
    """Where the run is, and how long the stretch was that a schedule follows."""
    here, lengths = run.frame.phase, [phase.length.total for phase in run.phases]
    if over == "phase":
        return run.consumed, lengths[here]
    return sum(lengths[:here]) + run.consumed, sum(lengths)


def _refuse_standstill(run: Run, known: list[str]) -> None:
    """Refuse to go on from where every rate is at the end of its way down: nothing more would be learned."""
    rates = {path: f for path, f in run.phase.functions.items() if path in known}
    if not rates or len(rates) < len(known):
        return
    whole = [position_at(run, run.phases, run.phase, share, begin=0.0) for share in SHARES]
    highest = {path: max(f(at) for at in whole) for path, f in rates.items()}
    if all(f(run.position) <= 1e-9 * highest[path] for path, f in rates.items()):
        rest = [at for at in whole if at.fraction > run.position.fraction]
        rises = any(f(at) > 1e-9 * highest[path] for path, f in rates.items() for at in rest)
        raise DeclarationError(
            f"{next(iter(rates))} is 0 at step {run.frame.step} and would stay there, so nothing more would be learned; "
            f"allowed: {'a later' if rises else 'an earlier'} step (at) to go on from"
        )


def position_at(
    run: Run, phases: list[CompiledPhase], phase: CompiledPhase, share: float, begin: float | None = None
) -> Progress:
    """Return the position at a share of the way from `begin`, else from now, to the end of a phase."""
    total, begin = phase.length.total, run.consumed if begin is None else begin
    used = min(begin + share * max(total - begin, 0.0), total)
    whole = None
    if len({other.length.unit for other in phases}) == 1:
        before = sum(other.length.total for other in phases[: phase.index])
        whole = (before + used) / sum(other.length.total for other in phases)
    return run.position._replace(fraction=used / total, run_fraction=whole)
