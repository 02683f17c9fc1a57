"""What a run would train on, step by step, for a loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from regimes.core.kinds import DrawContext, Sampler
from regimes.core.progress import Progress
from regimes.core.randomness import Streams
from regimes.core.unit_losses import UnitLosses
from regimes.engine.compile import rebuilder
from regimes.engine.parts import units_of
from regimes.engine.plan import Plan
from regimes.engine.reading import Reader
from regimes.engine.workload import Workload


class Batches:
    """The draws of a sampler over a workload's training data, at the addresses at which a run makes them.

    Parameters
    ----------
    workload : Workload
    sampler : Sampler
        Or a Mixture.
    seed : int
        Of the run.
    phase : str
        Name of the phase. Default "main", that of a regime with one.
    step : int
        The run's step at which the phase begins.
    cursor, state : dict, optional
        Where in the data, and what was learned, of an earlier phase that is gone on with: its last plan's ``cursor``
        and its `state`.

    Examples
    --------
    >>> import regimes as rg
    >>> work = rg.workloads.load("digits_mlp")
    >>> batches = Batches(work, rg.Weighted("label"), seed=3)
    >>> drawn = batches.draw(4)
    >>> x, y = batches.read(drawn)
    >>> drawn.indices.shape, y.shape
    ((4,), torch.Size([4]))
    """

    def __init__(
        self,
        workload: Workload,
        sampler: Sampler,
        seed: int = 0,
        phase: str = "main",
        *,
        step: int = 0,
        cursor: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.sampler, self.step = sampler, step
        self._view, self._streams = workload.view("train"), Streams(seed, phase)
        self._read = Reader(workload.sources["train"], workload.device)
        self.state = sampler.init(self._view) if state is None else state
        self._cursor = sampler.start(self._view, (phase,)) if cursor is None else cursor

    def draw(self, n: int, values: Mapping[str, float] | None = None) -> Plan:
        """Draw the examples of the next step.

        Parameters
        ----------
        n : int
            How many.
        values : dict of str to number, optional
            Of the sampler's knobs that vary, by path: ``{"power": 2.0}``, ``{"sampler.length": 16}``.

        Returns
        -------
        Plan
            ``indices``, importance ``weights``, ``columns``; ``part(start, stop)`` is a micro-batch of it.
        """
        values = dict(values or {})
        live = rebuilder(self.sampler, list(values))(self.sampler, values)
        at = Progress(step=self.step)
        ctx = DrawContext(self._view, self._streams, self.step, at, self._streams.prefix)
        drawn = live.draw(self.state, self._cursor, n, ctx)
        plan = Plan(self.step, drawn.indices, drawn.sources, drawn.weights, drawn.columns, values, drawn.cursor)
        self._cursor, self.step = drawn.cursor, self.step + 1
        return plan

    def read(self, plan: Plan, number: int = 0) -> Any:
        """Return the batch of a plan, or of a part of one, which is micro-batch `number` of its step."""
        return self._read(plan, self._streams, number)

    def observe(self, plan: Plan, losses: Tensor, examples: Tensor | None = None) -> None:
        """Tell a sampler that learns from losses what the units of a plan were.

        Parameters
        ----------
        plan : Plan
        losses : Tensor, shape (units,)
        examples : Tensor of int64, optional
            Place in the plan of each unit's example; default unit i is example i.
        """
        units = units_of(plan, [(UnitLosses(losses.detach(), None, examples), 0)])
        self.state = self.sampler.observe(self.state, {"units": units}, Progress(step=plan.step))
