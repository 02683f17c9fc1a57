"""A schedule of ours as a torch scheduler, for a loop of one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core import fields, paths
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.fields import Spec
from regimes.core.kinds import Schedule, Span
from regimes.core.progress import Progress

#: Points at which the schedule is checked beforehand.
_POINTS = 1024
#: A loop of one's own knows of no other amounts.
_AMOUNTS = "allowed: steps, or epochs together with steps_per_epoch=, such as '1000 steps'"


class ScheduledLR(torch.optim.lr_scheduler.LRScheduler):
    """What `lr_scheduler` returns: in closed form, so that nothing but the step has to be kept.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    schedule : Schedule
    total : float
        Length in steps.
    span : Span
        Places the schedule's Durations.
    relative : bool
        Whether the peak of a group is its own rate.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule, total: float, span: Span, relative: bool
    ) -> None:
        self.total, self.relative = total, relative
        self._schedule, self._function = schedule, schedule.bind(span)
        self._unit = _peak(schedule) if relative else 1.0
        self._check()
        if not relative:
            _refuse_differing(optimizer.param_groups)
        super().__init__(optimizer)

    def rate(self, step: int) -> float:
        """Value of the schedule at a step, over its peak where it is relative; after the end, the last one."""
        at = min(step / self.total, 1.0)
        return self._function(Progress(step=step, phase_step=step, fraction=at, run_fraction=at)) / self._unit

    def _check(self) -> None:
        spec = Spec("knob", low=0.0)
        for point in range(_POINTS + 1):
            at = point / _POINTS
            value = self._function(Progress(fraction=at, run_fraction=at))
            spec.check(value, "schedule", f"{self._schedule!r} at {at:.1%} of the stretch ")

    def get_lr(self) -> list[float | Tensor]:
        """Rates of the groups at the present step."""
        rate = self.rate(self.last_epoch)
        if not self.relative:
            return [rate for _ in self.optimizer.param_groups]
        return [float(_own(group)) * rate for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers: the step, the length, and a digest of the schedule as an integer."""
        return {"last_epoch": self.last_epoch, "total": self.total, "schedule": self._digest()}

    def _digest(self) -> int:
        return int(paths.digest(self._schedule), 16)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the step of a state, and set the rates of the groups to what they are there.

        Raises
        ------
        DeclarationError
            If the state belongs to another schedule or another length.
        """
        if state_dict["schedule"] != self._digest() or state_dict["total"] != self.total:
            raise DeclarationError(
                f"got the state of another schedule or length ({state_dict['total']:g} steps); allowed: that of "
                f"{self._schedule!r} over {self.total:g} steps"
            )
        self.last_epoch = state_dict["last_epoch"]
        for group, rate in zip(self.optimizer.param_groups, self.get_lr()):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _own(group: dict[str, Any]) -> Any:
    """A group's own rate, kept by torch as ``initial_lr`` as soon as a scheduler has changed it."""
    return group.setdefault("initial_lr", float(group["lr"]))


def _peak(schedule: Schedule) -> float:
    peak = paths.get(schedule, "peak")
    if peak <= 0.0:
        raise DeclarationError(f"got {show(schedule)} with relative=True; allowed: a positive peak", "schedule")
    return float(peak)


def _refuse_differing(groups: Sequence[dict[str, Any]]) -> None:
    rates = list(dict.fromkeys(float(group.get("initial_lr", group["lr"])) for group in groups))
    if len(rates) > 1:
        raise DeclarationError(
            f"got groups with the rates {rates}, which one schedule would make equal; allowed: equal ones, or "
            "relative=True, which takes each group's own rate as its peak",
            "optimizer",
        )


def lr_scheduler(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule | str,
    budget: str | Duration,
    steps_per_epoch: int | None = None,
    *,
    relative: bool = False,
) -> ScheduledLR:
    """Return a torch scheduler that follows a schedule of ours; call its ``step()`` after every optimizer step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any; its own rate is overwritten, as by every scheduler of torch.
    schedule : Schedule
        Or its notation: ``'Cosine(1e-3, warmup="5%")'``. Durations in it are percentages, steps, or epochs.
    budget : Duration
        In steps, or in epochs with `steps_per_epoch`. After it the last value is held.
    steps_per_epoch : int, optional
        Optimizer steps in an epoch.
    relative : bool
        Each group's own rate is its peak, s(t) / peak times it: the groups keep their ratio. Default False: all follow
        the schedule as it is, and groups with different rates are refused.

    Returns
    -------
    ScheduledLR
        A ``torch.optim.lr_scheduler.LRScheduler``.

    Raises
    ------
    DeclarationError
        For a controller (it needs signals, which only a run measures), a schedule that goes negative, an amount that
        cannot be converted to steps, or groups that differ.

    Examples
    --------
    >>> import regimes as rg
    >>> head, body = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    >>> opt = torch.optim.SGD([{"params": [head]}, {"params": [body], "lr": 0.1}], lr=1.0)
    >>> scheduler = lr_scheduler(opt, rg.Linear(1.0), "2 epochs", steps_per_epoch=2, relative=True)
    >>> for _ in range(5): print(scheduler.get_last_lr()); opt.step(); scheduler.step()
    [1.0, 0.1]
    [0.75, 0.075...]
    [0.5, 0.05]
    [0.25, 0.025]
    [0.0, 0.0]
    """
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise DeclarationError(f"got {show(steps_per_epoch)}; allowed: an integer >= 1", "steps_per_epoch")
    followed: Schedule = fields.coerce(schedule, Schedule, Spec(), "schedule")

    def steps(duration: Duration) -> float:
        if duration.unit == "steps":
            return duration.value
        if duration.unit == "epochs" and steps_per_epoch is not None:
            return duration.value * steps_per_epoch
        raise DeclarationError(f"got '{duration}'; {_AMOUNTS}")

    try:
        length = Duration.parse(budget)
    except DeclarationError:  # whose sentence names all units
        raise DeclarationError(f"got {show(budget)}; {_AMOUNTS}", "budget") from None
    try:
        total = steps(length)
    except DeclarationError as why:
        raise why.within("budget") from None
    if total <= 0.0:
        raise DeclarationError(f"got '{budget}'; allowed: more than nothing", "budget")

    def share(duration: Duration) -> float:
        return duration.share if duration.unit == "%" else steps(duration) / total

    span = Span(share, math.ceil(total - 1e-9)).alone()
    try:
        return ScheduledLR(optimizer, followed, total, span, relative)
    except DeclarationError as why:
        raise (why if why.key in ("schedule", "optimizer") else why.within("schedule")) from None
