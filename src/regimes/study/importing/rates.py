r"""The Trainer's learning rate as a schedule of ours.

Both read the rate of step t (from 0) at t: transformers as :math:`\text{lr} \cdot \lambda(t)`, we at the fraction t / T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from regimes.controllers import Plateau
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest, show
from regimes.schedules import (
    WSD,
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
from regimes.study.importing.given import Given, number

#: torch leaves a drop out where it is smaller than this.
_EPS = 1e-8
_MORE_STEPS = "where the number of steps is known: max_steps, or examples="


class Clock(NamedTuple):
    """How long training takes and its beginning, in steps where they are known.

    Parameters
    ----------
    steps : int or None
        T; None where only epochs are known.
    warmup : Duration
        In steps, or a share of the whole; nothing is 0 steps.
    """

    steps: int | None
    warmup: Duration

    @property
    def rise(self) -> int:
        """W in steps; refused where it is a share of nobody knows how many."""
        if self.warmup.unit != "steps":
            raise DeclarationError(f"got a warm-up of '{self.warmup}'; allowed {_MORE_STEPS}", "warmup_steps")
        return int(self.warmup.value)

    @property
    def known(self) -> int:
        """T; refused where it is not known."""
        if self.steps is None:
            raise DeclarationError(
                f"got epochs beside a schedule that counts steps; allowed {_MORE_STEPS}", "num_train_epochs"
            )
        return self.steps

    @property
    def kwargs(self) -> dict[str, Any]:
        """``warmup=`` of a schedule, where there is one."""
        return {"warmup": self.warmup} if self.warmup.value else {}

    @property
    def beyond(self) -> bool:
        """Whether training ends while the rate still rises."""
        return self.steps is not None and self.warmup.unit == "steps" and self.warmup.value > self.steps


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
    return make(peak, clock, options)


def _number(options: dict[str, Any], name: str, default: float, low: float | None = None) -> float:
    return number(options.get(name, default), f"lr_scheduler_kwargs.{name}", low)


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
    cycles = _number(options, "num_cycles", 0.5, 0.0)
    if cycles == 0.5:
        return Cosine(peak, final=final, **kwargs)
    if cycles == 0.0:
        return Constant(peak, **kwargs) if kwargs else peak
    return DampedCosine(peak, cycles, 0.0, final=final, **kwargs)


def _restarts(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    cycles = _number(options, "num_cycles", 1, 1)
    if cycles != int(cycles):
        raise DeclarationError(f"got {show(cycles)}; allowed: an integer >= 1", "lr_scheduler_kwargs.num_cycles")
    if clock.warmup.unit == "%" or not clock.warmup.value:
        share = clock.warmup.value if clock.warmup.unit == "%" else 0.0
        period = Duration((100.0 - share) / cycles, "%")
    else:
        period = Duration((clock.known - clock.rise) / cycles, "steps")
    return WarmRestarts(peak, period=period, **clock.kwargs)


def _polynomial(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    final = _number(options, "lr_end", 1e-7)
    if not peak > final:
        raise DeclarationError(
            f"got {show(final)}; allowed: less than learning_rate ({peak:g})", "lr_scheduler_kwargs.lr_end"
        )
    return Polynomial(peak, power=_number(options, "power", 1.0), final=final, **clock.kwargs)


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
    fall = Window(_swings(1.0, floor / peak, options, {}), start="0 steps", length=Duration(steps - rise, "steps"))
    if rise == 1:
        return peak * fall
    return peak * Then(Linear(share, 1.0), fall, at=Duration(rise - 1, "steps"))


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


def _wsd(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    """Warm up from a floor, hold, fall back to it; `num_stable_steps` may end the fall early or never."""
    rise, fall = (_shape(options, name, usual) for name, usual in (("warmup_type", "linear"), ("decay_type", "cosine")))
    if _number(options, "num_cycles", 0.5) != 0.5:
        raise DeclarationError(f"got {show(options['num_cycles'])}; allowed: 0.5", "lr_scheduler_kwargs.num_cycles")
    if "num_decay_steps" not in options:
        raise DeclarationError("needs a value: how many steps the fall takes", "lr_scheduler_kwargs.num_decay_steps")
    decay, low = _number(options, "num_decay_steps", 0, 1), _number(options, "min_lr_ratio", 0.0, 0.0)
    stable = options.get("num_stable_steps")
    plain = rise == "linear" and low == 0.0  # what `warmup=` is
    if stable is None:
        kwargs = {"decay": Duration(decay, "steps"), "decay_shape": "sqrt" if fall == "1-sqrt" else fall}
        if plain:
            return WSD(peak, **kwargs, **clock.kwargs)
        return _risen(peak, rise, low, clock, WSD(1.0, final=low, **kwargs))
    begin = number(stable, "lr_scheduler_kwargs.num_stable_steps", 0) + (clock.rise if plain else 0)
    moments = {"start": Duration(begin, "steps"), "length": Duration(decay, "steps")}
    if plain:
        return peak * Window(_DECAYS[fall](low), **moments, **clock.kwargs)
    return _risen(peak, rise, low, clock, Window(_DECAYS[fall](low), **moments))


def _shape(options: dict[str, Any], name: str, usual: str) -> str:
    value = options.get(name, usual)
    if value not in _RISES:
        raise DeclarationError(f"got {show(value)}; {nearest(str(value), _RISES)}", f"lr_scheduler_kwargs.{name}")
    return value


def _risen(peak: float, rise: str, low: float, clock: Clock, held: Any) -> Any:
    return peak * (Then(_RISES[rise](low), held, at=clock.warmup) if clock.warmup.value else held)


def _plateau(peak: float, clock: Clock, options: dict[str, Any]) -> Any:
    factor = _number(options, "factor", 0.1)
    known = {name: options[name] for name in ("patience", "threshold", "threshold_mode", "cooldown") if name in options}
    if options.get("mode", "min") not in ("min", "max"):
        raise DeclarationError(f"got {show(options['mode'])}; allowed: 'min' or 'max'", "lr_scheduler_kwargs.mode")
    better = "lower" if options.get("mode", "min") == "min" else "higher"
    low = _lowest(peak, factor, _number(options, "min_lr", 0.0, 0.0), _number(options, "eps", _EPS, 0.0))
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
    "reduce_lr_on_plateau": (_plateau, _PLATEAU),
    "cosine_with_min_lr": (_cosine_with_min_lr, _MIN),
    "cosine_warmup_with_min_lr": (_cosine_one_ahead, (*_MIN, "warmup_lr_rate")),
    "warmup_stable_decay": (_wsd, _WSD),
}
_WITHOUT_END = ("constant", "reduce_lr_on_plateau", "cosine_warmup_with_min_lr", "warmup_stable_decay")
#: Without a warm-up of their own, whatever warmup_steps says.
UNWARMED = ("constant", "reduce_lr_on_plateau")
