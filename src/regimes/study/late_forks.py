"""Tails from one checkpoint with other data orders: a lower bound on the noise of a run that is made once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regimes.core.errors import DeclarationError, ResumeError, nearest, show
from regimes.core.files import read_json
from regimes.engine.result import RunResult
from regimes.engine.stored import Stored
from regimes.engine.workload import Workload
from regimes.study.branches import branch_at
from regimes.study.design import is_number
from regimes.study.stored import opened


@dataclass(frozen=True)
class LateForks:
    """What a run's metric does when only its end is made again, on other data orders.

    Parameters
    ----------
    metric : str
    at : int
        Steps that all tails share.
    steps : int
        Steps in all.
    value : float
        The run's own.
    values : tuple of float
        One per fork.
    """

    metric: str
    at: int
    steps: int
    value: float
    values: tuple[float, ...]

    @property
    def sd(self) -> float:
        """Standard deviation of all tails, the run's own among them (divisor n - 1); NaN where one diverged."""
        return float(np.std([self.value, *self.values], ddof=1))

    def __str__(self) -> str:
        tails = len(self.values) + 1
        return (
            f"{self.metric} {self.value:.4g}; {tails} tails from step {self.at} of {self.steps} vary by {self.sd:.2g} (sd, "
            f"{tails - 1} degrees of freedom): a lower bound on the noise of a run, as the first {self.at / self.steps:.0%} "
            "is shared"
        )


def late_forks(
    run: str | Path | RunResult,
    forks: int = 4,
    *,
    at: float = 0.8,
    metric: str | None = None,
    out: str | Path | None = None,
    workload: Workload | None = None,
    progress: bool | None = None,
) -> LateForks:
    """Train the last part of a run again on other data orders, dropout and noise: how much of its metric is luck.

    The tails are forks (`regimes.fork`) with seeds of their own; each costs ``1 - at`` of the run. Noise that the first
    part made is in all of them, so the sd is a lower bound on that of a run, and never enough for a verdict.

    Parameters
    ----------
    run : path or RunResult
        A finished run in a folder.
    forks : int
        Default 4.
    at : float
        Share of the run that they have in common. Default 0.8.
    metric : str, optional
        Default the loss on the data that verdicts read.
    out : path, optional
        A folder for the forks; default beside the run's.
    workload, progress
        As of `regimes.fork`.

    Returns
    -------
    LateForks

    Raises
    ------
    DeclarationError
        A share that leaves nothing to train, fewer than two forks, a metric that the run does not have.
    ResumeError
        If the run is not finished, or cannot be trained again to the bit here.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="20 steps")
    >>> parent = rg.run(rg.workloads.load("quadratic"), regime, out=f"{tempfile.mkdtemp()}/base")
    >>> found = late_forks(parent, forks=3)
    >>> found.at, len(found.values), 0 < found.sd < 1
    (16, 3, True)
    """
    if isinstance(forks, bool) or not isinstance(forks, int) or forks < 2:
        raise DeclarationError(f"got {show(forks)}; allowed: 2 or more", "forks")
    if not is_number(at) or not 0 < at < 1:
        raise DeclarationError(f"got {show(at)}; allowed: a share between 0 and 1, such as 0.8", "at")
    stored = opened(run, workload)
    steps = stored.end()
    step = min(max(math.floor(at * steps), stored.first), steps - 1)
    name = metric or f"{stored.workload.judged_split()}/loss"
    own = _metrics(stored)
    if name not in own:
        raise DeclarationError(f"there is no metric '{name}'; {nearest(name, own)}", "metric")
    values = []
    for number in range(forks):
        folder = None if out is None else Path(out) / f"fork-{number}"
        branch = branch_at(stored, step, stored.regime, folder, stored.seed + 1 + number)
        values.append(float(branch.train(progress=progress).metrics[name]))
    return LateForks(name, step, steps, float(own[name]), tuple(values))


def _metrics(stored: Stored) -> dict[str, float]:
    file = stored.path / "result.json"
    if not file.is_file():
        raise ResumeError(f"{stored.path} is not finished; allowed: a run that is")
    found: dict[str, float] = read_json(file)["metrics"]
    return found
