"""A regime made longer from a step on, and what its schedules do with the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.progress import Progress
from regimes.core.regime import Regime
from regimes.engine.compile import compile_regime, epochs
from regimes.engine.run import Run
from regimes.schedules import Linear
from regimes.study.continued import SHARES, budgeted, continued, position_at, then

#: What schedules can do with a longer run.
MODES = ("rescale", "hold", "cooldown")
_MEANING = {
    "rescale": "read over the longer run",
    "hold": "keep the value of now",
    "cooldown": "go down to 0 from here",
}


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
    last = run.phases[-1].length
    try:
        plain = budgeted(run, last.total + last.amount(extra))
    except DeclarationError as why:
        raise why.within("budget") from None
    if mode is None:
        _refuse_choice(run, plain)
    return plain if mode in (None, "rescale") else _with_schedules(run, plain, str(mode))


def _with_schedules(run: Run, plain: Regime, mode: str) -> Regime:
    """The longer regime in which the present phase's schedules hold, or its rates go down to 0."""

    def cooled(value: Any) -> Any:
        return then(run, value, lambda now, over: Linear(now, 0.0, over=over))

    try:
        return continued(run, plain, cooled if mode == "cooldown" else None)
    except DeclarationError as why:
        raise DeclarationError(f"got '{mode}', but {why}; or rescale", "schedule") from None


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
    points = [position_at(run, phases, phase, share) for share in SHARES]
    return {path: [read(at) for at in points] for path, read in reads.items()}
