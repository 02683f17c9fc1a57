"""What every probe offers a person's own loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from regimes.core.kinds import Probe
from regimes.probes.view import View, undisturbed


class ViewProbe(Probe):
    """A probe of a `View`, callable without a run.

    Subclasses give ``measure(view) -> {name: number}``; the name "" stands for the probe's own. They may do with the
    view what they like: weights, gradients, buffers, modes and random states are put back by whoever calls them.
    """

    #: The probe compares with the trained weights before the step.
    wants_previous: ClassVar[bool] = False
    #: The probe compares with the weights at the run's step 0.
    wants_initial: ClassVar[bool] = False

    def __call__(
        self, model: nn.Module, loss_fn: Callable[[nn.Module, Any], Any], batch: Any, **more: Any
    ) -> dict[str, float]:
        """Measure in a loop of one's own, in the mode the model is in; everything is put back as it was.

        Parameters
        ----------
        model : nn.Module
        loss_fn : callable
            ``loss_fn(model, batch)`` returns the mean loss, losses per example or UnitLosses (any Loss of ours).
        batch : batch
        **more
            ``previous=`` (weights before the step by name), ``initial=`` (weights at the beginning by name),
            ``groups=`` (parameter names by group), ``batches=`` (callable ``(count, size) -> batches``), ``size=``
            (examples in the training data).

        Returns
        -------
        dict of str to float
        """
        with undisturbed(model):
            return self.measure(View(model, loss_fn, batch, **more))
