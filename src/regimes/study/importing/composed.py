"""The Trainer's schedules that are made of several parts here: warm-up, stable, decay; and the plateau."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regimes.controllers import Plateau
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest, show
from regimes.schedules import WSD, Cosine, Linear, Polynomial, Then, Window
from regimes.study.importing.clock import Clock
from regimes.study.importing.given import number

#: torch leaves a drop out where it is smaller than this.
_EPS = 1e-8


def option(options: dict[str, Any], name: str, default: float, low: float | None = None) -> float:
    """A number among ``lr_scheduler_kwargs``, or its default."""
    return number(options.get(name, default), f"lr_scheduler_kwargs.{name}", low)


_DECAYS: dict[str, Callable[[float], Any]] = {
    "linear": lambda low: Linear(1.0, low),
    "cosine": lambda low: Cosine(1.0, final=low),
    "1-sqrt": lambda low: WSD(1.0, decay="100%", final=low, decay_shape="sqrt"),
}
_RISES: dict[str, Callable[[float], Any]] = {
    "linear": lambda low: Linear(low, 1.0),
    "cosine": lambda low: Cosine(low, final=1.0),
    "1-sqrt": lambda low: Polynomial(low, power=0.5, final=1.0),
}


def wsd(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    """Warm up from a floor, hold, fall back to it; `num_stable_steps` may end the fall early or never."""
    rise, fall = (_shape(options, name, usual) for name, usual in (("warmup_type", "linear"), ("decay_type", "cosine")))
    if option(options, "num_cycles", 0.5) != 0.5:
        raise DeclarationError(f"got {show(options['num_cycles'])}; allowed: 0.5", "lr_scheduler_kwargs.num_cycles")
    if "num_decay_steps" not in options:
        raise DeclarationError("needs a value: how many steps the fall takes", "lr_scheduler_kwargs.num_decay_steps")
    decay, low = option(options, "num_decay_steps", 0, 1), option(options, "min_lr_ratio", 0.0, 0.0)
    stable = options.get("num_stable_steps")
    plain = rise == "linear" and low == 0.0  # what `warmup=` is
    if stable is None:
        _refuse_overlap(clock, decay)
        kwargs = {"decay": Duration(decay, "steps"), "decay_shape": "sqrt" if fall == "1-sqrt" else fall}
        if plain:
            return WSD(peak, **kwargs, **clock.kwargs)
        return _risen(peak, rise, low, clock, WSD(1.0, final=low, **kwargs))
    begin = number(stable, "lr_scheduler_kwargs.num_stable_steps", 0) + (clock.rise if plain else 0)
    moments = {"start": Duration(begin, "steps"), "length": Duration(decay, "steps")}
    if plain:
        return peak * Window(_DECAYS[fall](low), **moments, **clock.kwargs)
    return _risen(peak, rise, low, clock, Window(_DECAYS[fall](low), **moments))


def _refuse_overlap(clock: Clock, decay: float) -> None:
    if clock.steps is not None and clock.warmup.value + decay > clock.steps:
        raise DeclarationError(
            f"got {decay:g} beside a warm-up of {clock.warmup}; allowed: no more together than the {clock.steps} steps",
            "lr_scheduler_kwargs.num_decay_steps",
        )


def _shape(options: dict[str, Any], name: str, usual: str) -> str:
    value = options.get(name, usual)
    if value not in _RISES:
        raise DeclarationError(f"got {show(value)}; {nearest(str(value), _RISES)}", f"lr_scheduler_kwargs.{name}")
    return value


def _risen(peak: float, rise: str, low: float, clock: Clock, held: Any) -> Any:
    return peak * (Then(_RISES[rise](low), held, at=clock.warmup) if clock.warmup.value else held)


def plateau(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    factor = option(options, "factor", 0.1)
    known = {
        name: options[name]
        for name in ("metric", "patience", "threshold", "threshold_mode", "cooldown")
        if name in options
    }
    if options.get("mode", "min") not in ("min", "max"):
        raise DeclarationError(f"got {show(options['mode'])}; allowed: 'min' or 'max'", "lr_scheduler_kwargs.mode")
    better = "lower" if options.get("mode", "min") == "min" else "higher"
    low = _lowest(peak, factor, option(options, "min_lr", 0.0, 0.0), option(options, "eps", _EPS, 0.0))
    return peak * Plateau(factor=factor, low=low, better=better, **known)


def _lowest(peak: float, factor: float, low: float, eps: float) -> float:
    """Where torch's rate stops falling, over the peak: at min_lr, or where a further drop is no more than eps."""
    if not 0.0 < factor < 1.0:
        raise DeclarationError(f"got {show(factor)}; allowed: a number > 0 and < 1", "lr_scheduler_kwargs.factor")
    if eps == 0.0 or peak == 0.0:
        return low / peak if peak else 0.0
    drops = 0
    while max(peak * factor**drops, low) - max(peak * factor ** (drops + 1), low) > eps:
        drops += 1
    return max(factor**drops, low / peak)
