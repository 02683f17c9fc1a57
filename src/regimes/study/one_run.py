"""One run each: no verdict, but a true sentence, with noise that was seen elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regimes.core.errors import DeclarationError, show
from regimes.core.files import told_by
from regimes.study.intervals import paired_interval
from regimes.study.subject import Described
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

        return float(2 * special.stdtr(self.df, -abs(difference) / self.sd))


def noise_of(facts: Mapping[str, Any], arm: str | None = None) -> Noise | None:
    """Return the noise of a study's paired differences: of the arm of that name, else of all; None where there is none.

    Seeds on which a run diverged lend nothing, nor do seeds that changed nothing: runs that repeat themselves, or
    differences that are all the same, are one observation, whose sd is not known, and not 0.

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
    found = {one["name"]: _differences(one, base, facts["better"]) for one in facts["arms"] if one is not base}
    varying = {name: d for name, d in found.items() if d is not None}
    lent = [varying[arm]] if arm in varying else list(varying.values())
    if not lent:
        return None
    n = min(map(len, lent))
    sd = math.sqrt(float(np.mean([d.var(ddof=1) for d in lent])))
    others = "" if arm is None or arm in varying else ", its other arms"
    return Noise(sd, n - 1, f"{facts['workload']['scale']} ({n} seeds of {facts['name']}{others})")


def _differences(one: Mapping[str, Any], base: Mapping[str, Any], better: str) -> np.ndarray | None:
    """The paired differences of an arm, None where they are too few, or no seed changed anything."""
    pairs = [(a, b) for a, b in zip(one["values"], base["values"]) if a is not None and b is not None]
    if len(pairs) < LEAST:
        return None
    mine, theirs = np.array(pairs).T
    found = improvement(mine, theirs, better)
    repeated = bool(one.get("repeats") or base.get("repeats"))
    return found if paired_interval(found, repeated=repeated).sd > 0 else None


@dataclass(frozen=True)
class Lender:
    """Where noise comes from.

    Parameters
    ----------
    facts : mapping
        A study of several seeds.
    apart : str
        In what its setting is another one than that of the runs it is lent to; empty where it is the same.
    """

    facts: Mapping[str, Any]
    apart: str = ""

    def lend(self, arm: str) -> dict[str, Any] | None:
        """The noise for an arm, as plain data."""
        found = noise_of(self.facts, arm)
        return None if found is None else asdict(replace(found, where=found.where + self.apart))


def lender_of(noise: Any, folder: Path | None, subject: Described, design: Any) -> Lender | None:
    """Return who lends noise: the study that is given, or one that lies beside.

    One that lies beside lends only what was seen in the same setting: workload, data, size, budget and metric. One that
    is given may be of another, which is then said with its noise.

    Raises
    ------
    DeclarationError
        If what is given is no study, one of another metric, or one whose seeds changed nothing.
    """
    metric, better = design.metric, design.better
    if noise is None:
        beside = [] if folder is None else _beside(folder, subject, design)
        return Lender(max(beside, key=_seeds_lent)) if beside else None
    facts = (
        noise.to_dict() if hasattr(noise, "to_dict") else _read(Path(noise)) if isinstance(noise, str | Path) else None
    )
    if facts is None or "arms" not in facts:
        raise DeclarationError(f"got {show(noise)}; allowed: a study, or the folder of one", "noise")
    if facts["metric"] != metric:
        raise DeclarationError(f"is of {facts['metric']}; allowed: a study of {metric}", "noise")
    if facts["better"] != better:
        raise DeclarationError(
            f"takes {facts['better']} {metric} as better; allowed: a study where {better} is", "noise"
        )
    if noise_of(facts) is None:
        raise DeclarationError(
            f"has no {LEAST} paired seeds of two arms that ended in a number and changed something", "noise"
        )
    return Lender(facts, _apart(facts, _setting(subject, design)))


def _setting(subject: Described, design: Any) -> dict[str, Any]:
    """What a study's facts say of its workload, of the runs that noise is lent to."""
    scale = subject.facts(design.budget)["scale"]
    return {"name": subject.name, "fingerprint": ", ".join(subject.fingerprint().values()), "scale": scale}


def _apart(facts: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what a study's setting is another one than here; empty where it is the same."""
    there = facts["workload"]
    if there["name"] != here["name"]:
        return f" of {there['name']}, not of {here['name']}"
    if there.get("fingerprint") != here["fingerprint"]:
        return ", on other data than these"
    return "" if there["scale"] == here["scale"] else ", another scale than this"


def _seeds_lent(facts: Mapping[str, Any]) -> int:
    found = noise_of(facts)
    return 0 if found is None else found.df


def _beside(folder: Path, subject: Described, design: Any) -> list[dict[str, Any]]:
    asked, found = (design.metric, design.better), []
    for file in sorted(folder.parent.glob("*/study.json")):
        facts = _read(file)
        if facts is not None and (facts.get("metric"), facts.get("better")) == asked and noise_of(facts) is not None:
            found.append(facts)
    here = _setting(subject, design) if found else {}
    return [facts for facts in found if not _apart(facts, here)]


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
            times = f"{abs(difference) / noise.sd:.1f} times"
            chance = noise.chance(difference)
            share = f"{chance:.1%} of pairs" if chance >= 0.001 else "under 0.1% of pairs"
            told += f", {times} the noise seen at {noise.where}, which noise alone exceeds in {share}"
        said.append(told)
    without = any(arm["comparison"].get("noise") is None for arm in arms)
    unknown = "; how much of it the seed makes is not known" if without else ""
    return f"one run each: in {metric} {'; '.join(said)}{unknown}; not a verdict"
