"""Trials: the one form of inner run. A component proposes one between steps, and takes in what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from regimes.core.duration import Duration
from regimes.core.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Trial:
    """A few steps of training under an edited declaration, after which everything but work is as before.

    It starts from the present weights and states. What wants those with which the phase begins, transforms made and states
    carried, proposes it before the phase's first step.

    Parameters
    ----------
    edit : mapping of str to value
        What is different in the trial: paths below the component that proposes it ("" is the component itself, which
        a controller replaces by a schedule: a number cannot stand for it in a product), or, with a leading ``/``, below
        the phase. A schedule put in here has the trial for its stretch.
    budget : Duration
        How long; no longer than the phase, with which it ends earlier (but see `past_end`), as it does at the first step
        that is not finite (but see `skips`).
    address : tuple of str or int
        Where the trial's random streams lie below the phase's; empty: the very streams that the phase itself would
        use, so that trials see the same batches and masks as the steps that follow.
    validate : bool
        Whether validation is measured at the end (work that counts).
    validate_before : bool
        Whether it is measured at the beginning, too.
    score : bool
        Whether the loss of every training example that the phase draws from is measured at the end, in evaluation mode
        (work that counts). With a budget of nothing and no edit that is all: a *look* at the present weights, which a
        component of the data may take inside a trial, too.
    past_end : bool
        Whether it goes on where the phase ends before its budget does: work of the phase, not a look at what follows.
        A schedule put in is then held from the phase's end on.
    skips : bool
        Whether a step that is not finite is skipped as the run skips it, so many in a row as make a run give up ending
        the trial: for a whole training, whose weights or scores are wanted. Otherwise the first one ends it.
    owner : tuple of str
        Names of the parts on the way from the slot to the component; filled in by wrappers.

    Examples
    --------
    >>> Trial({"": 0.1}, "20 steps").within("left").owner
    ('left',)
    """

    edit: Mapping[str, Any]
    budget: Duration
    address: tuple[str | int, ...] = ()
    validate: bool = False
    validate_before: bool = False
    score: bool = False
    past_end: bool = False
    skips: bool = False
    owner: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Duration.parse(self.budget))

    @property
    def look(self) -> bool:
        """Whether nothing is trained: the present weights are scored."""
        return self.score and not self.edit and self.budget.value == 0

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
        Why it ended early: a step was not finite, or too many in a row where they are skipped.
    weights : mapping of str to Tensor
        The whole network at its end, as `Weights.load` gives that of a run: the weights that a run would be judged by
        (averaged, where the phase has an averager), those of frozen parameters, and the buffers; tied ones once.
    owner : tuple of str
        As in `Trial`.
    scores : mapping of str to Tensor
        By source, the loss of every training example, shape (n,), float64; empty where nobody asked.
    before : mapping of str to float
        Validation at its beginning, ``val/loss`` and so on; empty where nobody asked.
    fraction : float
        Share of its budget that it used: below 1 where the phase or a step that was not finite ended it, above where
        its last step went beyond.
    """

    at: Progress
    records: list[dict[str, Any]]
    failed: str | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    owner: tuple[str, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    fraction: float = 1.0

    def inside(self) -> TrialEnd:
        """The end as the part that proposed it sees it."""
        return replace(self, owner=self.owner[1:])

    @property
    def losses(self) -> list[float]:
        """Training loss of every finite step."""
        return [row["loss"] for row in self.records if "loss" in row]
