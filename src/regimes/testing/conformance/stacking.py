"""The contract of stacks: a replica is as the run alone, or it is refused with a reason."""

from __future__ import annotations

from typing import Any

import torch

from regimes.core.notation import parse
from regimes.engine.run import Run
from regimes.engine.together import Together
from regimes.testing.conformance.examples import importable
from regimes.testing.conformance.harness import demand, few, rule
from regimes.testing.conformance.stand import STATEFUL, Stand

#: In float64, after at most 24 steps.
NEAR = 1e-9


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Paths at which two state trees differ: numbers by more than `NEAR`, anything else at all.

    Examples
    --------
    >>> differences({"a": [1.0, "x"]}, {"a": [1.0 + 1e-12, "y"]})
    ['a.1']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if not str(name).startswith("cache:")]
        return [
            found
            for name in names
            for found in differences(one.get(name), other.get(name), f"{path}.{name}".strip("."))
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            found for i, pair in enumerate(zip(one, other)) for found in differences(*pair, f"{path}.{i}".strip("."))
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.shape == other.shape:
        near = torch.allclose(one.double(), other.double(), rtol=NEAR, atol=NEAR, equal_nan=True)
        return [] if near else [path]
    if isinstance(one, float) and isinstance(other, float):
        return [] if one == other or abs(one - other) <= NEAR * max(1.0, abs(one)) else [path]
    return [] if one == other else [path]


@rule("stacked is as alone", *STATEFUL, "model_transform", "schedule")
def stacked_is_as_alone(stand: Stand) -> None:
    """Three seeds in one stack draw the same plans as each alone, to the bit, and end with the same state, to rounding.

    What cannot be stacked is refused before anything is spent.
    """
    work, text = stand.workload(double=True), repr(stand.regime())

    def runs() -> list[Run]:
        with importable(stand.cls):
            return [Run(work, parse(text), seed, count_flops=False) for seed in range(3)]

    alone, together = runs(), runs()
    stepping = Together(together)
    while stepping.running:
        for run, made in list(stepping.steps()):
            demand(not isinstance(made, Exception), f"stacked, seed {run.seed} of {text} fails: {made}")
    for run, other in zip(together, alone):
        while not other.finished:
            other.step()
        demand(run.position == other.position, f"stacked, {text} ends at {run.position}, alone at {other.position}")
        found = differences(run.tree(), other.tree())
        demand(not found, f"stacked, seed {run.seed} of {text} ends with another state at {few(found)}")
