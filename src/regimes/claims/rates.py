"""What is claimed of rates and is no comparison of two regimes: decays inside a run, forgetting on the way, spreads."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import regimes as rg
from regimes.claims.training import measured, trained

_PEAK, _WARMUP = 4e-3, "30 steps"
_BUDGETS = (150, 300, 600)
#: Steps of the first text, and of the second.
_OLD = _NEW = 300


def against_going_back(seed: int) -> tuple[float, float]:
    """Negative validation loss after 600 steps: of WSD-S with three budgets, and of what going back leaves of them.

    A run that goes back to before each decay has spent those of the first two budgets, a tenth of each, beside its trunk.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    spent = sum(_BUDGETS[:-1]) // 10
    trunk = rg.WSD(_PEAK, "10%", _PEAK / 10, "inverse", warmup=_WARMUP)
    lr = rg.WSDS(_PEAK, [f"{end} steps" for end in _BUDGETS], warmup=_WARMUP)
    return -_loss(lr, _BUDGETS[-1], seed), -_loss(trunk, _BUDGETS[-1] - spent, seed)


def _loss(lr: Any, steps: int, seed: int) -> float:
    return measured(trained(_work(), _regime(lr, steps), seed), "loss", "val")


def falls_in_a_decay(seed: int) -> tuple[float, float]:
    """By how much the validation loss falls in the last decay of WSD-S; three times that of as many steps before it.

    Parameters
    ----------
    seed : int
        As of `against_going_back`.
    """
    length = _BUDGETS[-1] // 10
    lr = rg.WSDS(_PEAK, [f"{end} steps" for end in _BUDGETS], warmup=_WARMUP)
    run, losses = rg.Run(_work(), _regime(lr, _BUDGETS[-1]), seed, count_flops=False), []
    for before in (2 * length, length, 0):
        _until(run, _BUDGETS[-1] - before)
        losses.append(measured(run, "loss", "val"))
    return losses[1] - losses[2], 3 * (losses[0] - losses[1])


def forgotten_at_the_peak(seed: int) -> tuple[float, float]:
    """Negative rise of the loss on code over 30 steps of prose: under a rate without an end, and under a second warm-up.

    Parameters
    ----------
    seed : int
        As of `against_going_back`.
    """
    endless = rg.InfiniteLR(_PEAK, 0.55 * _PEAK, "180 steps", "60 steps", warmup=_WARMUP, over="run")
    first = rg.Cosine(_PEAK, _PEAK / 10, warmup=_WARMUP)
    return -_forgotten(endless, endless, seed), -_forgotten(first, rg.Rewarm(_PEAK, "30 steps"), seed)


def _forgotten(old: Any, new: Any, seed: int) -> float:
    phases = [
        rg.Phase("old", budget=f"{_OLD} steps", optimizer=rg.AdamW(lr=old), mixture=rg.Mixture(code=1.0)),
        rg.Phase(
            "new", budget=f"{_NEW} steps", optimizer=rg.AdamW(lr=new), mixture=rg.Mixture(prose=1.0),
            carry=["model", "optimizer"],
        ),
    ]  # fmt: skip
    run, losses = rg.Run(_work(), rg.Regime(phases=phases, batch_size=16), seed, count_flops=False), []
    for step in (_OLD, _OLD + 30):
        _until(run, step)
        losses.append(measured(run, "code/loss", "val"))
    return losses[1] - losses[0]


def peaks_against_rises(seed: int) -> tuple[float, float]:
    """A fifth of the spread of the loss on prose over three peaks, and its spread over four lengths of the rise.

    Parameters
    ----------
    seed : int
        As of `against_going_back`.
    """
    with tempfile.TemporaryDirectory() as folder:
        first = _regime(rg.Cosine(_PEAK, _PEAK / 10, warmup=_WARMUP), _OLD, rg.Mixture(code=1.0))
        start = rg.StartFrom(rg.FromRun(str(rg.run(_work(), first, seed, out=folder, progress=False).folder)))
        schedules = {"peak": [(0.5, "1%"), (1.0, "1%"), (2.0, "1%")]}
        schedules["rise"] = [(1.0, rise) for rise in ("0%", "1%", "2%", "10%")]
        spreads = {}
        for name, settings in schedules.items():
            losses = [_second(start, times, rise, seed) for times, rise in settings]
            spreads[name] = max(losses) - min(losses)
    return spreads["peak"] / 5, spreads["rise"]


def _second(start: rg.StartFrom, times: float, rise: str, seed: int) -> float:
    """Loss on prose after it has been learned from a start, to a multiple of the peak."""
    lr = rg.Rewarm(times * _PEAK, rise, _PEAK / 10)
    regime = _regime(lr, _NEW, rg.Mixture(prose=1.0), on_entry=[start])
    return measured(trained(_work(), regime, seed), "prose/loss", "val")


def _until(run: rg.Run, step: int) -> None:
    while run.frame.step < step:
        run.step()


def _regime(lr: Any, steps: int, mixture: Any = None, **more: Any) -> rg.Regime:
    if mixture is not None:
        more["mixture"] = mixture
    return rg.Regime(optimizer=rg.AdamW(lr=lr), batch_size=16, budget=f"{steps} steps", **more)


@functools.cache
def _work() -> rg.Workload:
    return rg.workloads.load("char_lm", width=32, length=32)
