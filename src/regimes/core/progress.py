"""Where a run is: the only clock that schedules and controllers may read."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """Frozen view of *position* before a step.

    Parameters
    ----------
    step, samples, tokens : int
        Of the run.
    phase_step, phase_samples, phase_tokens : int
        Of the phase.
    fraction : float
        Consumed before this step over the phase's budget, in the budget's own unit; in [0, 1).
    run_fraction : float or None
        The same for the whole run; None where its phases share no unit.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    phase_step: int = 0
    phase_samples: int = 0
    phase_tokens: int = 0
    fraction: float = 0.0
    run_fraction: float | None = None


def amount(at: Progress, unit: str) -> float:
    """How much of the phase lies before a position: in %, steps, samples or tokens.

    Examples
    --------
    >>> amount(Progress(phase_step=7, fraction=0.25), "steps"), amount(Progress(phase_step=7, fraction=0.25), "%")
    (7, 25.0)
    """
    counts = {"steps": at.phase_step, "samples": at.phase_samples, "tokens": at.phase_tokens}
    return 100.0 * at.fraction if unit == "%" else counts[unit]
