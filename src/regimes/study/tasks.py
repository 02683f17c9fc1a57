"""The runs of a study: what one asks, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Seeds of tuning trials: a comparison counts its own seeds from 0 and never comes here.
TUNING_SEED = 1_000_000
#: The first of the seeds by which a study that is halved chooses its arms: a comparison and a trial never come here.
CHOOSING_SEED = 2_000_000


@dataclass(frozen=True)
class Task:
    """One run of a study.

    Parameters
    ----------
    arm : str
    declared : Regime, or what else the subject trains
    seed : int
    trial : int or None
        Number of the tuning trial; None for a seed of the comparison.
    shares : dict of str to float
        Of a trial: its place in each range.
    """

    arm: str
    declared: Any
    seed: Any
    trial: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """In words."""
        if self.trial is not None:
            return f"trial {self.trial}"
        return f"rung {self.seed - CHOOSING_SEED}" if self.chooses else f"seed {self.seed}"

    @property
    def chooses(self) -> bool:
        """Whether it chooses among the arms of a study that is halved, and is never judged."""
        return isinstance(self.seed, int) and self.seed >= CHOOSING_SEED

    @property
    def content(self) -> tuple[str, Any]:
        """What is trained, whoever asks for it: tasks of one content share one run."""
        return self.declared.hash, self.seed


class UnderWay(NamedTuple):
    """How far runs are that have not ended: how many runs what has been done of them makes."""

    runs: float


@dataclass
class Outcome:
    """What one task gave: values, or a sentence why there are none.

    Parameters
    ----------
    metrics : dict
        Final metrics; empty where the run did not end.
    curve : list of dict
        Records that hold a validation: position, metrics.
    inside : list of dict
        A thinned course of training loss and probes.
    work, steps, tokens, seconds
        What it took; empty or None where nobody counted.
    failure : str or None
        Why there is no metric.
    diverged : bool
        Whether it was the training that gave up (a result, the worst there is). Otherwise a failure is one of the
        machine or of somebody's code: it says nothing about the regime, and is never a value.
    traceback : str or None
        Of a failure.
    unread : bool
        Whether the run ended well, but its metric is not where it is looked for. Where no run has left one yet, none
        will: the study ends before the others are spent.
    """

    task: Task
    metrics: dict[str, float]
    curve: list[dict[str, Any]]
    inside: list[dict[str, Any]]
    work: dict[str, Any]
    steps: int | None
    tokens: int | None
    seconds: float | None
    key: str
    reused: bool
    failure: str | None = None
    peak_memory: int | None = None
    diverged: bool = False
    traceback: str | None = None
    unread: bool = False

    @classmethod
    def without_value(cls, task: Task, failure: str, seconds: float = 0.0, **facts: Any) -> Outcome:
        """Return the outcome of a run that gave nothing."""
        return cls(task, {}, [], [], {}, 0, 0, seconds, "", False, failure=failure, **facts)

    @property
    def failed(self) -> bool:
        """Whether the run came to nothing for a reason that is not the regime's."""
        return self.failure is not None and not self.diverged
