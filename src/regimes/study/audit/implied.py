"""The comparisons that past runs implied, each judged on the seeds that both regimes have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from regimes.core.errors import DeclarationError
from regimes.study import statistics
from regimes.study.arms import Arm
from regimes.study.audit.gathered import Gathered, Group
from regimes.study.design import Design, check_better, check_question
from regimes.study.judge import compared
from regimes.study.search import Search

#: In what order standings are told.
STANDINGS = ("stands", "reverses on other seeds", "never decided", "one run each", "no common seed")


@dataclass
class Implied:
    """Two regimes that differ in little, or that a study compared.

    Parameters
    ----------
    group : Group
    base, arm : Arm
        The one that was run first, or a study's baseline; and the other.
    design : Design
        The question: metric, margin, level.
    comparison : dict or None
        As `judge.compared` gives it; None without a common seed.
    known : dict or None
        The comparison of the study that tuned these two, or looked early: runs alone do not show that luck.
    """

    group: Group
    base: Arm
    arm: Arm
    design: Design
    comparison: dict[str, Any] | None = None
    known: dict[str, Any] | None = None

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that both have, as the arm's were run."""
        theirs = set(self.base.seeds)
        return [seed for seed in self.arm.seeds if seed in theirs]

    @cached_property
    def changes(self) -> str:
        """Where the two differ, in words."""
        return "; ".join(f"{d.path}: {d.old} -> {d.new}" for d in self.base.declared.diff(self.arm.declared))

    @property
    def context(self) -> str:
        """Where it was made: workload, data, budget, and what other runs there vary and these two have in common."""
        group = self.group
        own = [d.path for d in self.base.declared.diff(self.arm.declared)]
        shared = [path for path in group.varied if not any(_overlap(path, one) for one in own)]
        there = [f"{path} {group.at(self.base.name, path) or 'nothing'}" for path in shared]
        return ", ".join([f"{group.workload} (data {group.data})", group.budget, *there])

    def gains(self) -> np.ndarray:
        """The improvement of the arm, seed by seed; diverged runs count as the worst."""
        metric, better = self.design.metric, self.design.better
        values, others = self.arm.values(metric, self.seeds), self.base.values(metric, self.seeds)
        ranked = statistics.rank_diverged(values, others, better, self.design.margin)
        return statistics.improvement(ranked.arm, ranked.baseline, better)

    @property
    def standing(self) -> str:
        """Whether the conclusion stands: one of `STANDINGS`.

        The conclusion is the verdict where there is one. An undecided pair whose first seed says the opposite of
        another reverses; one whose seeds all agree, and still prove nothing, was never decided.
        """
        if self.comparison is None:
            return "no common seed"
        if len(self.seeds) == 1:
            return "one run each"
        if self.comparison["verdict"] != "undecided":
            return "stands"
        signs = np.sign(self.gains())
        return "reverses on other seeds" if (signs * signs[0] < 0).any() else "never decided"


def _overlap(one: str, other: str) -> bool:
    """Whether one of two paths lies in the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def implied(
    found: Gathered, metric: str | None, margin: float | None, better: str | None, level: float, differ: int
) -> list[Implied]:
    """Return the comparisons that runs implied, judged with intervals that hold together over all of them.

    Those of studies that tuned, or looked early, are told as judged there, at the level of their study.

    Parameters
    ----------
    found : Gathered
    metric, margin, better : optional
        Where None, what the studies below the folder asked of these regimes.
    level : float
        Simultaneous confidence of all comparisons.
    differ : int
        In how many paths two regimes may differ to imply a comparison.

    Raises
    ------
    DeclarationError
        If nothing says which difference matters.
    """
    made = [one for group in found.groups for one in _of(group, found.questions, metric, margin, better, level, differ)]
    judged = [one for one in made if one.seeds]
    for one in judged:
        one.comparison = one.known or compared(one.design, one.arm, one.base, len(judged))
    return made


def _of(
    group: Group, questions: Sequence[dict[str, Any]], metric: str | None, margin: float | None, better: str | None,
    level: float, differ: int,
) -> list[Implied]:  # fmt: skip
    by_text = {repr(runs[0].regime): name for name, runs in group.by_name.items()}
    asked = _asked(group, questions, by_text)
    named = metric or next((question["metric"] for question in asked.values()), None) or _judged_metric(group)
    arms, made = group.arms(named), list[Implied]()
    for one, other in itertools.combinations(arms.values(), 2):
        question = asked.get((one.name, other.name)) or asked.get((other.name, one.name))
        if question is None and len(one.declared.diff(other.declared)) > differ:
            continue
        base, arm = (one, other) if question is None or (one.name, other.name) in asked else (other, one)
        about = question or next((q for q in asked.values() if q["metric"] == named), None)
        design = _design(named, about, margin, better, level, base, arm)
        made.append(Implied(group, base, arm, design, known=_known(question, design, arm)))
    return made


def _known(question: dict[str, Any] | None, design: Design, arm: Arm) -> dict[str, Any] | None:
    """What the study said that asked this, where its intervals know of more than the runs: of tuning, and of looks."""
    if question is None or not (question["trials"] or question.get("looks")):
        return None
    if (question["metric"], question["margin"], question["level"]) != (design.metric, design.margin, design.level):
        return None
    told = [one["comparison"] for one in question["arms"] if one["regime"] == repr(arm.declared)]
    return told[0] if told else None


def _asked(
    group: Group, questions: Sequence[dict[str, Any]], by_text: dict[str, str]
) -> dict[tuple[str, str], dict[str, Any]]:
    """(baseline, arm) -> the study that compared them."""
    found = {}
    for question in questions:
        if question["workload"]["name"] != group.workload:
            continue
        hashes = {arm["name"]: by_text.get(arm["regime"]) for arm in question["arms"]}
        base = hashes.pop(question["baseline"], None)
        found.update({(base, arm): question for arm in hashes.values() if base and arm})
    return found


def _judged_metric(group: Group) -> str:
    """Loss on test, where all have one, else on val: what a verdict reads."""
    ended = [run.metrics for run in group.runs if run.metrics]
    return "test/loss" if ended and all("test/loss" in metrics for metrics in ended) else "val/loss"


def _design(
    metric: str, question: dict[str, Any] | None, margin: float | None, better: str | None, level: float, base: Arm,
    arm: Arm,
) -> Design:  # fmt: skip
    same = question is not None and question["metric"] == metric
    if margin is None and same:
        margin = question["margin"]  # type: ignore[index]
    if margin is None:
        raise DeclarationError(
            f"needs a value; no study below the folder says which difference of {metric} matters", "margin"
        )
    if better is None and same:
        better = question["better"]  # type: ignore[index]
    check_question([base.name, arm.name], base.name, margin, level)
    return Design(
        baseline=base.name, metric=metric, better=check_better(metric, better), margin=float(margin),
        seeds=tuple(arm.seeds), search=Search("quasi", {}, 0, "lower"), equal=None, level=float(level), names=(base.name, arm.name),
        budget=str(base.declared.budget), tuning_metric=metric,
    )  # fmt: skip
