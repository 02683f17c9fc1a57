"""The gap between arms against size: what the small sizes say of the large one, and whether it agrees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regimes.core.errors import DeclarationError, show
from regimes.study.compare import compare
from regimes.study.design import is_number
from regimes.study.intervals import check_level
from regimes.study.study import Study


@dataclass(frozen=True)
class Rung:
    """The gap of one arm at one size.

    Parameters
    ----------
    size : float
    gap : float
        Mean improvement over the baseline.
    sd : float
        Of the paired differences; NaN for a single seed.
    n : int
        Paired seeds.
    """

    size: float
    gap: float
    sd: float
    n: int


@dataclass(frozen=True)
class Trend:
    """What the rungs below say of a size.

    Parameters
    ----------
    size, expected : float
        The size, and the gap that the trend expects there.
    low, high : float
        Interval of the expected gap.
    slope : float
        Change of the gap when the size doubles.
    level : float
    """

    size: float
    expected: float
    low: float
    high: float
    slope: float
    level: float


def extrapolated(rungs: Sequence[Rung], size: float, level: float = 0.95) -> Trend:
    r"""Return the gap that a straight line in log size through the rungs expects at another size, with its interval.

    Each rung counts by its seeds. The expected gap is a weighted sum of the rungs' mean gaps, ``sum w_i g_i``, so its
    variance is ``V = sum w_i^2 s_i^2 / n_i`` and its interval has Student's t with Welch-Satterthwaite's
    ``df = V^2 / sum (w_i^2 s_i^2 / n_i)^2 / (n_i - 1)``. It holds what the noise of runs leaves open, not that the line
    may bend: at most one decade beyond the largest rung is sensible.

    Parameters
    ----------
    rungs : sequence of Rung
        At least two sizes, two seeds each.
    size : float
    level : float

    Raises
    ------
    ValueError
        Fewer than two sizes, a rung of one seed, a level outside (0, 1).

    References
    ----------
    Welch, "The generalization of Student's problem", 1947.

    Examples
    --------
    >>> rungs = [Rung(1e5, 0.08, 0.01, 8), Rung(1e6, 0.06, 0.01, 5)]
    >>> found = extrapolated(rungs, 1e7)
    >>> round(found.expected, 3), round(found.low, 3), round(found.high, 3), round(found.slope, 4)
    (0.04, 0.016, 0.064, -0.006)
    """
    line = _Line.through(rungs, size)
    half = line.half(level)
    return Trend(size, line.expected, line.expected - half, line.expected + half, line.slope, level)


@dataclass(frozen=True)
class _Line:
    """A straight line through rungs, read at a size: expected gap, slope, and the parts of the gap's variance."""

    expected: float
    slope: float
    parts: NDArray[np.float64]
    freedom: NDArray[np.float64]

    @classmethod
    def through(cls, rungs: Sequence[Rung], size: float) -> _Line:
        if len({rung.size for rung in rungs}) < 2 or any(rung.n < 2 for rung in rungs):
            raise ValueError("rungs: allowed: at least two sizes, with two seeds or more at each")
        x = np.log2([rung.size for rung in rungs])
        n, sd, gaps = (np.array([getattr(rung, name) for rung in rungs], dtype=float) for name in ("n", "sd", "gap"))
        middle = float(n @ x / n.sum())
        slopes = n * (x - middle) / float(n @ (x - middle) ** 2)
        weights = n / n.sum() + slopes * (math.log2(size) - middle)
        return cls(float(weights @ gaps), float(slopes @ gaps), weights**2 * sd**2 / n, n - 1)

    def half(self, level: float, own: float = 0.0, df: float = 1.0) -> float:
        """Half-width of the interval; `own` is a variance on top, with `df` degrees of freedom."""
        from scipy import special

        check_level(level)
        parts, freedom = np.append(self.parts, own), np.append(self.freedom, df)
        total = float(parts.sum())
        if not total:
            return 0.0
        return -float(special.stdtrit(total**2 / float((parts**2 / freedom).sum()), (1 - level) / 2)) * math.sqrt(total)


@dataclass(frozen=True)
class Agreement:
    """Whether the run at the largest size agrees with the trend below it.

    Parameters
    ----------
    trend : Trend
        What the smaller sizes expect.
    rung : Rung
        What the largest gave.
    off : float
        The difference of the two.
    low, high : float
        Interval of that difference: of the trend's noise and of the rung's own, of which one of a single seed is lent
        the largest sd below it.
    agrees : bool
        Whether it holds 0.
    """

    trend: Trend
    rung: Rung
    off: float
    low: float
    high: float
    agrees: bool


def agreement(rungs: Sequence[Rung], level: float = 0.95) -> Agreement:
    """Hold the largest rung against the line through the others.

    Raises
    ------
    ValueError
        As `extrapolated`, of the others.

    Examples
    --------
    >>> rungs = [Rung(1e5, 0.08, 0.01, 8), Rung(1e6, 0.06, 0.01, 5), Rung(1e7, 0.05, float("nan"), 1)]
    >>> found = agreement(rungs)
    >>> round(found.off, 3), round(found.low, 3), round(found.high, 3), found.agrees
    (0.01, -0.02, 0.04, True)
    """
    *below, last = sorted(rungs, key=lambda rung: rung.size)
    trend, line = extrapolated(below, last.size, level), _Line.through(below, last.size)
    lent = max(below, key=lambda rung: rung.sd)
    sd, df = (last.sd, last.n - 1) if last.n > 1 else (lent.sd, lent.n - 1)
    half, off = line.half(level, sd**2 / last.n, df), last.gap - trend.expected
    return Agreement(trend, last, off, off - half, off + half, abs(off) <= half)


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
        """The gap of an arm at each size, from the pairs that ended in a number."""
        found = []
        for size, study in zip(self.sizes, self.studies):
            facts = study.to_dict()
            sides = {one["name"]: one["values"] for one in facts["arms"]}
            pairs = [(a, b) for a, b in zip(sides[arm], sides[facts["baseline"]]) if a is not None and b is not None]
            sign = 1.0 if facts["better"] == "higher" else -1.0
            gains = sign * np.array([a - b for a, b in pairs])
            if len(gains):
                sd = float(gains.std(ddof=1)) if len(gains) > 1 else math.nan
                found.append(Rung(size, float(gains.mean()), sd, len(gains)))
        return found

    @property
    def arms(self) -> list[str]:
        """The arms but the baseline."""
        facts = self.studies[0].to_dict()
        return [arm["name"] for arm in facts["arms"] if arm["name"] != facts["baseline"]]

    def agreement(self, arm: str) -> Agreement | None:
        """Whether the largest size agrees with the others; None with fewer than two sizes of two seeds below it."""
        try:
            return agreement(self.rungs(arm), self.level)
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
            gaps = ", ".join(f"{r.gap:+.3g} at {r.size:g} ({r.n} seed{'s' * (r.n > 1)})" for r in self.rungs(arm))
            said.append(f"{arm} against {facts['baseline']} in {facts['metric']}: {gaps}{self._trend(arm)}")
        return "\n".join(said)

    def _trend(self, arm: str) -> str:
        found = self.agreement(arm)
        if found is None:
            return "; fewer than two sizes of two seeds below the largest: no trend"
        word = "agrees" if found.agrees else "does not agree"
        t = found.trend
        return (
            f"; the sizes below expect {t.expected:+.3g} [{t.low:+.3g}, {t.high:+.3g}] at {t.size:g}, {t.slope:+.2g} with "
            f"each doubling; the largest {word} (off by {found.off:+.3g} [{found.low:+.3g}, {found.high:+.3g}])"
        )


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
