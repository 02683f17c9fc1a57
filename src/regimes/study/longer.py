"""A regime made longer from a step on, and what its schedules do with the rest."""

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
from regimes.engine.compile import CompiledPhase, Length, compile_regime, epochs
from regimes.engine.run import Run
from regimes.schedules import Constant, Linear

#: What schedules can do with a longer run.
MODES = ("rescale", "hold", "cooldown")
_MEANING = {
    "rescale": "read over the longer run",
    "hold": "keep the value of now",
    "cooldown": "go down to 0 from here",
}
_POINTS = 65


def extra_of(text: Any) -> Duration:
    """Read how much is added: ``+2B tokens``.

    Raises
    ------
    DeclarationError
        For what is no such amount.

    Examples
    --------
    >>> extra_of("+2B tokens")
    Duration('2000000000 tokens')
    """
    if not isinstance(text, str) or not text.strip().startswith("+"):
        raise DeclarationError(f"got {show(text)}; allowed: an amount to add, for example '+500 steps'", "budget")
    try:
        found = Duration.parse(text.strip()[1:].strip())
    except DeclarationError as why:
        raise why.within("budget") from None
    if found.value <= 0:
        raise DeclarationError(f"got {show(text)}; allowed: more than nothing", "budget")
    return found


def longer(run: Run, extra: Duration, mode: str | None) -> Regime:
    """Return the regime of a run with a longer last phase.

    Parameters
    ----------
    run : Run
        Where it goes on.
    extra : Duration
        What is added to the last phase's budget.
    mode : "rescale", "hold", "cooldown" or None
        What schedules do; None is for regimes in which it makes no difference.

    Raises
    ------
    DeclarationError
        If it makes a difference and nothing is said, if every rate is down at 0 and would stay there, or if the amount
        cannot be told in the budget's unit.
    """
    if mode is not None and mode not in MODES:
        raise DeclarationError(f"got {show(mode)}; allowed: {', '.join(MODES)}", "schedule")
    plain = _budgeted(run, extra)
    if mode is None:
        _refuse_choice(run, plain)
    return plain if mode in (None, "rescale") else _with_schedules(run, plain, str(mode))


def _budgeted(run: Run, extra: Duration) -> Regime:
    """The regime with the amount in its last phase; shares of the whole become the amounts that they were."""
    last = run.phases[-1].length
    try:
        added = last.amount(extra)
    except DeclarationError as why:
        raise why.within("budget") from None
    budgets = [phase.length.total for phase in run.phases[:-1]] + [last.total + added]
    durations = [_duration(phase.length, total) for phase, total in zip(run.phases, budgets)]
    if len(run.phases) == 1:
        return run.regime.replace("budget", durations[0])
    return Regime([phase.replace("budget", amount) for phase, amount in zip(run.regime.phases, durations)])


def _duration(length: Length, total: float) -> Duration:
    """An amount of a budget's unit, as a person would write it."""
    if length.budget.unit == "epochs":
        return Duration(total / length.epoch, "epochs")
    return Duration(total, length.unit)


# -- schedules -----------------------------------------------------------------------------------------------------


def _with_schedules(run: Run, plain: Regime, mode: str) -> Regime:
    """The longer regime in which the present phase's schedules hold, or its rates go down to 0."""
    _refuse_standstill(run, mode)
    phase, edits = run.phase, dict[str, Any]()
    rates = [path for path, _, _ in paths.knobs(phase.declaration) if path.rsplit(".", 1)[-1] == "lr"]
    if mode == "cooldown" and not rates:
        raise DeclarationError("got 'cooldown', but no knob is called lr; allowed: rescale or hold", "schedule")
    for path, value, _ in paths.knobs(phase.declaration):
        cool = mode == "cooldown" and path in rates
        if isinstance(value, Schedule | Controller) or cool:
            edits[f"{phase.name}.{path}"] = _then(run, value, cool)
    return paths.edit(plain, edits, flatten=True)


def _then(run: Run, value: Any, cool: bool) -> Any:
    """A knob that was what it is up to now, and from here on holds or goes down to 0."""
    if isinstance(value, ControlledPair):
        return _then_pair(run, value, cool)
    if isinstance(value, Controller):
        if cool:
            raise DeclarationError(
                f"got 'cooldown', but a rate is {show(value)}, which nothing but itself brings down; allowed: rescale, hold, "
                "or a product of it and a number or a schedule",
                "schedule",
            )
        return value
    if isinstance(value, Schedule) and len(clocks(value)) > 1:
        raise DeclarationError(
            f"got {show(value)}, which follows both the phase and the run; allowed: rescale", "schedule"
        )
    over = next(iter(clocks(value))) if isinstance(value, Schedule) else "phase"
    at, whole = _place(run, over)
    unit = run.phase.length.unit
    if isinstance(value, Schedule):
        now = value.bind(run.phase.length.span())(run.position)
        first: Schedule = Window(value, Duration(0.0, "%"), Duration(whole, unit), over=over)
    else:
        now, first = float(value), Constant(float(value))
    if at == 0.0:
        return Linear(now, 0.0, over=over) if cool else Constant(now, over=over)
    if not cool and at >= whole * (1.0 - 1e-12):
        return first  # a window holds its last value
    rest = Linear(now, 0.0, over=over) if cool else Constant(now, over=over)
    return Then(first, rest, Duration(at, unit), over=over)


def _then_pair(run: Run, value: ControlledPair, cool: bool) -> ControlledPair:
    """A product or sum with a controller in it, whose state goes on: its form stays, and only its other sides change."""
    sides = {"left": value.left, "right": value.right}
    cooled = list(sides) if cool else []
    if cool and value.operation == "*":  # one factor that goes to 0 takes the product there
        cooled = [min(sides, key=lambda name: _stiffness(sides[name]))]
    done = {
        name: _then(run, side, name in cooled) if isinstance(side, Schedule | Controller) or name in cooled else side
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


def _refuse_standstill(run: Run, mode: str) -> None:
    """Refuse to go on from where every rate is at the end of its way down: nothing more would be learned."""
    rates = {path: f for path, f in run.phase.functions.items() if path.rsplit(".", 1)[-1] == "lr"}
    known = [path for path, _, _ in paths.knobs(run.phase.declaration) if path.rsplit(".", 1)[-1] == "lr"]
    if not rates or len(rates) < len(known):
        return
    shares = [share / (_POINTS - 1) for share in range(_POINTS)]
    phase = run.phase
    highest = {path: max(f(_progress(run, run.phases, phase, s, 0.0)) for s in shares) for path, f in rates.items()}
    if all(f(run.position) <= 1e-9 * highest[path] for path, f in rates.items()):
        raise DeclarationError(
            f"got '{mode}', but {next(iter(rates))} is 0 at step {run.frame.step} and would stay there, so nothing more "
            "would be learned; allowed: rescale, or an earlier step (at) to go on from",
            "schedule",
        )


# -- whether something has to be said --------------------------------------------------------------------------------


def _refuse_choice(run: Run, plain: Regime) -> None:
    """Refuse to choose for a person where reading schedules over the longer run changes what they would do."""
    now = _values(run, run.regime)
    courses = _courses(run, plain)
    moved = [path for path, course in courses.items() if any(abs(v - now[path]) > 1e-12 * abs(v) for v in course)]
    if not moved:
        return
    path = next((path for path in moved if path.rsplit(".", 1)[-1] == "lr"), moved[0])
    said = []
    for mode in MODES:
        try:
            course = _courses(run, _under(run, plain, mode)).get(path)
        except DeclarationError:
            continue
        if course is not None:
            said.append(f"{mode} ({_MEANING[mode]}: {course[0]:.4g} at once, {course[-1]:.4g} at the end)")
    raise DeclarationError(
        f"say what the schedules do, of which {path} is {now[path]:.4g} now; allowed: {', '.join(said)}", "schedule"
    )


def _under(run: Run, plain: Regime, mode: str) -> Regime:
    """The longer regime under one of the modes."""
    return plain if mode == "rescale" else _with_schedules(run, plain, mode)


def _values(run: Run, regime: Regime) -> dict[str, float]:
    return {path: course[0] for path, course in _courses(run, regime).items()}


def _courses(run: Run, regime: Regime) -> dict[str, list[float]]:
    """Values of every varying knob of the present phase under a regime, from now to the phase's end."""
    phases = compile_regime(regime, epochs(regime, run.view), run.workload.example_tokens())
    phase = phases[run.frame.phase]
    states = {p: run.states["knobs"].get(p, c.init()) for p, c in phase.controllers.items()}
    reads: dict[str, Callable[[Progress], float]] = dict(phase.functions)
    reads |= {p: lambda at, p=p, c=c: c.value(states[p], at) for p, c in phase.controllers.items()}  # type: ignore[misc]
    points = [_progress(run, phases, phase, share / (_POINTS - 1)) for share in range(_POINTS)]
    return {path: [read(at) for at in points] for path, read in reads.items()}


def _progress(
    run: Run, phases: list[CompiledPhase], phase: CompiledPhase, share: float, begin: float | None = None
) -> Progress:
    """The position at a share of the way from `begin`, else from now, to the phase's end."""
    total, begin = phase.length.total, run.consumed if begin is None else begin
    used = min(begin + share * max(total - begin, 0.0), total)
    whole = None
    if len({other.length.unit for other in phases}) == 1:
        before = sum(other.length.total for other in phases[: phase.index])
        whole = (before + used) / sum(other.length.total for other in phases)
    return run.position._replace(fraction=used / total, run_fraction=whole)
