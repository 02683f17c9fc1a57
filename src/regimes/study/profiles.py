"""How fast training algorithms reach targets on several workloads: performance profiles, and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from regimes.core.card import Card, Claim, described
from regimes.core.errors import DeclarationError, show
from regimes.study.design import is_number

#: Where a score ends: a submission that is four times as slow as the best counts as one that misses.
MOST = 4.0

Times = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Profile:
    r"""On what share of the workloads a submission is at most so many times as slow as the best.

    .. math:: \rho(\tau) = \frac{1}{n} \#\{w : t_w \le \tau \, \min_s t_{s, w}\}

    Parameters
    ----------
    ratios : dict of str to float
        Time of each workload over the best submission's; infinite where the target was missed, or nobody hit it.
    """

    ratios: dict[str, float]

    def at(self, tau: float) -> float:
        """Return rho at a factor."""
        return sum(ratio <= tau for ratio in self.ratios.values()) / len(self.ratios)

    def score(self, most: float = MOST) -> float:
        """Return the mean of rho over factors from 1 to `most`."""
        if not is_number(most) or not 1 < most < math.inf:
            raise DeclarationError(f"got {show(most)}; allowed: a factor above 1", "most")
        return math.fsum(max(most - ratio, 0.0) for ratio in self.ratios.values()) / (most - 1.0) / len(self.ratios)


@described(
    Card(
        title="Performance profiles of training algorithms over workloads",
        axes=("rates",),
        source="Kasimbeg et al. 2025, How far away are truly hyperparameter-free learning algorithms?, arXiv:2505.24005; Dahl "
        "et al. 2023, arXiv:2306.07179",
        when="Algorithms with all their settings frozen, on several workloads: which is fast on most of them? With `calibrate`.",
        cost="free",
        shelf="atlas",
        rows=("hyperparameter-free-how-far",),
        deviations=(
            "A target that no submission hits counts against all of them.",
            "Of rules without a rate the comparison has DoG and Prodigy: D-Adaptation can be named (PytorchOptimizer) but "
            "is left out; Mechanic, MoMo and coin betting are not built.",
        ),
        claims=(
            Claim(
                "NAdamW with one set of settings calibrated over six workloads scores no lower, within 0.05, than the better of "
                "DoG and Prodigy as published.",
                {
                    "seeds": 5,
                    "margin": 0.05,
                    "scale": "six workloads of up to 0.03 M parameters, 60 to 150 steps, 8 settings",
                },
                paper_scale="AlgoPerf, 8 workloads",
                says="not worse",
                measure="regimes.claims.rate_free:nadamw_over_rate_free",
            ),
            Claim(
                "Prodigy with one set of settings calibrated over six workloads scores at least 0.1 higher than as published.",
                {
                    "seeds": 5,
                    "margin": 0.1,
                    "scale": "six workloads of up to 0.03 M parameters, 60 to 150 steps, 8 settings",
                },
                paper_scale="AlgoPerf, 8 workloads",
                measure="regimes.claims.rate_free:calibrated_over_published",
            ),
        ),
    )
)
def performance_profile(times: Times) -> dict[str, Profile]:
    """Return the performance profile of every submission.

    Parameters
    ----------
    times : mapping of submissions to mappings of workloads to numbers
        Seconds or steps until a workload's target is reached, above 0; None or infinite where it was missed. Every
        submission has every workload.

    Returns
    -------
    dict of str to Profile

    Raises
    ------
    DeclarationError
        For no submissions, workloads that differ, and times that are none.

    References
    ----------
    Dolan and More, "Benchmarking optimization software with performance profiles", 2002. Dahl et al., "Benchmarking neural
    network training algorithms", 2023. Kasimbeg et al., "How far away are truly hyperparameter-free learning algorithms?",
    2025.

    Examples
    --------
    >>> found = performance_profile({"adamw": {"a": 10.0, "b": 30.0}, "dog": {"a": 20.0, "b": None}})
    >>> found["adamw"].at(1.0), found["dog"].at(1.9), found["dog"].at(2.0)
    (1.0, 0.0, 0.5)
    """
    workloads = _checked(times)
    best = {name: min(_time(one[name], "") for one in times.values()) for name in workloads}
    return {
        submission: Profile({name: _ratio(_time(one[name], ""), best[name]) for name in workloads})
        for submission, one in times.items()
    }


def profile_score(times: Times, most: float = MOST) -> dict[str, float]:
    r"""Return the score of every submission: the mean of its performance profile over factors from 1 to `most`.

    .. math:: \frac{1}{\tau - 1} \int_1^{\tau} \rho(t) \, dt

    One that is the fastest everywhere scores 1; a miss scores like a time of `most` times the best, or more.

    Parameters
    ----------
    times
        As of `performance_profile`.
    most : float
        Default 4, as of the AlgoPerf benchmark.

    Raises
    ------
    DeclarationError
        As `performance_profile`; a factor that is not above 1.

    Examples
    --------
    >>> profile_score({"adamw": {"a": 10.0, "b": 30.0}, "dog": {"a": 20.0, "b": None}})
    {'adamw': 1.0, 'dog': 0.3333333333333333}
    """
    return {submission: profile.score(most) for submission, profile in performance_profile(times).items()}


def _ratio(time: float, best: float) -> float:
    return time / best if math.isfinite(time) else math.inf


def _checked(times: Times) -> list[str]:
    """The workloads."""
    if (
        not isinstance(times, Mapping)
        or not times
        or not all(isinstance(one, Mapping) and one for one in times.values())
    ):
        raise DeclarationError(f"got {show(times)}; allowed: submissions, each with a time per workload", "times")
    first, workloads = next((name, list(one)) for name, one in times.items())
    for submission, one in times.items():
        if set(one) != set(workloads):
            odd = sorted(set(one) ^ set(workloads), key=str)[0]
            raise DeclarationError(
                f"'{odd}' is a workload of one of {first} and {submission} alone; allowed: every workload for all, None "
                "where a target was missed",
                f"times.{submission}",
            )
        for name, value in one.items():
            _time(value, f"times.{submission}.{name}")
    return workloads


def _time(value: float | None, key: str) -> float:
    if value is None:
        return math.inf
    if not is_number(value) or not value > 0:
        raise DeclarationError(f"got {show(value)}; allowed: a number above 0, None where the target was missed", key)
    return float(value)
