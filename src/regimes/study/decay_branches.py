"""Decayed ends of one trunk: a run whose rate is held, branched at several steps, each branch with a decay of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import EDGE
from regimes.core.regime import Regime
from regimes.engine.result import RunResult
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.schedules import WSD, Constant
from regimes.study.branches import branch_at, step_of
from regimes.study.continued import budgeted, continued, then
from regimes.study.stored import opened, threads_of


def branch(
    run: str | Path | RunResult,
    at: int | Sequence[int],
    decay: str,
    *,
    shape: str = "linear",
    final: float = 0.0,
    out: str | Path | None = None,
    workload: Workload | None = None,
    max_time: str | float | None = None,
    progress: bool | None = None,
) -> list[RunResult]:
    """Train decayed ends of a run: forks at several steps, in which the rates fall from there on, and which then end.

    Each branch is a fork (`fork`) whose last phase ends with the decay and whose knobs called ``lr`` fall over it; all
    other schedules hold the value of the step. A rate that has been held since its warm-up becomes a `WSD`, and that is
    what the branch is: the run that is declared so from the beginning, with the trunk's seed, has the same losses and
    weights, to the bit. (But for a warm-up, which is read as a share of the run: of another number of steps its rates may
    be others in the last digit.) Other rates become their course so far, and then a fall from where they are.

    Parameters
    ----------
    run : path or RunResult
        The trunk, with all steps in `at`; it is only read.
    at : int or sequence of int
        Steps that the branches have behind them.
    decay : str
        How long a branch goes on: ``"200 steps"``, or a percentage, of the branch in all (as of `WSD`), to the nearest
        whole number of the budget's unit.
    shape : {"linear", "sqrt", "cosine", "exponential", "inverse"}
        Of the fall, as of `WSD`. Default "linear".
    final : float
        Where rates end, as a share of what they are at the step. Default 0; the last two shapes need more.
    out : path, optional
        A folder for the branches, ``decay-<step>`` each. Default: beside the trunk's, as forks are.
    workload, max_time, progress
        As of `fork`.

    Returns
    -------
    list of RunResult
        One per step, in the order given; finished ones are not trained again.

    Raises
    ------
    DeclarationError
        If a step is not one of the run's, or before its last phase; if a rate is 0 there or cannot be brought down.
    ResumeError
        As `fork`.

    Notes
    -----
    On the command line the branch of a rate that is held is a fork with two edits: ``regimes fork RUN --at 800 --set
    "optimizer.lr=WSD(1e-3, decay='200 steps')" --set "budget=1000 steps"``. A run that goes on from its decayed weights
    instead has a schedule for that: `WSDS`.

    References
    ----------
    S. Hu et al., MiniCPM, arXiv:2404.06395, section 4; A. Hägele et al., Scaling Laws and Compute-Optimal Training Beyond
    Fixed Training Durations, NeurIPS 2024, arXiv:2405.18392.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=rg.Constant(0.1)), batch_size=4, budget="40 steps")
    >>> trunk = rg.run(rg.workloads.load("quadratic"), regime, out=f"{tempfile.mkdtemp()}/trunk")
    >>> short, long = branch(trunk, at=[16, 32], decay="20%")
    >>> short.steps, long.steps, long.regime.optimizer.lr
    (20, 40, WSD(0.1, decay='8 steps'))
    >>> from_the_beginning = rg.run(rg.workloads.load("quadratic"), long.regime)
    >>> from_the_beginning.records == long.records
    True
    """
    stored = opened(run, workload)
    several = isinstance(at, Sequence) and not isinstance(at, str)
    steps = [step_of("at", step) for step in (at if several else [at])]  # type: ignore[union-attr]
    length = _length(decay)
    with threads_of(stored):
        regimes = [decayed(stored.again(step).until(step), length, shape, final) for step in steps]
    folders = [None if out is None else Path(out) / f"decay-{step}" for step in steps]
    made = [branch_at(stored, *each) for each in zip(steps, regimes, folders)]
    return [one.train(max_time, progress) for one in made]


def _length(decay: Any) -> Duration:
    try:
        length = Duration.parse(decay)
    except DeclarationError as why:
        raise why.within("decay") from None
    if length.value <= 0.0 or (length.unit == "%" and length.value >= 100.0):
        raise DeclarationError(f"got {show(decay)}; allowed: more than nothing, and less than 100%", "decay")
    return length


def decayed(run: Run, length: Duration, shape: str, final: float) -> Regime:
    """Return the regime of a run that ends with a decay of its rates from here on.

    Parameters
    ----------
    run : Run
        Where the decay begins.
    length : Duration
        Of the decay; a percentage is of the whole phase, decay included.
    shape : str
        As of `WSD`.
    final : float
        Where rates end, as a share of what they are now.

    Raises
    ------
    DeclarationError
        See `branch`.
    """
    phase = run.phase
    if phase is not run.phases[-1]:
        raise DeclarationError(
            f"got {run.frame.step}, which is in phase '{phase.name}'; allowed: steps of the last, '{run.phases[-1].name}'",
            "at",
        )
    if length.unit == "%":
        if run.consumed == 0.0:
            raise DeclarationError(
                f"got {run.frame.step}, of which a decay of '{length}' would be nothing; allowed: a later step, or a decay "
                "that is an amount, such as '100 steps'",
                "at",
            )
        amount = float(max(1, round(run.consumed * length.share / (1.0 - length.share))))
    else:
        try:
            amount = phase.length.amount(length)
        except DeclarationError as why:
            raise why.within("decay") from None
    whole, unit = Duration(amount, phase.length.unit), Duration(100.0, "%")

    def rate(value: Any) -> Any:
        held = _held(run, value)
        if held is not None:
            peak, warmup = held
            return WSD(peak, whole, final * peak, shape, warmup=warmup)
        return then(run, value, lambda now, over: WSD(now, unit, final * now, shape, over=over))

    try:
        return continued(run, budgeted(run, run.consumed + amount), rate)
    except DeclarationError as why:
        raise why if why.key else why.within("at") from None


def _held(run: Run, value: Any) -> tuple[float, Duration] | None:
    """Peak and warm-up of a rate that has done nothing else so far, in amounts; None for any other."""
    if isinstance(value, int | float):
        return float(value), Duration(0.0, "%")
    if type(value) not in (Constant, WSD) or value.over != "phase" or value.inclusive:
        return None
    length = run.phase.length
    rise = length.amount(value.warmup)
    end = length.total - (length.amount(value.decay) if isinstance(value, WSD) else 0.0)
    if not rise <= run.consumed <= end * (1.0 + EDGE):
        return None
    return value.peak, Duration(rise, length.unit) if value.warmup.unit == "%" and rise else value.warmup
