"""The forwards of a run: each at its own address of every global generator, in the declared precision."""

from __future__ import annotations

import contextlib
import functools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regimes.core.errors import DeclarationError, UserCodeError
from regimes.core.randomness import Marks, seed_all
from regimes.core.unit_losses import UnitLosses
from regimes.engine import diagnose

#: Of torch, of devices in use, of Python and numpy: the states of global generators.
States = tuple[Tensor, list[Tensor] | None, tuple[Any, Any] | None]


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
        self.draws: bool | None = (
            None if run.world.size == 1 else True
        )  # the others could not know of a step taken again
        self._marks = Marks()
        self._compiled: tuple[Any, Any] | None = None

    def model(self, training: bool) -> Any:
        """The model that a forward goes through: compiled, where that is declared and gradients are wanted of it alone."""
        run = self.run
        if not training or not run.phase.declaration.compile:
            return run.model
        if self._compiled is None or self._compiled[0] is not run.model:
            # Random numbers are drawn as they are without: masks of dropout are then the same.
            self._compiled = run.model, torch.compile(run.model, options={"fallback_random": True})
        return self._compiled[1]

    def address(self, number: int) -> None:
        """Set the global generators to the start of one micro-batch's forward."""
        streams = self.run.streams
        seed = streams.seed32("forward", self.step, number)
        if self.draws is not False:
            seed_all(seed)
        torch.default_generator.manual_seed(seed)
        if self.run.workload.device.type == "cuda":
            torch.cuda.manual_seed(streams.seed32("forward-device", self.step, number))

    def __call__(
        self, live: Any, batch: Any, number: int, grad: bool, watched: bool = False, sampled: Any = None
    ) -> UnitLosses:
        """Return the losses of the units of one micro-batch.

        Parameters
        ----------
        live, batch, number
        grad : bool
            Whether gradients are wanted.
        watched : bool
            Whether somebody listens to the model's modules, which are then not compiled.
        sampled : torch.Generator, optional
            Draw the targets from what the model predicts.

        Raises
        ------
        UserCodeError
            If the model or the loss fails.
        """
        run = self.run
        self.address(number)
        before = () if self.draws else self._marks()
        loss = live.loss if live.loss is not None else run.loss
        model = self.model(grad and not watched)
        units = loss.units if sampled is None else functools.partial(loss.sampled, generator=sampled)
        try:
            if grad and not run.autocast:
                losses = units(run.states["loss"], model, batch)
            else:
                with torch.set_grad_enabled(grad), self.precision():
                    losses = units(run.states["loss"], model, batch)
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

    def callers_state(self) -> States:
        """Return where the caller's generators stand before a step; Python's and numpy's only if a step may move them."""
        all_, devices = self.draws is not False, torch.cuda.is_initialized()
        return (
            torch.default_generator.get_state(),
            torch.cuda.get_rng_state_all() if devices else None,
            (random.getstate(), np.random.get_state()) if all_ else None,
        )

    def give_back(self, before: States) -> None:
        """Put the caller's generators back; by now it is known whether forwards draw from Python's and numpy's."""
        ours, devices, others = before
        torch.default_generator.set_state(ours)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        if others is not None:
            random.setstate(others[0])
            np.random.set_state(others[1])
        self.draws = bool(self.draws)
