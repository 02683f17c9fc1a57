"""How long training takes, as schedules need it."""

from __future__ import annotations

from typing import Any, NamedTuple

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError

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
