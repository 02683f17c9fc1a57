"""What the arms of a study are tried on: a workload of ours, somebody's command, or runs that are finished."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from regimes.study.ranges import Range
    from regimes.study.tasks import Outcome, Task, UnderWay


class Described(Protocol):
    """What a study says of where its values come from; runs that are finished need no more than this."""

    @property
    def name(self) -> str:
        """Of the workload, the command or the file."""

    def fingerprint(self) -> dict[str, str]:
        """Digests of what was trained on."""

    def facts(self, budget: str) -> dict[str, Any]:
        """``parameters`` (None where unknown) and ``scale``, in words."""

    def environment(self) -> dict[str, Any]:
        """Versions and machine."""

    def arm_facts(self, chosen: Any, baseline: Any) -> dict[str, Any]:
        """``regime`` as text, ``diff`` to the baseline's, ``schedules`` and ``citations`` of an arm."""

    def promise(self) -> str | None:
        """What cannot be promised of these runs; None where they are ours and exact."""


class Subject(Described, Protocol):
    """What a comparison can train: everything that depends on who trains, the rest of a study is the same."""

    def arms(self, arms: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arms as what is trained, or refuse what cannot be."""

    def metric_name(self, metric: Any) -> str:
        """Return the metric's full name (None: the usual one), or refuse it."""

    def tuning_metric(self, metric: str) -> str:
        """Return what tuning reads: never what a verdict is about, where there is a choice."""

    def check(self, arms: Mapping[str, Any], ranges: Mapping[str, Range], points: Sequence[dict[str, float]]) -> None:
        """Refuse arms that cannot be trained, before anything is spent."""

    def budgets(self, arms: Mapping[str, Any], baseline: str, equal: str | None) -> tuple[str | None, str, list[str]]:
        """Return the unit in which budgets are equal (None: not known), the amount in words, and notes."""

    def tuned(self, declared: Any, ranges: Mapping[str, Range], shares: Mapping[str, float]) -> Any:
        """Return an arm with every tuned knob at its share of its range."""

    def tuned_values(self, declared: Any, patterns: Sequence[str]) -> dict[str, float]:
        """Return the tuned knobs' values in an arm."""

    def kept(self) -> AbstractContextManager[Any]:
        """Inside, what does not change from run to run is read once."""

    def placed(self, worker: int) -> None:
        """Take a worker's share of the machine's devices."""

    @property
    def together(self) -> int:
        """How many tasks it trains side by side, at most."""

    def train_all(self, tasks: Sequence[Task], store: Path) -> Iterator[Outcome | UnderWay]:
        """Train tasks of different content in the store, or find them there finished; yield each outcome as it comes.

        In between it may tell how far the others are.

        What fails becomes an outcome.
        """


def package_version() -> dict[str, str]:
    """Return what every study's environment names."""
    return {
        "python": platform.python_version(),
        "regimes": version("regimes"),
        "platform": platform.platform(terse=True),
    }
