"""What one arm of a study gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from regimes.study.tasks import Outcome


@dataclass
class Arm:
    """One arm of a study.

    Parameters
    ----------
    name : str
    declared, chosen : Regime, or what else the subject trains
        As given, and as tuning left it.
    outcomes : list of Outcome
        One per seed, in the order of the study's seeds; a seed without one was not run.
    trials : list of Outcome
        The tuning trials.
    choosing : list of Outcome
        Of a study that is halved: runs of its rungs, on seeds that are never judged.
    rungs : list of dict
        How it fared in each: ``seeds`` so far, ``mean``, ``diverged``, ``place`` of ``of`` arms, ``stays``.
    """

    name: str
    declared: Any
    chosen: Any
    outcomes: list[Outcome]
    trials: list[Outcome]
    comparison: dict[str, Any] | None = field(default=None)
    choosing: list[Outcome] = field(default_factory=list)
    rungs: list[dict[str, Any]] = field(default_factory=list)

    def values(self, metric: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Final metric per outcome, or of these seeds; NaN where the run diverged, or gave nothing."""
        by_seed = {o.task.seed: o.metrics.get(metric, math.nan) for o in self.outcomes}
        return np.array(list(by_seed.values()) if seeds is None else [by_seed[s] for s in seeds], dtype=float)

    @property
    def seeds(self) -> list[int]:
        """Seeds that were run."""
        return [o.task.seed for o in self.outcomes]

    @property
    def failed(self) -> list[Outcome]:
        """Runs, trials included, that came to nothing for a reason that is not the regime's: the arm cannot be judged."""
        return [o for o in [*self.trials, *self.choosing, *self.outcomes] if o.failed]

    def mean(self, values: Sequence[float | None]) -> float | None:
        """Mean of what is known of its runs; None where nothing is."""
        found = [value for value in values if value is not None]
        return float(np.mean(found)) if found else None

    @property
    def seconds(self) -> float | None:
        """Mean measured seconds of a run."""
        return self.mean([o.seconds for o in self.outcomes])

    def mean_work(self, name: str) -> float | None:
        """Mean of one account of work."""
        return self.mean([o.work[name] for o in self.outcomes if o.work])
