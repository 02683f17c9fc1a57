"""Frames: where a stretch of training is. A run holds a stack of them; a phase seam pops one and pushes the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from regimes.core.progress import Progress
from regimes.engine.plan import Plan


@dataclass
class Frame:
    """Position, plan queue and cursor of one stretch.

    Parameters
    ----------
    prefix : tuple
        Leads the addresses of the frame's streams.
    phase : int
        Index of the phase.
    """

    prefix: tuple[str | int, ...] = ()
    phase: int = 0
    step: int = 0
    samples: int = 0
    tokens: int = 0
    phase_step: int = 0
    phase_samples: int = 0
    phase_tokens: int = 0
    spent: float = 0.0
    skipped_in_a_row: int = 0
    cursor: dict[str, Any] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    #: What inner frames have used up of this one's budget's unit, for the cadence of checkpoints.
    tried: float = 0.0
    #: Of a trial: what it is, what came of it so far, and what it returns to.
    trial: dict[str, Any] | None = None

    def advance(self, samples: int, tokens: int) -> None:
        """Move the position by one step."""
        self.step += 1
        self.samples += samples
        self.tokens += tokens
        self.phase_step += 1
        self.phase_samples += samples
        self.phase_tokens += tokens

    def next_phase(self) -> None:
        """Begin the next phase: what was drawn for the old one is dropped with its cursor."""
        self.phase += 1
        self.phase_step = self.phase_samples = self.phase_tokens = 0
        self.spent, self.plans, self.tried = 0.0, [], 0.0

    def counters(self) -> Progress:
        """The position without fractions."""
        return Progress(self.step, self.samples, self.tokens, self.phase_step, self.phase_samples, self.phase_tokens)

    def state(self) -> dict[str, Any]:
        """Return the frame as a state tree."""
        plain = {name: value for name, value in self.__dict__.items() if name not in ("plans", "prefix")}
        return plain | {"prefix": list(self.prefix), "plans": [plan.state() for plan in self.plans]}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Frame:
        """Return the frame that `state` describes."""
        plans = [Plan.restored(plan) for plan in state["plans"]]
        return cls(**{**state, "prefix": tuple(state["prefix"]), "plans": plans})
