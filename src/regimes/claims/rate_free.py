"""Rules without a rate, as published and calibrated, on six small workloads: how fast do they reach the same targets?"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Mapping
from typing import Any

import regimes as rg
from regimes.core.notation import parse
from regimes.study.tasks import TUNING_SEED
from regimes.workloads import builtin

#: Points that calibration tries.
_POINTS = 8
#: Rates at which AdamW sets the targets, at this share of its budget.
_RATES, _SHARE = (1e-3, 3e-3, 1e-2, 3e-2), 0.8
#: Batch size and steps of each workload.
_LENGTHS = {
    "digits_mlp": (32, 150),
    "digits_cnn": (32, 60),
    "breast_cancer": (32, 100),
    "diabetes": (32, 100),
    "teacher_student": (32, 150),
    "char_lm": (16, 100),
}
_EVERY = "5%"
#: Each algorithm as published; rules without a decaying rate of their own are judged by an average where the paper says so.
_PUBLISHED: Mapping[str, dict[str, Any]] = {
    "adamw": {"optimizer": "AdamW()"},
    "dog": {"optimizer": "DoG()", "average": "PolynomialDecay()"},
    "prodigy": {"optimizer": "PytorchOptimizer('prodigy', lr=Cosine(1.0))"},
}
_NADAMW = "Torch('NAdam', lr=Cosine(0.003, warmup='5%'), weight_decay=0.01, decoupled_weight_decay=True)"
_PRODIGY = "PytorchOptimizer('prodigy', lr=Cosine(1.0), d_coef=1.0, weight_decay=0.01)"
_NADAMW_SPACE = {"optimizer.lr.peak": (1e-4, 1e-1), "optimizer.weight_decay": (1e-4, 1.0)}
_PRODIGY_SPACE = {"optimizer.d_coef": (0.1, 10.0), "optimizer.weight_decay": (1e-4, 1.0)}


def nadamw_over_rate_free(seed: int) -> tuple[float, float]:
    """Profile score of NAdamW with one calibrated set of settings, and of the better of DoG and Prodigy as published.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order; targets and calibrations have a seed of their own.
    """
    scores = _scores(seed)
    return scores["calibrated nadamw"], max(scores["dog"], scores["prodigy"])


def calibrated_over_published(seed: int) -> tuple[float, float]:
    """Profile score of Prodigy with one calibrated set of settings, and as published.

    Parameters
    ----------
    seed : int
        As there.
    """
    scores = _scores(seed)
    return scores["calibrated prodigy"], scores["prodigy"]


@functools.cache
def _scores(seed: int) -> dict[str, float]:
    found = {name: _regimes(**fields) for name, fields in _PUBLISHED.items()}
    found["calibrated nadamw"] = _calibrated(_NADAMW, tuple(_NADAMW_SPACE.items()))
    found["calibrated prodigy"] = _calibrated(_PRODIGY, tuple(_PRODIGY_SPACE.items()))
    return rg.profile_score(
        {name: {work: _steps(work, regime, seed) for work, regime in own.items()} for name, own in found.items()}
    )


def _steps(name: str, regime: rg.Regime, seed: int) -> int | None:
    """Steps until the target; None where it is missed."""
    curve = _curve(name, regime, seed)
    return next((step for step, loss in curve if loss <= _targets()[name]), None)


def _curve(name: str, regime: rg.Regime, seed: int) -> list[tuple[int, float]]:
    """Validation losses, each with how many steps there were before it; of what diverges those before."""
    found = []
    try:
        for record in rg.stream(_works()[name], regime, seed, validate=_EVERY):
            loss = record.signals.get("val/loss")
            if loss is not None and math.isfinite(loss):
                found.append((record.at.step + 1, loss))
    except rg.RunFailed:
        pass
    return found


@functools.cache
def _targets() -> dict[str, float]:
    """Of each workload what AdamW reaches after four fifths of its steps at the rate with which it ends lowest."""
    targets = {}
    for name in _works():
        rules = [f"AdamW(lr=Cosine({rate}, warmup='5%'))" for rate in _RATES]
        best = min((_curve(name, _regimes(rule)[name], TUNING_SEED) for rule in rules), key=lambda curve: curve[-1][1])
        targets[name] = next(loss for step, loss in best if step >= _SHARE * _LENGTHS[name][1])
    return targets


@functools.cache
def _calibrated(rule: str, space: tuple[tuple[str, tuple[float, float]], ...]) -> dict[str, rg.Regime]:
    """The regimes of one frozen set of settings, chosen over all workloads together."""
    declared, tune = _regimes(rule), {path: rg.between(low, high) for path, (low, high) in space}
    with tempfile.TemporaryDirectory() as folder:
        found = rg.calibrate(_works(), declared, tune, _POINTS, _targets(), out=folder, validate=_EVERY, progress=False)
    return {name: found.regime(regime) for name, regime in declared.items()}


def _regimes(optimizer: str, **fields: str) -> dict[str, rg.Regime]:
    given: dict[str, Any] = {key: parse(text) for key, text in {"optimizer": optimizer, **fields}.items()}
    return {
        name: rg.Regime(**given, batch_size=size, budget=f"{steps} steps") for name, (size, steps) in _LENGTHS.items()
    }


@functools.cache
def _works() -> dict[str, rg.Workload]:
    load = rg.workloads.load
    return {
        "digits_mlp": load("digits_mlp"),
        "digits_cnn": load("digits_cnn"),
        "breast_cancer": builtin.tabular("breast_cancer"),
        "diabetes": builtin.tabular("diabetes"),
        "teacher_student": load("teacher_student"),
        "char_lm": load("char_lm", width=32, length=32),
    }
