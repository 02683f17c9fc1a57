"""What a comparison asks, checked before anything is spent."""

from __future__ import annotations

import itertools
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show
from regimes.study import statistics
from regimes.study.halving import FINALISTS, Halving
from regimes.study.looks import Looks
from regimes.study.ranges import Range
from regimes.study.search import Search
from regimes.study.subject import Described, Subject
from regimes.study.tasks import TUNING_SEED

#: Seeds of a study that says nothing about them: all of one that runs to its end, the most of one that may stop.
SEEDS, MOST_SEEDS = 8, 24


@dataclass(frozen=True)
class Design:
    """What a comparison asks, checked.

    Parameters
    ----------
    baseline, metric, better, margin, seeds, level
        As `regimes.compare` has them, defaults filled in.
    equal : str or None
        At what the budgets are equal; None where nobody knows.
    tuning_metric : str
        What tuning reads.
    search : Search
        What is tuned, and where each trial is placed.
    names : tuple of str
        The arms.
    budget : str
        In words.
    notes : tuple of str
        What is allowed, but should be known.
    paired : bool
        Whether runs of one seed belong together.
    looks : Looks or None
        Where the study stops as soon as it is decided: at which numbers of seeds it looks.
    halving : Halving or None
        Where the worse half of the arms leaves after each rung: how many, on how many seeds.
    """

    baseline: str
    metric: str
    better: str
    margin: float
    seeds: tuple[Any, ...]
    search: Search
    equal: str | None
    level: float
    names: tuple[str, ...]
    budget: str
    tuning_metric: str
    notes: tuple[str, ...] = field(default=())
    paired: bool = True
    looks: Looks | None = None
    halving: Halving | None = None

    @property
    def ranges(self) -> dict[str, Range]:
        """What is tuned."""
        return self.search.ranges

    @property
    def comparisons(self) -> int:
        """Arms that are judged against the baseline."""
        return len(self.names) - 1 if self.halving is None else FINALISTS

    @property
    def runs(self) -> int:
        """Runs in all, tuning included; where a study may stop early, the most there may be."""
        if self.halving is not None:
            return self.halving.runs(len(self.seeds))
        return len(self.names) * (len(self.seeds) + self.trials)

    @property
    def trials(self) -> int:
        """Tuning trials of each arm."""
        return self.search.trials

    def record(self, subject: Described, arms: Mapping[str, Any]) -> dict[str, Any]:
        """Return the question as plain data: studies with equal ones are the same study."""
        own = ("baseline", "metric", "better", "margin", "equal", "level", "budget")
        return (
            {name: getattr(self, name) for name in own}
            | {
                "workload": subject.name,
                "data": subject.fingerprint(),
                "arms": {name: repr(declared) for name, declared in arms.items()},
                "tune": {pattern: repr(range_) for pattern, range_ in self.ranges.items()},
                "trials": self.trials,
                "search": self.search.name,
                "seeds": list(self.seeds),
            }
            | ({} if self.looks is None else {"looks": list(self.looks.sizes)})
            | ({} if self.halving is None else {"halving": list(self.halving.seeds)})
        )


def design_of(
    subject: Subject,
    arms: Mapping[str, Any],
    baseline: str | None,
    metric: str | None,
    better: str | None,
    margin: float,
    seeds: Any,
    tune: Mapping[str, Range],
    trials: int,
    equal: str | None,
    level: float,
    until: str | None = None,
    assume: str | None = None,
    search: str = "quasi",
) -> Design:
    """Check what a comparison asks, and return it; the parameters are those of `regimes.compare`.

    Raises
    ------
    DeclarationError
        Naming the key, before anything is spent.
    """
    if not isinstance(arms, Mapping) or not all(isinstance(name, str) for name in arms):
        raise DeclarationError(f"got {show(arms)}; allowed: a dict of names to regimes", "arms")
    arms = subject.arms(arms)
    first = check_question(list(arms), baseline, margin, level)
    if until not in (None, "decided", "halved"):
        raise DeclarationError(f"got {show(until)}; allowed: 'decided', 'halved', or nothing", "until")
    halving = _halving(len(arms) - 1, tune, trials) if until == "halved" else None
    listed = _seeds((MOST_SEEDS if until == "decided" else SEEDS) if seeds is None else seeds)
    check_assume(assume)
    if not assume and (len(listed) != 1 or until):  # one run each is no verdict, and is never called one
        try:
            statistics.refuse_too_few(len(listed), FINALISTS if halving else len(arms) - 1, level)
        except ValueError as why:
            raise DeclarationError(f"{why}; or 1, which gives no verdict", "seeds") from None
    full = subject.metric_name(metric)
    ranges = _ranges(tune, trials)
    direction = check_better(full, better)
    searched = Search(search, ranges, trials, direction)
    subject.check(arms, ranges, searched.laid_out)
    unit, text, notes = subject.budgets(arms, first, equal)
    return Design(
        baseline=first, metric=full, better=direction, margin=float(margin), seeds=listed, search=searched,
        equal=unit, level=float(level), names=tuple(arms), budget=text, tuning_metric=subject.tuning_metric(full),
        notes=(*notes, *_twins(arms)),
        looks=Looks.up_to(len(listed), float(level), len(arms) - 1) if until == "decided" else None, halving=halving,
    )  # fmt: skip


def _halving(arms: int, tune: Any, trials: Any) -> Halving:
    if tune or trials:
        raise DeclarationError(
            "got 'halved' with tuning trials; allowed: nothing tuned, because an arm that stays was also lucky in its "
            "trials, of which the intervals would know nothing: halve first, then tune what is left in a study of its own",
            "until",
        )
    try:
        return Halving(arms)
    except ValueError as why:
        raise DeclarationError(str(why), "arms") from None


def check_question(arms: list[str], baseline: str | None, margin: Any, level: Any) -> str:
    """Refuse a question that no runs could answer; return the baseline.

    Raises
    ------
    DeclarationError
        Fewer than two arms, a baseline that is none of them, a margin or a level that is none.
    """
    if len(arms) < 2:
        raise DeclarationError(f"got {len(arms)}; allowed: at least two arms to compare", "arms")
    first = baseline if baseline is not None else arms[0]
    if first not in arms:
        raise DeclarationError(f"there is no arm '{first}'; {nearest(str(first), arms)}", "baseline")
    if not is_number(margin) or not 0 < margin < math.inf:
        raise DeclarationError(f"got {show(margin)}; allowed: the smallest difference that matters, > 0", "margin")
    if not is_number(level) or not 0.2 <= level < 1:
        meant = f"; did you mean {1 - level:g}?" if is_number(level) and 0 < level < 0.2 else ""
        raise DeclarationError(
            f"got {show(level)}; allowed: a confidence between 0 and 1, such as 0.95{meant}", "level"
        )
    return first


def check_better(metric: str, better: str | None) -> str:
    """Return in which direction a metric is better: said, or known of a loss.

    Raises
    ------
    DeclarationError
        Another word, or none for a metric that is no loss.
    """
    if better is None and metric.endswith("loss") and not re.search(r"(^|[/_.])neg", metric):
        return "lower"
    if better not in ("lower", "higher"):
        if better is None:
            raise DeclarationError(
                f"say whether lower or higher {metric} is better; allowed: 'lower' or 'higher'", "better"
            )
        raise DeclarationError(f"got {show(better)}; allowed: 'lower' or 'higher'", "better")
    return better


def check_assume(assume: Any) -> None:
    """Refuse a word on how differences are distributed that is none.

    Raises
    ------
    DeclarationError
        Anything but "normal" and None.
    """
    if assume not in (None, "normal"):
        raise DeclarationError(f"got {show(assume)}; allowed: 'normal', or nothing", "assume")


def is_number(value: Any) -> bool:
    """Whether a value is a real number, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _seeds(seeds: Any) -> tuple[int, ...]:
    listed = range(seeds) if _whole(seeds) else seeds
    if isinstance(listed, Iterable) and not isinstance(listed, str | bytes | Mapping):
        found = tuple(listed)
        if all(_whole(seed) and 0 <= seed < TUNING_SEED for seed in found) and len(set(found)) == len(found):
            return tuple(map(int, found))
    raise DeclarationError(
        f"got {show(seeds)}; allowed: how many, or which: different whole numbers from 0, below {TUNING_SEED}", "seeds"
    )


def _ranges(tune: Any, trials: Any) -> dict[str, Range]:
    if not isinstance(tune, Mapping):
        raise DeclarationError(f"got {show(tune)}; allowed: a dict of path patterns to ranges", "tune")
    if not _whole(trials) or trials < 0:
        raise DeclarationError(f"got {show(trials)}; allowed: how many tuning trials per arm, 0 or more", "trials")
    if bool(tune) != bool(trials):
        raise DeclarationError(f"got {trials}; tune and trials stand together or not at all", "trials")
    for pattern, range_ in tune.items():
        if not isinstance(range_, Range):
            raise DeclarationError(
                f"got {show(range_)}; allowed: times(1/8, 8) or between(1e-4, 1e-2)", f"tune.{pattern}"
            )
    return dict(tune)


def _twins(arms: Mapping[str, Any]) -> list[str]:
    alike: dict[Any, list[str]] = {}
    for name, declared in arms.items():
        alike.setdefault(declared.hash, []).append(name)
    return [
        f"arms '{first}' and '{second}' are declared the same: one run serves both"
        for names in alike.values()
        for first, second in itertools.combinations(names, 2)
    ]
