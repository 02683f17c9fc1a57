"""When an averager takes the weights: from `start` on, once every so often."""

from __future__ import annotations

from collections.abc import Callable

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Span, State
from regimes.core.progress import Progress

#: What a position shows of each unit.
_AMOUNTS: dict[str, Callable[[Progress], float]] = {
    "%": lambda at: 100.0 * at.fraction,
    "steps": lambda at: at.phase_step,
    "samples": lambda at: at.phase_samples,
    "tokens": lambda at: at.phase_tokens,
}


def check(duration: Duration, key: str, more_than_nothing: bool = False) -> None:
    """Refuse a unit that a position does not show, and a period of nothing."""
    if duration.unit not in _AMOUNTS:
        raise DeclarationError(f"got '{duration}'; allowed: an amount in %, steps, samples or tokens", key)
    if more_than_nothing and duration.value <= 0:
        raise DeclarationError(f"got '{duration}'; allowed: more than nothing", key)


def refuse_never(duration: Duration, key: str, span: Span) -> None:
    """Refuse an amount that is the whole phase or more, where that can be told beforehand.

    Raises
    ------
    DeclarationError
        If it is.

    Examples
    --------
    >>> refuse_never(Duration(30, "steps"), "start", Span(lambda duration: duration.value / 20))
    Traceback (most recent call last):
    ...
    regimes.core.errors.DeclarationError: start: got '30 steps', which is the whole phase or more; allowed: less
    """
    try:
        share = span.share(duration)
    except DeclarationError:  # of another unit than the budget: where nothing comes of it, the result says so
        return
    if share >= 1.0 - 1e-12:
        raise DeclarationError(f"got '{duration}', which is the whole phase or more; allowed: less", key)


def fresh() -> State:
    """Return what `due` remembers: the phase (by the run's step at its beginning), the first position, how often."""
    return {"began": 0, "origin": None, "taken": 0}


def due(state: State, at: Progress, start: Duration, every: Duration) -> bool:
    """Whether the weights after the step that began at `at` are taken.

    These are the first step of the phase that begins at or past `start`, and then each first one that begins at or
    past another whole `every` after it. An average carried into the next phase goes on, its cadence begins anew.

    Examples
    --------
    >>> state, start, every = fresh(), Duration(20, "%"), Duration(3, "steps")
    >>> [n for n in range(10) if due(state, Progress(step=n, phase_step=n, fraction=n / 10), start, every)]
    [2, 5, 8]
    """
    began = at.step - at.phase_step
    if began != state["began"]:
        state |= fresh() | {"began": began}
    if state["origin"] is None:
        if _AMOUNTS[start.unit](at) < start.value * (1.0 - 1e-12):
            return False
        state["origin"] = _AMOUNTS[every.unit](at)
    # The nudge keeps k * every on the k-th period although fractions are rounded.
    passed = int((_AMOUNTS[every.unit](at) - state["origin"]) / every.value + 1e-9)
    if passed < state["taken"]:
        return False
    state["taken"] = passed + 1
    return True
