"""Tuned on one set of tasks, reported on another: by how much does tuning on the data of the report overstate?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regimes.core.card import Card, described
from regimes.core.errors import DeclarationError, RegimesError, show
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.engine.workload import Workload
from regimes.study import statistics
from regimes.study.compare import compare
from regimes.study.early_rules import Correlation, interval, spearman
from regimes.study.ranges import Range
from regimes.study.study import Study


@dataclass(frozen=True)
class TwoPhase:
    """Three studies of the same arms on the same seeds.

    Parameters
    ----------
    tuning : Study
        Tuned and judged on the first workload.
    report : Study
        With the settings that were chosen there, frozen, on the second: what is to be believed.
    usual : Study
        Tuned and judged on the second.
    """

    tuning: Study
    report: Study
    usual: Study

    @property
    def rank_correlation(self) -> Correlation:
        """Spearman's, of the arms' means in the first phase and in the report; an arm that diverged is the worst."""
        first, second = (_badness(study) for study in (self.tuning, self.report))
        rho = spearman([(list(first.values()), [second[name] for name in first])])
        return Correlation(rho, *interval(rho, len(first)), len(first))

    @property
    def overstated(self) -> dict[str, dict[str, float | int | None]]:
        """By how much the usual protocol shows each arm better than the report, seed by seed: mean, interval, pairs.

        Intervals are simultaneous over the arms. Seeds on which a run of the two diverged are left out; what the trials'
        own luck adds is not in them: it is what is measured.
        """
        better, level = self.report.to_dict()["better"], self.report.to_dict()["level"]
        gains = {name: _gain(one, other, better) for name, (one, other) in self._pairs().items()}
        known = {name: gain for name, gain in gains.items() if len(gain) > 1}
        found = statistics.simultaneous_paired_intervals(known, level) if known else {}
        ends = {name: {"mean": one.mean, "low": one.low, "high": one.high} for name, one in found.items()}
        nothing = {"mean": None, "low": None, "high": None}
        return {name: {**ends.get(name, nothing), "pairs": len(gain)} for name, gain in gains.items()}

    def _pairs(self) -> dict[str, tuple[list[Any], list[Any]]]:
        usual, report = ({arm["name"]: arm["values"] for arm in s.to_dict()["arms"]} for s in (self.usual, self.report))
        return {name: (usual[name], report[name]) for name in report}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data; what is not finite is None."""
        correlation = {name: _finite(value) for name, value in asdict(self.rank_correlation).items()}
        gaps = {name: {key: _finite(value) for key, value in found.items()} for name, found in self.overstated.items()}
        studies = {name: getattr(self, name).to_dict() for name in ("tuning", "report", "usual")}
        return {"rank_correlation": correlation, "overstated": gaps, "studies": studies}

    def __str__(self) -> str:
        first, second = (study.to_dict()["workload"]["name"] for study in (self.tuning, self.report))
        said = [
            f"tuned on {first}, reported on {second}: {self.report.to_dict()['sentence']}",
            f"ranks there against here: Spearman {self.rank_correlation}",
        ]
        for name, found in self.overstated.items():
            if found["mean"] is None:
                said.append(f"{name}: runs diverged, what tuning on {second} itself overstates is not known")
                continue
            said.append(
                f"tuning on {second} itself shows {name} better by {found['mean']:+.4f} "
                f"[{_end(found['low'], '-inf')}, {_end(found['high'], '+inf')}]"
            )
        return "\n".join(said)


@described(
    Card(
        title="Tune on one set of tasks, report on another",
        axes=("distribution",),
        source="Cha and Cho 2024, Hyperparameters in Continual Learning: A Reality Check, arXiv:2403.09066",
        when="Settings must be chosen before the data are seen on which they will be used: a stream, a customer, next year.",
        cost="the usual study twice, and its seeds once more",
        shelf="atlas",
        rows=("cl-hyperparameter-two-phase",),
        deviations=(
            "Phases are any two workloads that take the same regimes, of classes that are disjoint or not; that is the "
            "caller's care.",
            "Trials of the first phase have one seed each, and intervals are wider by what luck that leaves; the paper takes "
            "the mean of several orders.",
            "Its comparison of continual learners is not re-tested.",
        ),
    )
)
def two_phase(
    tune_on: Workload,
    report_on: Workload,
    arms: Mapping[str, Regime],
    *,
    margin: float,
    tune: Mapping[str, Range] | None = None,
    trials: int = 0,
    out: str | Path = "runs/two-phase",
    **settings: Any,
) -> TwoPhase:
    """Tune arms on one workload, and judge them with these settings on another, beside the usual protocol.

    Where the settings that suit new data cannot be known, tuning on those very data overstates what a method does. Three
    studies on the same seeds: tuned and judged on the first workload; its settings, frozen, judged on the second; tuned and
    judged on the second. The second of them is the report. Its verdicts are of arms with these settings.

    Parameters
    ----------
    tune_on, report_on : Workload
        Of one kind: they take the same regimes, and have the same metric.
    arms : mapping of str to Regime
    margin : float
        The smallest difference that matters.
    tune, trials
        As of `regimes.compare`; without, all three are plain evaluations.
    out : path
        A folder, with one of each study.
    **settings
        Further arguments of `regimes.compare`, the same for all three.

    Returns
    -------
    TwoPhase
        Print it; ``report`` is a Study.

    Raises
    ------
    DeclarationError
        What `regimes.compare` refuses, and a study that stops early, or halves its arms: seeds must be the same.
    RegimesError
        If an arm could not be tuned, as a trial failed: the same call tries it again.

    References
    ----------
    S. Cha and K. Cho, Hyperparameters in Continual Learning: A Reality Check, 2024, arXiv:2403.09066.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> first, second = (rg.workloads.load("quadratic", examples=n) for n in (64, 256))
    >>> base = rg.Regime(optimizer=rg.SGD(lr=0.05), batch_size=8, budget="12 steps")
    >>> arms = {"plain": base, "momentum": base.but({"optimizer.momentum": 0.9})}
    >>> found = two_phase(first, second, arms, margin=0.01, tune={"optimizer.lr": rg.times(1/8, 8)}, trials=4, seeds=6,
    ...                   out=tempfile.mkdtemp(), progress=False)
    >>> sorted(found.overstated), found.rank_correlation.n
    (['momentum', 'plain'], 2)
    """
    if settings.get("until") is not None:
        raise DeclarationError(
            f"got {show(settings['until'])}; allowed: nothing, all phases have the same seeds", "until"
        )
    folder = Path(out)
    given: dict[str, Any] = {"margin": margin, **settings}
    asked: dict[str, Any] = {"tune": dict(tune or {}), "trials": trials}
    first = compare(tune_on, arms, out=folder / "tuning", **given, **asked)
    report = compare(report_on, _chosen(first), out=folder / "report", **given)
    usual = compare(report_on, arms, out=folder / "usual", **given, **asked)
    return TwoPhase(first, report, usual)


def _chosen(study: Study) -> dict[str, Regime]:
    """The arms as tuning left them."""
    found = {}
    for arm in study.to_dict()["arms"]:
        if any(trial["failed"] for trial in (arm["tuning"] or {"trials": []})["trials"]):
            raise RegimesError(
                f"arm '{arm['name']}' is not tuned: a trial failed, which is no value; the same call tries again"
            )
        regime = parse(arm["regime"])
        assert isinstance(regime, Regime)
        found[arm["name"]] = regime
    return found


def _badness(study: Study) -> dict[str, float]:
    """Mean of every arm, lower being better; infinite where a run diverged."""
    facts = study.to_dict()
    sign = 1.0 if facts["better"] == "lower" else -1.0
    return {
        arm["name"]: math.inf if None in arm["values"] else sign * float(np.mean(arm["values"]))
        for arm in facts["arms"]
    }


def _gain(usual: list[float | None], report: list[float | None], better: str) -> list[float]:
    pairs = [(a, b) for a, b in zip(usual, report) if a is not None and b is not None]
    mine, theirs = (np.array([pair[side] for pair in pairs], dtype=float) for side in (0, 1))
    return list(map(float, statistics.improvement(mine, theirs, better)))


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _end(value: float | None, unbounded: str) -> str:
    return unbounded if value is None or not math.isfinite(value) else f"{value:+.4f}"
