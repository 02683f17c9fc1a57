"""From rows to runs: the arm and the seed of each, its metric by step, and the step at which all are judged."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show
from regimes.study.design import is_number
from regimes.study.foreign.rows import Rows, number_of

#: A text that is a whole number as people write one: no zeros before it.
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0*)?")


@dataclass(frozen=True)
class Run:
    """One run: its arm, its seed (or number), and its metric by step (step 0 where there are none)."""

    arm: str
    seed: Any
    course: dict[Any, float]


def seed_of(content: Any) -> Any:
    """Return a seed as a number where it is a whole one, however it is written; else as a text of its own.

    Examples
    --------
    >>> seed_of(3), seed_of("3"), seed_of(3.0), seed_of("3.0"), seed_of("003"), seed_of("a")
    (3, 3, 3, 3, '003', 'a')
    """
    if is_number(content):
        return int(content) if math.isfinite(content) and content == int(content) else float(content)
    whole = _WHOLE.fullmatch(str(content))
    return int(whole[1]) if whole else str(content)


class Reader:
    """Reads runs from rows; `said` is what should be known of them afterwards.

    Raises
    ------
    DeclarationError
        A column that is not there, a word on NaN that is none.
    """

    def __init__(
        self, found: Rows, arm: str, metric: str, seed: str | None, step: str | None, nan: str | None
    ) -> None:  # fmt: skip
        for key, column in (("arm", arm), ("metric", metric), ("seed", seed), ("step", step)):
            if column is not None and column not in found.columns:
                raise DeclarationError(f"there is no column '{column}'; {nearest(str(column), found.columns)}", key)
        if nan not in (None, "diverged", "missing"):
            raise DeclarationError(f"got {show(nan)}; allowed: 'diverged' or 'missing'", "nan")
        self.rows = found.rows
        self.arm, self.metric, self.seed, self.step, self.nan = arm, metric, seed, step, nan
        self.said: list[str] = []

    def runs(self) -> list[Run]:
        """Return the runs, in the order in which they occur.

        Raises
        ------
        DeclarationError
            Cells that are no numbers, or empty, where they must not be; two rows for one run.
        """
        courses: dict[tuple[str, Any], dict[Any, float]] = {}
        empty: dict[tuple[str, Any], None] = {}
        broken: dict[tuple[str, Any], None] = {}
        for place, at, row in self._once():
            value = self._value(row)
            if value is not None:
                courses.setdefault(place, {})[at] = value
            else:
                (broken if self._breaks(row) else empty)[place] = None
        self._tell(f"left out as a whole, because {self.metric} is NaN at some step", broken)
        lacking = [place for place in empty if place not in courses and place not in broken]
        self._tell(f"without a value of {self.metric}, and left out", lacking)
        return [Run(*place, course) for place, course in courses.items() if place not in broken]

    def _breaks(self, row: Mapping[str, Any]) -> bool:
        """Whether a curve without this point would be judged at what was before its run failed: a NaN, no empty cell."""
        return self.step is not None and number_of(row.get(self.metric)) is not None

    def _tell(self, why: str, places: Iterable[tuple[str, Any]]) -> None:
        named = sorted(f"{arm}, {self._label(seed)}" for arm, seed in places)
        if named:
            self.said.append(f"{why}: {'; '.join(named)}")

    def _once(self) -> list[tuple[tuple[str, Any], Any, Mapping[str, Any]]]:
        """Arm and seed, step, and row of every row that counts: one that stands there twice counts once, and is told."""
        found: dict[Any, tuple[tuple[str, Any], Any, Mapping[str, Any]]] = {}
        repeated = 0
        for number, row in enumerate(self.rows):
            place, empty = self._place(number, row), self._value(row) is None
            curve = self.step is not None
            at = 0 if not curve or empty else self._step(row)
            # A row without a value may be another metric's of the same step.
            key = (place, number, "") if curve and empty else (place, at)
            earlier = found.setdefault(key, (place, at, row))[2]
            if earlier is row:
                continue
            if repr(earlier) != repr(row):
                self._twice(place, at)
            repeated += 1
        if repeated:
            several = "a row stands" if repeated == 1 else f"{repeated} rows stand"
            self.said.append(f"{several} there once more, alike in all columns, and count{'s' * (repeated == 1)} once")
        self._refuse_alike()
        self._refuse_mixed([one for one in found.values() if self._value(one[2]) is not None])
        return list(found.values())

    def _refuse_alike(self) -> None:
        """Without seeds and steps nothing tells a row that was copied from a run that ended alike."""
        if self.seed is not None or self.step is not None:
            return
        seen: dict[str, int] = {}
        for number, row in enumerate(self.rows):
            earlier = seen.setdefault(repr(row), number)
            if earlier != number and self._value(row) is not None:
                raise DeclarationError(
                    f"rows {earlier} and {number} are alike in all columns: one run that was copied, or two that ended "
                    "alike? leave one out, or add a column that numbers the runs",
                    "frame",
                )

    def _refuse_mixed(self, rows: Sequence[tuple[tuple[str, Any], Any, Mapping[str, Any]]]) -> None:
        """Refuse a curve that is woven of two runs by name; tell one that is joined of them end to end."""
        if self.step is None or "run" in (self.arm, self.seed):
            return
        steps: dict[tuple[str, Any], dict[str, list[Any]]] = {}
        for place, at, row in rows:
            if row.get("run") is not None:
                steps.setdefault(place, {}).setdefault(str(row["run"]), []).append(at)
        for (arm, seed), runs in steps.items():
            ordered = sorted(runs, key=lambda run: min(runs[run]))
            named = f"arm '{arm}', {self._label(seed)} has rows of several runs ({', '.join(ordered)})"
            if any(max(runs[one]) >= min(runs[other]) for one, other in zip(ordered, ordered[1:])):
                raise DeclarationError(f"{named}, one beside another; choose rows with where=", "frame")
            if len(ordered) > 1:
                self.said.append(f"{named}, read as one: each goes on where the one before ended")

    def _place(self, number: int, row: Mapping[str, Any]) -> tuple[str, Any]:
        arm = row.get(self.arm)
        seed = row.get(self.seed) if self.seed is not None else self._unnamed(number, row)
        for key, value in ((self.arm, arm), (self.seed, seed)):
            if value is None or value != value:
                raise DeclarationError(
                    f"row {number} says nothing in column '{key}'; leave it out with where=", "frame"
                )
        return str(arm), seed if self.seed is None else seed_of(seed)

    def _unnamed(self, number: int, row: Mapping[str, Any]) -> Any:
        """What tells runs apart that have no seed: the row, or the run's name among curves."""
        if self.step is None:
            return number
        if row.get("run") is None:
            raise DeclarationError(
                "a table of curves without seeds needs a column 'run' that tells its runs apart", "seed"
            )
        return str(row["run"])

    def _label(self, seed: Any) -> str:
        return f"row {seed}" if self.seed is None and self.step is None else f"seed {seed}"

    def _step(self, row: Mapping[str, Any]) -> Any:
        found = number_of(row.get(self.step))  # type: ignore[arg-type]
        if not is_number(found):
            raise DeclarationError(f"got {show(found)} in column '{self.step}'; allowed: a number", "step")
        return found

    def _value(self, row: Mapping[str, Any]) -> float | None:
        value = number_of(row.get(self.metric))
        if value is None:
            return None
        if not is_number(value):
            comma = isinstance(value, str) and is_number(number_of(value.replace(",", ".", 1)))
            hint = ", with a point before the decimals" if comma else ""
            raise DeclarationError(f"got {show(value)} in column '{self.metric}'; allowed: numbers{hint}", "metric")
        if not math.isnan(value):
            return float(value)
        if self.nan is None:
            raise DeclarationError(
                f"column '{self.metric}' holds NaN; say what it means: 'diverged' (counts as the worst) or 'missing' "
                "(left out, which flatters an arm whose runs fail)",
                "nan",
            )
        return math.nan if self.nan == "diverged" else None

    def _twice(self, place: tuple[str, Any], at: Any) -> None:
        arm, seed = place
        if self.step is None:
            hint = "name the column of the steps (step=) if rows are points of a curve, or choose rows with where="
        else:
            hint = "choose rows with where="
        at_step = "" if self.step is None else f" at step {at}"
        raise DeclarationError(f"arm '{arm}' has two rows for {self._label(seed)}{at_step}; {hint}", "frame")


def judged_at(runs: Sequence[Run], at: str | int | None) -> tuple[Any, list[str]]:
    """Return the step at which all runs are judged, None for each at its own last; and what to say of it.

    Raises
    ------
    DeclarationError
        Runs of unequal length without a word on where they are judged, a step that not all have.
    """
    ends = sorted({max(run.course) for run in runs})
    if at not in (None, "last", "common") and not is_number(at):
        raise DeclarationError(f"got {show(at)}; allowed: 'last', 'common' or a step", "at")
    if len(ends) == 1 and at in (None, "last", "common"):
        return ends[0], []
    common = set.intersection(*(set(run.course) for run in runs))
    if at is None:
        shared = f" ({max(common):g})" if common else ", of which there is none"
        raise DeclarationError(
            f"runs end between step {ends[0]:g} and {ends[-1]:g}; say 'common' (all at the last step that all have"
            f"{shared}), 'last' (each at its own end, so at unequal budgets) or a step",
            "at",
        )
    if at == "last":
        return None, [f"runs end between step {ends[0]:g} and {ends[-1]:g}, and each is judged at its own end"]
    wanted = max(common, default=None) if at == "common" else at
    lacking = [run for run in runs if wanted not in run.course]
    if lacking:
        raise DeclarationError(f"run {lacking[0].arm}, seed {lacking[0].seed}, has no value at step {wanted}", "at")
    return wanted, [f"judged at step {wanted:g}; runs end between step {ends[0]:g} and {ends[-1]:g}"]


def diverged_later(runs: Sequence[Run], position: Any) -> list[str]:
    """Say of each arm how many runs hold NaN only after the step at which all are judged.

    Examples
    --------
    >>> diverged_later([Run("a", 0, {1: 2.0, 2: 1.9}), Run("b", 0, {1: 1.5, 2: math.nan})], 1)
    ['1 run of b holds NaN later: it diverged after the step at which it is judged']
    """
    if position is None:
        return []
    later = Counter(run.arm for run in runs if not math.isnan(run.course[position]) and _nan_after(run, position))
    return [
        f"1 run of {arm} holds NaN later: it diverged after the step at which it is judged"
        if count == 1
        else f"{count} runs of {arm} hold NaN later: they diverged after the step at which they are judged"
        for arm, count in later.items()
    ]


def _nan_after(run: Run, position: Any) -> bool:
    return any(math.isnan(value) for at, value in run.course.items() if at > position)
