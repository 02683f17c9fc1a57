"""One run each: no verdict, but a true sentence, with noise that was seen elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regimes.core.errors import DeclarationError, show
from regimes.study.folders import told_by
from regimes.study.verdicts import improvement

#: The fewest paired seeds whose noise is lent.
LEAST = 3


@dataclass(frozen=True)
class Noise:
    """How much paired differences varied in a study of several seeds.

    Parameters
    ----------
    sd : float
        Standard deviation of the paired differences; of several arms the root of the mean variance.
    df : int
        Its degrees of freedom: seeds less one. Arms share their baseline, so more arms count for no more.
    where : str
        At which scale, and in which study.
    """

    sd: float
    df: int
    where: str

    def chance(self, difference: float) -> float:
        """Return how often noise alone is as large: two-sided, of Student's t with `df` degrees of freedom.

        A single difference of noise, over an sd that n other differences gave, is distributed as t with n - 1.

        Examples
        --------
        >>> round(Noise(0.01, 7, "").chance(0.02), 4)
        0.0856
        """
        from scipy import special

        if self.sd == 0:
            return 0.0 if difference else 1.0
        return float(2 * special.stdtr(self.df, -abs(difference) / self.sd))


def noise_of(facts: Mapping[str, Any], arm: str | None = None) -> Noise | None:
    """Return the noise of a study's paired differences: of the arm of that name, else of all; None where there is none.

    Seeds on which a run diverged lend nothing.

    Examples
    --------
    >>> arms = [{"name": "sgd", "values": [2.0, 2.1, 2.2]}, {"name": "muon", "values": [1.9, 2.05, 2.0]}]
    >>> facts = {"name": "small", "baseline": "sgd", "better": "lower", "arms": arms, "paired": True,
    ...          "workload": {"scale": "0.10 M parameters"}}
    >>> found = noise_of(facts)
    >>> round(found.sd, 4), found.df, found.where
    (0.0764, 2, '0.10 M parameters (3 seeds of small)')
    """
    if not facts.get("paired", True):
        return None
    base = next(one for one in facts["arms"] if one["name"] == facts["baseline"])
    found = {}
    for one in facts["arms"]:
        pairs = [(a, b) for a, b in zip(one["values"], base["values"]) if a is not None and b is not None]
        if one is not base and len(pairs) >= LEAST:
            mine, theirs = np.array(pairs).T
            found[one["name"]] = improvement(mine, theirs, facts["better"])
    lent = [found[arm]] if arm in found else list(found.values())
    if not lent:
        return None
    n = min(map(len, lent))
    sd = math.sqrt(float(np.mean([d.var(ddof=1) for d in lent])))
    return Noise(sd, n - 1, f"{facts['workload']['scale']} ({n} seeds of {facts['name']})")


@dataclass(frozen=True)
class Lender:
    """Where noise comes from.

    Parameters
    ----------
    facts : mapping
        A study of several seeds.
    """

    facts: Mapping[str, Any]

    def lend(self, arm: str) -> dict[str, Any] | None:
        """The noise for an arm, as plain data."""
        found = noise_of(self.facts, arm)
        return None if found is None else asdict(found)


def lender_of(noise: Any, folder: Path | None, name: str, metric: str, better: str) -> Lender | None:
    """Return who lends noise: the study that is given, or one that lies beside with the same workload and metric.

    Raises
    ------
    DeclarationError
        If what is given is no study, or one of another metric.
    """
    if noise is None:
        beside = [] if folder is None else _beside(folder, name, metric, better)
        return Lender(max(beside, key=lambda facts: len(facts["seeds"]))) if beside else None
    facts = (
        noise.to_dict() if hasattr(noise, "to_dict") else _read(Path(noise)) if isinstance(noise, str | Path) else None
    )
    if facts is None or "arms" not in facts:
        raise DeclarationError(f"got {show(noise)}; allowed: a study, or the folder of one", "noise")
    if (facts["metric"], facts["better"]) != (metric, better):
        raise DeclarationError(f"is of {facts['metric']}; allowed: a study of {metric}", "noise")
    if noise_of(facts) is None:
        raise DeclarationError(f"has no {LEAST} paired seeds of two arms that ended in a number", "noise")
    return Lender(facts)


def _beside(folder: Path, name: str, metric: str, better: str) -> list[dict[str, Any]]:
    found = []
    for file in sorted(folder.parent.glob("*/study.json")):
        facts = _read(file)
        alike = facts is not None and facts.get("metric") == metric and facts.get("better") == better
        if facts is not None and alike and facts["workload"]["name"] == name and noise_of(facts) is not None:
            found.append(facts)
    return found


def _read(path: Path) -> dict[str, Any] | None:
    found = told_by(path / "study.json" if path.is_dir() else path)
    return found if "arms" in found else None


def one_run_sentence(arms: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return what can be said of arms with one run each: the differences, and how they compare with noise elsewhere.

    Examples
    --------
    >>> noise = {"sd": 0.005, "df": 7, "where": "0.10 M parameters (8 seeds of small)"}
    >>> arm = {"name": "muon", "comparison": {"difference": 0.013, "noise": noise}}
    >>> import textwrap
    >>> print(textwrap.fill(one_run_sentence([arm], "val/loss"), 100))
    one run each: in val/loss muon +0.013, 2.6 times the noise seen at 0.10 M parameters (8 seeds of
    small), which noise alone exceeds in 3.5% of pairs; not a verdict
    """
    said = []
    for arm in arms:
        difference, lent = arm["comparison"]["difference"], arm["comparison"].get("noise")
        if difference is None:
            said.append(f"{arm['name']} cannot be told, as a run diverged")
            continue
        told = f"{arm['name']} {difference:+.3g}"
        if lent is not None:
            noise = Noise(**lent)
            times = f"{abs(difference) / noise.sd:.1f} times" if noise.sd else "far above"
            chance = noise.chance(difference)
            share = f"{chance:.1%} of pairs" if chance >= 0.001 else "under 0.1% of pairs"
            told += f", {times} the noise seen at {noise.where}, which noise alone exceeds in {share}"
        said.append(told)
    without = any(arm["comparison"].get("noise") is None for arm in arms)
    unknown = "; how much of it the seed makes is not known" if without else ""
    return f"one run each: in {metric} {'; '.join(said)}{unknown}; not a verdict"
