"""Which re-runs would settle most for least: the open comparisons in the order of decisions per second."""

from __future__ import annotations

import itertools
import math
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regimes.study import statistics
from regimes.study.arms import Arm
from regimes.study.audit.gathered import Group, PastRun
from regimes.study.audit.implied import Implied
from regimes.study.earlier import PRICE
from regimes.study.places import study_command, typed

#: What re-runs of a comparison that was judged cost, and what does not cost it.
KEEPS_LEVEL = (
    f"re-runs are added to comparisons whose verdict is known: {PRICE}; where that matters, a new study on as many other "
    "seeds, or one that looks by plan from the start (until decided), keeps the level"
)
#: A run that is to be made: the number of its group, the hash of its regime, its seed.
Needed = tuple[int, str, int]


@dataclass(frozen=True)
class Rerun:
    """Runs that would settle something.

    Parameters
    ----------
    settles : list of Implied
        What is decided once they are made, if means and spreads stay as they are.
    runs : list of (Arm, seeds)
    seconds : float
        Measured, of runs like these.
    assumed : bool
        Whether the spread was taken from other comparisons, or is not known at all.
    commands : list of str
        What to type; empty where nobody knows.
    """

    settles: list[Implied]
    runs: list[tuple[Arm, list[int]]]
    seconds: float
    assumed: bool
    commands: list[str]


def propose(open_: Sequence[Implied], groups: Sequence[Group]) -> list[Rerun]:
    """Return re-runs, most comparisons decided per second first; runs that an earlier one made cost nothing again.

    Parameters
    ----------
    open_ : sequence of Implied
        All comparisons; those that are decided need nothing.
    groups : sequence of Group
    """
    needs = {place: _needs(one, open_, groups) for place, one in enumerate(open_)}
    left = {place: runs for place, runs in needs.items() if runs}
    price = {
        run: _seconds(one.arm if run[1] == one.arm.name else one.base)
        for place, one in enumerate(open_)
        for run in needs[place]
    }
    return [
        _rerun([open_[place] for place in settled], new, math.fsum(price[run] for run in new), groups)
        for new, settled in _greedy(left, price)
    ]


def _greedy(needs: Mapping[int, set[Needed]], price: Mapping[Needed, float]) -> Iterator[tuple[set[Needed], list[int]]]:
    """Yield runs to make, and what they settle: each time those that settle most per second, then those of the least price.

    What a choice touches is counted again, and nothing else: there are as many comparisons as pairs of regimes.
    """
    left = {place: set(runs) for place, runs in needs.items()}
    needing: dict[Needed, set[int]] = {}
    for place, runs in left.items():
        for run in runs:
            needing.setdefault(run, set()).add(place)
    cost, above, settles = dict[int, float](), dict[int, set[int]](), Counter[int]()

    def count(place: int) -> None:
        cost[place] = math.fsum(price[run] for run in left[place])
        # Whoever makes all runs that these need settles this one, too.
        above[place] = set.intersection(*(needing[run] for run in left[place]))
        settles.update(above[place])

    for place in left:
        count(place)
    while left:
        new = left[min(left, key=lambda place: (-settles[place] / max(cost[place], 1e-9), cost[place]))]
        touched = set().union(*(needing.pop(run) for run in new))
        settled = [place for place in left if place in touched and left[place] <= new]
        for place in touched:
            settles.subtract(above.pop(place))
            left[place] = left[place] - new
        yield new, settled
        for place in settled:
            del left[place]
        for place in touched.difference(settled):
            count(place)


def _needs(one: Implied, others: Sequence[Implied], groups: Sequence[Group]) -> set[Needed]:
    """The runs that would decide a comparison; none where it is decided, or seeds are no remedy."""
    more = more_seeds(one, others)
    if not more:
        return set()
    number = next(place for place, group in enumerate(groups) if group is one.group)
    arms = {arm.name: set(arm.seeds) for arm in (one.base, one.arm)}
    common = set(one.seeds)
    highest = max((max(seeds, default=0) for seeds in arms.values()), default=0) + more + 1
    free = [seed for seed in range(highest) if seed not in common]
    # A seed that one of the two has already costs one run.
    free.sort(key=lambda seed: (sum(seed not in seeds for seeds in arms.values()), seed))
    return {(number, name, seed) for seed in free[:more] for name, seeds in arms.items() if seed not in seeds}


def more_seeds(one: Implied, others: Sequence[Implied]) -> int | None:
    """How many more common seeds would decide a comparison, if mean and spread stay as they are.

    Of a single pair the spread is not known: it is taken to be the median of the other comparisons of the group with
    the same metric. Where there is none, or no common seed, it is the least number with which anything can be shown.
    """
    found = one.comparison
    if found is not None and len(one.seeds) > 1:
        return found["more_seeds"] if found["verdict"] == "undecided" else 0
    k = max(sum(bool(other.seeds) for other in others), 1)
    least = statistics.least_seeds(one.design.level, k) - len(one.seeds)
    spread = _spread(one, others)
    if found is None or spread is None or not np.isfinite(one.gains()).all():
        return least
    alone = statistics.Interval(float(one.gains()[0]), -np.inf, np.inf, spread, 1, one.design.level, k)
    return statistics.seeds_to_decide(alone, one.design.margin)


def _spread(one: Implied, others: Sequence[Implied]) -> float | None:
    near = [other for other in others if other.group is one.group and other.design.metric == one.design.metric]
    spreads = [float(np.std(other.gains(), ddof=1)) for other in near if len(other.seeds) > 1]
    known = [spread for spread in spreads if np.isfinite(spread) and spread > 0]
    return float(np.median(known)) if known else None


def _seconds(arm: Arm) -> float:
    return arm.seconds or 0.0


def _rerun(settles: list[Implied], new: set[Needed], seconds: float, groups: Sequence[Group]) -> Rerun:
    runs, commands = [], list[str]()
    for (number, name), members in itertools.groupby(sorted(new), key=lambda run: run[:2]):
        group, seeds = groups[number], [seed for _, _, seed in members]
        arm = next(arm for one in settles for arm in (one.base, one.arm) if arm.name == name and one.group is group)
        runs.append((arm, seeds))
        commands += command(group.of(arm), seeds)
    assumed = any(len(one.seeds) < 2 for one in settles)
    return Rerun(settles, runs, seconds, assumed, list(dict.fromkeys(commands)))


def command(runs: Sequence[PastRun], seeds: Sequence[int]) -> list[str]:
    """What to type to train a regime on more seeds: as one of its runs was made; nothing where that was no command.

    A run of a study is made by its study, with more seeds; one of ``regimes run`` by the same line under other seeds.
    """
    for run in runs:
        lines = _studied(run, seeds) if run.study else _again(run, seeds)
        if lines:
            return [_in(run.declared.get("directory"), line) for line in lines]
    return []


def _studied(run: PastRun, seeds: Sequence[int]) -> list[str]:
    words = shlex.split(study_command(Path(str(run.study))))
    if words[:2] != ["regimes", "compare"]:
        return []
    return [shlex.join([*_without(words, "--seeds"), "--seeds", str(max(*seeds, run.seed) + 1)])]


def _again(run: PastRun, seeds: Sequence[int]) -> list[str]:
    given = run.declared.get("command")
    words = shlex.split(typed([str(word) for word in given])) if isinstance(given, list) else []
    if words[:2] != ["regimes", "run"]:
        return []
    line = _without(_without(words, "--seed"), "--out")
    stem = run.path.name.removesuffix(f"-seed{run.seed}")
    folder = run.path.resolve().parent
    return [shlex.join([*line, "--seed", str(s), "--out", str(folder / f"{stem}-seed{s}")]) for s in seeds]


def _without(words: Sequence[str], option: str) -> list[str]:
    """Words of a command without one of its options and the option's value."""
    kept, skip = list[str](), False
    for word in words:
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option and not skip
    return kept


def _in(directory: Any, line: str) -> str:
    """The line, from the folder in which it was typed."""
    here = not isinstance(directory, str) or Path(directory).resolve() == Path(os.getcwd())
    return line if here else f"cd {shlex.quote(str(directory))} && {line}"


def told(reruns: Iterable[Rerun]) -> list[dict[str, Any]]:
    """Re-runs as plain data."""
    return [
        {
            "settles": [one.changes for one in rerun.settles],
            "contexts": [one.context for one in rerun.settles],
            "runs": [{"regime": repr(arm.declared), "seeds": seeds} for arm, seeds in rerun.runs],
            "seconds": rerun.seconds,
            "assumed": rerun.assumed,
            "commands": rerun.commands,
        }
        for rerun in reruns
    ]
