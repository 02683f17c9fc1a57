r"""The Trainer's learning rate as a schedule of ours.

Both read the rate of step t (from 0) at t: transformers as :math:`\text{lr} \cdot \lambda(t)`, we at the fraction t / T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest, show
from regimes.schedules import (
    Constant,
    Cosine,
    DampedCosine,
    InverseSqrt,
    Linear,
    Polynomial,
    Then,
    WarmRestarts,
    Window,
)
from regimes.study.importing.clock import Clock
from regimes.study.importing.composed import option, plateau, wsd
from regimes.study.importing.given import Given, number


def rate_of(given: Given, clock: Clock) -> Any:
    """Return what stands at ``lr``: a number, a schedule, or a number times a controller.

    Raises
    ------
    DeclarationError
        For a schedule without a counterpart, options that it does not take, and combinations that cannot be told.
    """
    peak = given.number("learning_rate", 0.0)
    kind = given.choice("lr_scheduler_type", _SCHEDULES)
    make, takes = _SCHEDULES[kind]
    options = given.options("lr_scheduler_kwargs")
    for name in options:
        if name not in takes:
            told = nearest(name, takes) if takes else f"'{kind}' takes none"
            raise DeclarationError(f"is no option of '{kind}'; {told}", f"lr_scheduler_kwargs.{name}")
    if clock.beyond and kind not in _WITHOUT_END:
        # The ramp alone is ever seen: t / W, which is T / W at the end.
        return Linear(0.0, peak * clock.known / clock.rise)
    if kind == "reduce_lr_on_plateau":
        options["metric"] = f"val:{str(given.get('metric_for_best_model') or 'loss').removeprefix('eval_')}"
    return make(peak, clock, options)


def _constant(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    return peak


def _constant_with_warmup(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    return Constant(peak, **clock.kwargs) if clock.warmup.value else peak


def _linear(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    return Linear(peak, **clock.kwargs)


def _cosine(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    return _swings(peak, 0.0, options, clock.kwargs)


def _swings(peak: float, final: float, options: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    """num_cycles counts whole swings, there and back; half a one is the usual cosine."""
    cycles = option(options, "num_cycles", 0.5, 0.0)
    if cycles == 0.5:
        return Cosine(peak, final=final, **kwargs)
    if cycles == 0.0:
        return Constant(peak, **kwargs) if kwargs else peak
    return DampedCosine(peak, cycles, 0.0, final=final, **kwargs)


def _restarts(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    cycles = option(options, "num_cycles", 1, 1)
    if cycles != int(cycles):
        raise DeclarationError(f"got {show(cycles)}; allowed: an integer >= 1", "lr_scheduler_kwargs.num_cycles")
    if clock.warmup.unit == "%" or not clock.warmup.value:
        share = clock.warmup.value if clock.warmup.unit == "%" else 0.0
        period = Duration((100.0 - share) / cycles, "%")
    else:
        period = Duration((clock.known - clock.rise) / cycles, "steps")
    return WarmRestarts(peak, period=period, **clock.kwargs)


def _polynomial(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    final = option(options, "lr_end", 1e-7)
    if not peak > final:
        raise DeclarationError(
            f"got {show(final)}; allowed: less than learning_rate ({peak:g})", "lr_scheduler_kwargs.lr_end"
        )
    return Polynomial(peak, power=option(options, "power", 1.0), final=final, **clock.kwargs)


def _inverse_sqrt(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    scale = options.get("timescale")
    if scale is not None:
        steps = number(scale, "lr_scheduler_kwargs.timescale", 1)
        return InverseSqrt(peak, timescale=Duration(steps, "steps"), **clock.kwargs)
    if clock.warmup.value:
        return InverseSqrt(peak, **clock.kwargs)
    return InverseSqrt(peak, timescale=Duration(10_000, "steps"))  # transformers' own where nothing says it


def _floor(peak: float, options: dict[str, Any]) -> float:
    low, share = options.get("min_lr"), options.get("min_lr_rate")
    if (low is None) == (share is None):
        got = "neither" if low is None else "both"
        raise DeclarationError(f"got {got} of min_lr and min_lr_rate; allowed: one of them", "lr_scheduler_kwargs")
    if low is not None:
        return number(low, "lr_scheduler_kwargs.min_lr", 0.0)
    return peak * number(share, "lr_scheduler_kwargs.min_lr_rate", 0.0)


def _cosine_with_min_lr(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    return _swings(peak, _floor(peak, options), options, clock.kwargs)


def _cosine_one_ahead(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    """A warm-up that does not begin at 0 and a cosine that is a step ahead: x = (t + 1 - W) / (T - W)."""
    steps, rise, floor = clock.known, clock.rise, _floor(peak, options)
    begin = options.get("warmup_lr_rate")
    if rise < 1 or (rise == 1 and begin is not None):
        raise DeclarationError(
            f"got {rise}; allowed with 'cosine_warmup_with_min_lr': {'two steps' if begin is not None else 'one step'} "
            "at least, since it would begin inside the cosine",
            "warmup_steps",
        )
    if steps <= rise:
        raise DeclarationError(
            f"got {rise}; allowed with 'cosine_warmup_with_min_lr': fewer than all {steps}", "warmup_steps"
        )
    share = 1.0 / rise if begin is None else number(begin, "lr_scheduler_kwargs.warmup_lr_rate", 0.0)
    fall = Window(
        _swings(1.0, floor / peak if peak else 0.0, options, {}),
        start="0 steps",
        length=Duration(steps - rise, "steps"),
    )
    if rise == 1:
        return peak * fall
    return peak * Then(Linear(share, 1.0), fall, at=Duration(rise - 1, "steps"))


_PLATEAU = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
_MIN = ("num_cycles", "min_lr", "min_lr_rate")
_WSD = ("num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles")
#: Name -> what makes it, and the options it takes.
_SCHEDULES: dict[str, tuple[Callable[[float, Clock, dict[str, Any]], Any], tuple[str, ...]]] = {
    "linear": (_linear, ()),
    "cosine": (_cosine, ("num_cycles",)),
    "cosine_with_restarts": (_restarts, ("num_cycles",)),
    "polynomial": (_polynomial, ("lr_end", "power")),
    "constant": (_constant, ()),
    "constant_with_warmup": (_constant_with_warmup, ()),
    "inverse_sqrt": (_inverse_sqrt, ("timescale",)),
    "reduce_lr_on_plateau": (plateau, _PLATEAU),
    "cosine_with_min_lr": (_cosine_with_min_lr, _MIN),
    "cosine_warmup_with_min_lr": (_cosine_one_ahead, (*_MIN, "warmup_lr_rate")),
    "warmup_stable_decay": (wsd, _WSD),
}
_WITHOUT_END = ("constant", "reduce_lr_on_plateau", "cosine_warmup_with_min_lr", "warmup_stable_decay")
#: Without a warm-up of their own, whatever warmup_steps says.
UNWARMED = ("constant", "reduce_lr_on_plateau")
