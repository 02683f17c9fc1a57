"""The forwards of a run: each at its own address of every global generator, in the declared precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from regimes.core.errors import DeclarationError, UserCodeError
from regimes.core.randomness import Marks, kept, seed_all
from regimes.core.unit_losses import UnitLosses
from regimes.engine import diagnose


class Unaddressed(Exception):
    """A forward has drawn from a global generator that was not set to an address before."""


class Forward:
    """One forward of one micro-batch, as ``forward(live, batch, number, grad)``.

    torch's generators are set to an address before every forward. To do so with Python's and numpy's, and to put the
    caller's back, costs 150 us a step: it is done in the first step, and from then on only if a forward drew from
    them. Where one begins to do so later, its step is taken again.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Any) -> None:
        self.run, self.step = run, 0
        #: Whether forwards draw from Python's or numpy's generators; None: not yet known.
        self.draws: bool | None = None
        self._marks = Marks()

    def address(self, number: int) -> None:
        """Set the global generators to the start of one micro-batch's forward."""
        streams = self.run.streams
        seed = streams.seed32("forward", self.step, number)
        if self.draws is not False:
            seed_all(seed)
        torch.default_generator.manual_seed(seed)
        if self.run.workload.device.type == "cuda":
            torch.cuda.manual_seed(streams.seed32("forward-device", self.step, number))

    def __call__(self, live: Any, batch: Any, number: int, grad: bool) -> UnitLosses:
        """Return the losses of the units of one micro-batch.

        Raises
        ------
        UserCodeError
            If the model or the loss fails.
        """
        run = self.run
        self.address(number)
        before = () if self.draws else self._marks()
        loss = live.loss if live.loss is not None else run.loss
        try:
            if grad and not run.autocast:
                losses = loss.units(run.states["loss"], run.model, batch)
            else:
                with torch.set_grad_enabled(grad), self.precision():
                    losses = loss.units(run.states["loss"], run.model, batch)
        except (DeclarationError, UserCodeError, torch.OutOfMemoryError):
            raise
        except Exception as why:
            raise diagnose.in_user_code(run, why, number) from why
        if before and before != self._marks():
            self._note_draw()
        if losses.values.ndim != 1:
            losses = UnitLosses(losses.values.reshape(-1), losses.weights, losses.examples)
        return losses

    def _note_draw(self) -> None:
        unaddressed, self.draws = self.draws is False, True
        if unaddressed:
            raise Unaddressed

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the declared precision."""
        if self.run.autocast:
            return torch.autocast(self.run.workload.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def callers_kept(self) -> Iterator[None]:
        """Inside, forwards of one step happen; afterwards the caller's random state is as before."""
        with kept(torch_alone=self.draws is False):
            yield
        self.draws = bool(self.draws)

    def addressed(self, step: Callable[[], Any], undo: Callable[[], None]) -> Any:
        """Return what `step` gives; where it meets a forward that was not addressed, undo and take it again."""
        try:
            return step()
        except Unaddressed:
            undo()
            with kept():
                return step()
