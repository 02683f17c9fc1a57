"""The gap between arms against size: what the small sizes say of the large one, and whether it agrees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, show
from regimes.study.compare import compare
from regimes.study.design import is_number
from regimes.study.study import Study
from regimes.study.trends import Agreement, Rung, agreement
from regimes.study.verdicts import improvement, rank_diverged


class Ladder:
    """Studies of the same arms at several sizes.

    Parameters
    ----------
    sizes : sequence of float
    studies : sequence of Study
        One per size.
    level : float
    """

    def __init__(self, sizes: Sequence[float], studies: Sequence[Study], level: float) -> None:
        self.sizes, self.studies, self.level = tuple(sizes), tuple(studies), level

    def rungs(self, arm: str) -> list[Rung]:
        """The gap of an arm at each size at which its study judges it; runs that diverged count as worst, as there."""
        found = []
        for size, study in zip(self.sizes, self.studies):
            facts = study.to_dict()
            sides = {one["name"]: one for one in facts["arms"]}
            if sides[arm]["comparison"] is not None:
                found.append(_rung(size, sides[arm], sides[facts["baseline"]], facts))
        return found

    @property
    def arms(self) -> list[str]:
        """The arms but the baseline."""
        facts = self.studies[0].to_dict()
        return [arm["name"] for arm in facts["arms"] if arm["name"] != facts["baseline"]]

    def agreement(self, arm: str) -> Agreement | None:
        """Whether the largest size agrees with the others.

        None with fewer than two sizes of two seeds below it, and where a size was not judged, or runs of it diverged:
        a trend through the rest would reward an arm for failing.
        """
        rungs = self.rungs(arm)
        if len(rungs) < len(self.sizes):
            return None
        try:
            return agreement(rungs, self.level)
        except ValueError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        arms = {}
        for arm in self.arms:
            found = self.agreement(arm)
            rungs = [asdict(rung) for rung in self.rungs(arm)]
            arms[arm] = {"rungs": rungs, "agreement": None if found is None else asdict(found)}
        return {"sizes": list(self.sizes), "level": self.level, "arms": arms}

    def __str__(self) -> str:
        facts = self.studies[0].to_dict()
        said = []
        for arm in self.arms:
            gaps = ", ".join(map(_told, self.rungs(arm)))
            said.append(
                f"{arm} against {facts['baseline']} in {facts['metric']}: {gaps or 'never judged'}{self._trend(arm)}"
            )
        return "\n".join(said)

    def _trend(self, arm: str) -> str:
        found, rungs = self.agreement(arm), self.rungs(arm)
        unjudged = sorted(set(self.sizes) - {rung.size for rung in rungs})
        if unjudged:
            return f"; not judged at {', '.join(f'{size:g}' for size in unjudged)}, where runs failed: no trend"
        if any(rung.diverged for rung in rungs):
            return "; runs that diverged count as worst, which has a rank and no size: no trend"
        if found is None:
            return "; fewer than two sizes of two seeds below the largest: no trend"
        word = "agrees" if found.agrees else "does not agree"
        t = found.trend
        return (
            f"; the sizes below expect {t.expected:+.3g} [{t.low:+.3g}, {t.high:+.3g}] at {t.size:g}, {t.slope:+.2g} with "
            f"each doubling; the largest {word} (off by {found.off:+.3g} [{found.low:+.3g}, {found.high:+.3g}])"
        )


def _rung(size: float, arm: Mapping[str, Any], base: Mapping[str, Any], facts: Mapping[str, Any]) -> Rung:
    """The gap over the seeds that both have, runs that ended in no number ranked as the judge of a study ranks them."""
    lacking = {*arm["absent"], *base["absent"]}
    places = [place for place, seed in enumerate(facts["seeds"]) if seed not in lacking]
    mine, theirs = (
        [math.nan if one["values"][place] is None else one["values"][place] for place in places] for one in (arm, base)
    )
    ranked = rank_diverged(mine, theirs, facts["better"], facts["margin"])
    gains = improvement(ranked.arm, ranked.baseline, facts["better"])
    sd = float(gains.std(ddof=1)) if len(gains) > 1 else math.nan
    return Rung(size, float(gains.mean()), sd, len(gains), ranked.diverged)


def _told(rung: Rung) -> str:
    runs = f"{rung.n} seed{'s' * (rung.n > 1)}"
    if not rung.diverged:
        return f"{rung.gap:+.3g} at {rung.size:g} ({runs})"
    word = "no number" if math.isnan(rung.gap) else "better" if rung.gap > 0 else "worse" if rung.gap < 0 else "equal"
    return f"{word} at {rung.size:g} in rank ({runs}, {rung.diverged} of {2 * rung.n} runs diverged)"


def ladder(
    work: Callable[[Any], Any],
    arms: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]],
    *,
    sizes: Sequence[float],
    seeds: Sequence[int],
    margin: float,
    out: str | Path = "runs/ladder",
    **settings: Any,
) -> Ladder:
    """Compare the same arms at several sizes, many seeds where runs are cheap and few where they are not.

    Parameters
    ----------
    work : callable
        ``work(size)`` gives the workload of a size.
    arms : mapping, or callable
        Regimes by name, or ``arms(size)`` that gives them.
    sizes : sequence of float
        Rising: widths, parameters, tokens.
    seeds : sequence of int
        How many at each size, from 1; the gaps' intervals take them to be normally distributed.
    margin : float
        The smallest difference that matters.
    out : path
        A folder, with one study per size.
    **settings
        Further arguments of `regimes.compare`.

    Returns
    -------
    Ladder
        Print it; ``agreement(arm)`` says whether the largest size agrees with the trend below it.

    Raises
    ------
    DeclarationError
        Sizes that do not rise, another number of seeds than of sizes, and what `regimes.compare` refuses.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> base = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="12 steps")
    >>> found = ladder(
    ...     lambda size: rg.workloads.load("quadratic", examples=size),
    ...     {"base": base, "slow": base.but({"optimizer.lr": 0.05})},
    ...     sizes=[64, 128, 256], seeds=[6, 3, 1], margin=0.01, out=tempfile.mkdtemp(), progress=False,
    ... )
    >>> [rung.n for rung in found.rungs("slow")], found.agreement("slow") is not None
    ([6, 3, 1], True)
    """
    if (
        len(sizes) < 2
        or not all(map(is_number, sizes))
        or any(a >= b for a, b in zip(sizes, sizes[1:]))
        or sizes[0] <= 0
    ):
        raise DeclarationError(f"got {show(list(sizes))}; allowed: at least two rising sizes above 0", "sizes")
    if len(seeds) != len(sizes):
        raise DeclarationError(
            f"got {len(seeds)} for {len(sizes)} sizes; allowed: one number of seeds per size", "seeds"
        )
    if not callable(work):
        raise DeclarationError(
            f"got {show(work)}; allowed: a function that gives the workload of a size, such as "
            "lambda width: rg.workloads.load('char_lm', width=width)",
            "work",
        )
    studies: list[Study] = []
    for size, count in zip(sizes, seeds):
        given = arms(size) if callable(arms) else arms
        several = [study for study in studies if len(study.to_dict()["seeds"]) > 1]
        asked: dict[str, Any] = {
            "seeds": count,
            "margin": margin,
            "name": f"size {size:g}",
            "assume": "normal",
            **settings,
        }
        if count == 1 and several:
            asked["noise"] = several[-1]
        studies.append(compare(work(size), given, out=Path(out) / f"size-{size:g}", **asked))
    return Ladder(sizes, studies, float(settings.get("level", 0.95)))
