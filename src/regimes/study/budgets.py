"""Equal budgets: what each arm really takes, whole batches counted, and whether that is the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.regime import Regime
from regimes.engine.compile import Length, compile_regime, epochs
from regimes.engine.workload import Workload

UNITS = ("steps", "samples", "tokens", "flops")
#: What whole batches may add to an arm, of what the baseline takes: less cannot decide a comparison.
TOLERANCE = 0.01


def equal_budgets(
    workload: Workload, arms: Mapping[str, Regime], baseline: str, equal: str | None
) -> tuple[str, str, list[str]]:
    """Return the unit in which budgets are equal, the amount as text, and notes.

    Raises
    ------
    DeclarationError
        If arms take amounts that differ, or that are not known beforehand.
    """
    lengths = {arm: _lengths(workload, regime) for arm, regime in arms.items()}
    unit = lengths[baseline][0].unit if equal is None else equal
    if unit not in UNITS:
        raise DeclarationError(f"got {show(unit)}; {nearest(str(unit), UNITS)}", "equal")
    declared = {arm: _total(own, unit, taken=False) for arm, own in lengths.items()}
    taken = {arm: _total(own, unit, taken=True) for arm, own in lengths.items()}
    want, reference = declared[baseline], taken[baseline]
    notes = []
    for arm, have in declared.items():
        key, spent = f"arms.{arm}.budget", taken[arm]
        if have is None or want is None or spent is None or reference is None:
            raise DeclarationError(
                f"how many {unit} it trains on is not known beforehand; give its budget in {unit}, or say equal=", key
            )
        if not math.isclose(have, want, rel_tol=1e-6):
            raise DeclarationError(
                f"got {have:g} {unit}, the baseline has {want:g}; arms are compared at equal {unit}", key
            )
        if abs(spent - reference) > TOLERANCE * reference:
            raise DeclarationError(
                f"takes {spent:g} {unit} in whole batches, the baseline '{baseline}' {reference:g}; arms are compared "
                f"at equal {unit}; {_fitting(lengths, unit, want)}",
                key,
            )
        if not math.isclose(spent, reference, rel_tol=1e-6):
            notes.append(f"in whole batches arm '{arm}' takes {spent:g} {unit}, the baseline {reference:g}")
    assert want is not None
    return unit, f"{want:g} {unit}" if want < 1000 else f"{want:,.0f} {unit}", notes


def _lengths(workload: Workload, regime: Regime) -> list[Length]:
    phases = compile_regime(regime, epochs(regime, workload.view("train")), workload.example_tokens())
    return [phase.length for phase in phases]


def _total(lengths: list[Length], unit: str, *, taken: bool) -> float | None:
    """The amount of all phases together, as declared or as taken in whole batches; None where it is not known."""
    total = 0.0
    for length in lengths:
        steps = length.steps if taken and length.batch is not None else None
        amount = _in_unit(length, unit, *((length.total, length.unit) if steps is None else (float(steps), "steps")))
        if amount is None:
            return None
        total += amount
    return total


def _in_unit(length: Length, unit: str, amount: float, own: str) -> float | None:
    if own == unit:
        return amount
    if "flops" in (own, unit):
        return None
    samples = length.in_samples(Duration(amount, own))
    if samples is None:
        return None
    scale = {"samples": 1.0, "steps": length.batch and 1.0 / length.batch, "tokens": length.example_tokens}[unit]
    return None if not scale else samples * scale


def _fitting(lengths: Mapping[str, list[Length]], unit: str, want: float) -> str:
    """Say the nearest budget that is whole batches of every arm."""
    phases: list[Any] = [length for own in lengths.values() for length in own]
    if len(phases) > len(lengths) or any(length.batch is None for length in phases):
        return "give budgets that are whole batches of every phase"
    one = math.lcm(*(length.batch for length in phases)) * (phases[0].example_tokens if unit == "tokens" else 1)
    return f"the nearest budget that is whole batches of all: '{max(1, round(want / one)) * one:g} {unit}'"
