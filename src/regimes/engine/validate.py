"""Validation: the workload's loss and metrics at the weights that are judged, disturbing nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest
from regimes.core.randomness import kept, seed_all
from regimes.engine import arithmetic
from regimes.engine.metrics import Meter
from regimes.engine.plan import Plan
from regimes.engine.reading import Reader
from regimes.engine.work import shapes
from regimes.losses.forward import OutputLoss, evaluating, predict


class Validation:
    """When to validate, and how.

    Parameters
    ----------
    run : Run
    cadence : Duration or None
        Of validation that nobody needs; phase ends are validated anyway.
    """

    def __init__(self, run: Any, cadence: Any) -> None:
        self.run = run
        self.cadence = None if cadence is None else Duration.parse(cadence)
        self.present = "val" in run.workload.sources
        for phase in run.phases:
            needed = [need for need in phase.needs if need.startswith("val:")]
            if needed and not self.present:
                raise DeclarationError(f"'{needed[0]}' is needed, but the workload has no val data", "val")
            for need in needed:
                self._refuse_unknown(need)
            if needed and phase.declaration.evaluate is None:
                raise DeclarationError(
                    f"'{needed[0]}' is needed: say how often, for example evaluate='5%'",
                    f"{phase.name}.evaluate",
                )

    def _refuse_unknown(self, need: str) -> None:
        """Refuse a need that names a metric or a source which validation does not give."""
        workload = self.run.workload
        *source, metric = need.split(":")[1:]
        metrics, sources = ["loss", *workload.metrics], list(workload.sources["val"])
        if metric not in metrics:
            raise DeclarationError(
                f"'{need}' is needed, but there is no metric '{metric}'; {nearest(metric, metrics)}", "val"
            )
        if len(source) > 1 or (source and (source[0] not in sources or len(sources) == 1)):
            several = f"sources of val: {', '.join(sources)}" if len(sources) > 1 else "val has one source"
            raise DeclarationError(
                f"'{need}' is needed, but {several}; write val:<source>:<metric>, or val:<metric>", "val"
            )

    def due(self, needed: bool, samples: int, tokens: int) -> dict[str, Any]:
        """Return the validation signals that are due in a step of so many samples and tokens.

        `needed` validation happens before the observers of the step, at the phase's own cadence, and is charged; the
        rest happens after them, at the run's cadence and at phase ends, and is only observed.
        """
        if not self.is_due(needed, samples, tokens):
            return {}
        return self.measure("val", account="side_flops" if needed else "observed_flops")

    def is_due(self, needed: bool, samples: int, tokens: int) -> bool:
        """Whether `due` would measure anything."""
        if not self.present or self.run.frame.trial is not None:
            return False
        phase = self.run.phase
        if needed:
            cadence = phase.declaration.evaluate
            return cadence is not None and self._crosses(cadence, samples, tokens)
        if self._after(samples, tokens) >= phase.length.total * (1.0 - 1e-12):
            return True
        return self.cadence is not None and self._crosses(self.cadence, samples, tokens)

    def _after(self, samples: int, tokens: int) -> float:
        """How much of the phase's budget is used up when the step has been counted."""
        run, unit = self.run, self.run.phase.length.unit
        if unit == "flops":
            return run.work.spent - run.work.before_phase
        return run.consumed + (1 if unit == "steps" else samples if unit == "samples" else tokens)

    def _crosses(self, cadence: Duration, samples: int, tokens: int) -> bool:
        before, after = self.run.consumed, self._after(samples, tokens)
        every = self.run.phase.length.amount(cadence)
        return int(after / every + 1e-9) > int(before / every + 1e-9)

    # -- measuring -----------------------------------------------------------------------------------------

    def measure(self, split: str, account: str = "observed_flops") -> dict[str, float]:
        """Return ``val/loss`` and every metric on a split, by source where there are several.

        Parameters
        ----------
        split : str
            "val" or "test".
        account : str
            Which account of work is charged.
        """
        run = self.run
        found: dict[str, float] = {}
        self._account = account
        sources = run.workload.sources[split]
        weights, _ = run.judged_weights()
        with judged(run, weights), run.buffers.aside(), kept():
            whole = Meter(run.workload.metrics)
            meters = {name: self._measure_source(split, name, whole) for name in sources}
        if len(sources) > 1:
            for name, meter in meters.items():
                found |= {f"{split}/{name}/{key}": value for key, value in meter.values().items()}
        found = {f"{split}/{key}": v for key, v in Meter.joined(list(meters.values())).items()} | found
        return found

    def _measure_source(self, split: str, name: str, whole: Meter) -> Meter:
        workload = self.run.workload
        source, meter = workload.sources[split][name], Meter(workload.metrics, whole)
        read = Reader({name: source}, workload.device)
        for start in range(0, len(source), workload.eval_batch):
            indices = np.arange(start, min(start + workload.eval_batch, len(source)))
            batch = read(Plan(start, indices, None, None, {}, {}, {}))
            seed_all(start)
            with torch.no_grad():
                self._charge(batch)
                losses, output, target = self._losses(batch)
                own = losses.weights
                meter.add(*arithmetic.weighted_sum(losses.values.reshape(-1), own, own), output, target)
        return meter

    def _charge(self, batch: Any) -> None:
        run = self.run
        if run.flops is not None:
            spent = run.flops.counted(("eval", run.frame.phase, shapes(batch)), run.model, lambda: self._losses(batch))
            setattr(run.work, self._account, getattr(run.work, self._account) + spent)

    def _losses(self, batch: Any) -> Any:
        loss, model = self.run.workload.loss, self.run.model
        if isinstance(loss, OutputLoss) and type(loss).units is OutputLoss.units:
            output, target = predict(model, batch)
            return loss.per_unit(output, target), output, target
        losses = loss.units(loss.init(), model, batch)
        if not self.run.workload.metrics:
            return losses, None, None
        return losses, *predict(model, batch)


@contextlib.contextmanager
def judged(run: Any, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Inside, the model holds the judged weights and is in evaluation mode; afterwards all is as before."""
    kept = {name: p.data for name, p in run.parameters.items()}
    with evaluating(run.model):
        try:
            if weights is not None:
                for name, p in run.parameters.items():
                    p.data = weights[name].detach()
            yield
        finally:
            for name, p in run.parameters.items():
                p.data = kept[name]
