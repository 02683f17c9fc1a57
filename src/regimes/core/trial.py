"""Trials: the one form of inner run. A component proposes one between steps, and takes in what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Trial:
    """A few steps of training under an edited declaration, after which everything but work is as before.

    Parameters
    ----------
    edit : mapping of str to value
        What is different in the trial: paths below the component that proposes it ("" is the component itself, which
        a controller replaces by a schedule: a number cannot stand for it in a product), or, with a leading ``/``, below
        the phase. A schedule put in here has the trial for its stretch.
    budget : Duration
        How long; it ends earlier with the phase (but see `past_end`), and at the first step that is not finite.
    start : "here" or "beginning"
        From the present weights and states, or from the run's initial weights and fresh states.
    address : tuple of str or int
        Where the trial's random streams lie below the phase's; empty: the very streams that the phase itself would
        use, so that trials see the same batches and masks as the steps that follow.
    validate : bool
        Whether validation is measured at the end (work that counts).
    validate_before : bool
        Whether it is measured at the beginning, too: of the initial weights, where it starts from them.
    score : bool
        Whether the loss of every training example that the phase draws from is measured at the end, in evaluation mode
        (work that counts). With a budget of nothing and no edit that is all: a *look* at the present weights, which a
        component of the data may take inside a trial, too.
    past_end : bool
        Whether it goes on where the phase ends before its budget does: work of the phase, not a look at what follows.
        A schedule put in is then held from the phase's end on.
    owner : tuple of str
        Names of the parts on the way from the slot to the component; filled in by wrappers.

    Examples
    --------
    >>> Trial({"": 0.1}, "20 steps").within("left").owner
    ('left',)
    """

    edit: Mapping[str, Any]
    budget: Duration
    start: Literal["here", "beginning"] = "here"
    address: tuple[str | int, ...] = ()
    validate: bool = False
    validate_before: bool = False
    score: bool = False
    past_end: bool = False
    owner: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Duration.parse(self.budget))
        if self.start not in ("here", "beginning"):
            raise DeclarationError(f"got {show(self.start)}; allowed: 'here' or 'beginning'", "start")

    @property
    def look(self) -> bool:
        """Whether nothing is trained: the present weights are scored."""
        return self.score and not self.edit and self.budget.value == 0 and self.start == "here"

    def within(self, name: str) -> Trial:
        """The trial as the holder of the proposing part proposes it."""
        return replace(self, owner=(name, *self.owner))


@dataclass(frozen=True)
class TrialEnd:
    """What came of a trial.

    Parameters
    ----------
    at : Progress
        Position to which training returns.
    records : list of dict
        One a step: ``fraction`` of the trial before it, its ``knobs``, and its signals (``loss``, or ``skipped``);
        the last one holds the validation, where it was asked for.
    failed : str or None
        Why it ended early: a step was not finite.
    weights : mapping of str to Tensor
        Evaluation weights at its end, by parameter name; of frozen parameters what they are.
    owner : tuple of str
        As in `Trial`.
    scores : mapping of str to Tensor
        By source, the loss of every training example, shape (n,), float64; empty where nobody asked.
    before : mapping of str to float
        Validation at its beginning, ``val/loss`` and so on; empty where nobody asked.
    """

    at: Progress
    records: list[dict[str, Any]]
    failed: str | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    owner: tuple[str, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)

    def inside(self) -> TrialEnd:
        """The end as the part that proposed it sees it."""
        return replace(self, owner=self.owner[1:])

    @property
    def losses(self) -> list[float]:
        """Training loss of every finite step."""
        return [row["loss"] for row in self.records if "loss" in row]
