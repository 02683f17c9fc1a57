"""Which runs have a partner, and whether they are enough to show anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regimes.core.errors import DeclarationError
from regimes.study import statistics
from regimes.study.tasks import Outcome


def without_partner(arms: Mapping[str, Sequence[Outcome]], baseline: str) -> list[str]:
    """Say which runs have no partner.

    Raises
    ------
    DeclarationError
        If an arm shares no seed with the baseline.
    """
    base, said = {o.task.seed for o in arms[baseline]}, []
    for name, outcomes in arms.items():
        mine = {o.task.seed for o in outcomes}
        if not mine & base:
            raise DeclarationError(
                f"arm '{name}' shares no seed with the baseline '{baseline}'{_alike(mine, base)}; leave seed= out to "
                "compare without pairs",
                "seed",
            )
        for lonely, owner in ((mine - base, name), (base - mine, baseline)):
            if lonely:
                listed = ", ".join(map(str, sorted(lonely, key=str)))
                said.append(f"{name} against {baseline} without seed {listed} of {owner}, which has no partner")
    return said


def _alike(mine: set[Any], base: set[Any]) -> str:
    """Two seeds that are written otherwise and may be meant as one: 3 and 003."""
    for one in sorted(mine, key=str):
        for other in sorted(base, key=str):
            if str(one) != str(other) and str(one).lstrip("0") == str(other).lstrip("0"):
                return f" ({one} and {other} are two seeds; write those alike that are one)"
    return ""


def refuse_too_few(arms: Mapping[str, Sequence[Outcome]], baseline: str, level: float, paired: bool) -> None:
    """Refuse what could show nothing without an assumption, as a comparison of our own is refused.

    One run is no verdict, and is never called one: it is let through. Without pairs it is the rank test that could show
    nothing.

    Raises
    ------
    DeclarationError
        Naming the arm, and how many it takes.
    """
    family, base = len(arms) - 1, arms[baseline]
    for name in (name for name in arms if name != baseline):
        mine = arms[name]
        n = len({o.task.seed for o in mine} & {o.task.seed for o in base}) if paired else min(len(mine), len(base))
        if n < 2:
            continue
        assumed = (
            f"assume='normal', which takes {'paired differences' if paired else 'runs'} to be normally distributed"
        )
        if paired:
            try:
                statistics.refuse_too_few(n, family, level)
            except ValueError as why:
                raise DeclarationError(
                    f"arm '{name}' and baseline '{baseline}' share too few: {why}; or {assumed}", "seed"
                ) from None
        elif statistics.least_rank_p(len(mine), len(base)) > (1 - level) / family:
            raise DeclarationError(
                f"got {len(mine)} runs of '{name}' and {len(base)} of '{baseline}': in ranks they cannot be told apart at "
                f"this level, however good the arm; allowed: more runs; or {assumed}",
                "arm",
            )
