"""A scoring pass: the loss of every training example at the present weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regimes.core.errors import DeclarationError
from regimes.core.kinds import Loss
from regimes.core.randomness import kept, seed_all
from regimes.core.unit_losses import UnitLosses
from regimes.engine import diagnose
from regimes.engine.plan import Plan
from regimes.engine.reading import Reader
from regimes.engine.validate import judged
from regimes.engine.work import shapes


def score(run: Any) -> dict[str, Tensor]:
    """Return the mean loss of every training example that the phase draws from, by source; charged as a side pass.

    The model is in evaluation mode.

    Raises
    ------
    DeclarationError
        If a source cannot be read at any place, or the loss gives fewer numbers than examples.
    """
    found, loss = {}, _present(run)
    with judged(run, None), run.buffers.aside(), kept(), torch.no_grad():
        for name in run.parameters.sources:
            source = run.workload.sources["train"][name]
            if not source.random_access:
                raise DeclarationError(f"source '{name}' is read in its own order and cannot be scored", "train")
            found[name] = torch.cat(list(_parts(run, loss, name, source)))
    return found


def _parts(run: Any, loss: Loss, name: str, source: Any) -> Any:
    workload, read = run.workload, Reader({name: source}, run.workload.device, run)
    read.settle(run.loss)

    def evaluate(batch: Any) -> UnitLosses:
        return loss.units(run.states["loss"], run.model, batch)

    for start in range(0, len(source), workload.eval_batch):
        indices = np.arange(start, min(start + workload.eval_batch, len(source)))
        plan = Plan(start, indices, None, None, {}, {}, {})
        batch = read(plan)
        if run.flops is not None:
            run.work.side_flops += run.flops.asking(run, read, batch, plan)
            key = ("score", run.frame.phase, shapes(batch))
            run.work.side_flops += run.flops.counted(key, run.model, lambda batch=batch: evaluate(batch))
        seed_all(start)
        losses = evaluate(batch)
        if len(losses.values) < len(indices):
            diagnose.refuse_scalar(run.phase.declaration, len(losses.values), len(indices))
        yield losses.per_example(len(indices)).double().cpu()


def _present(run: Any) -> Loss:
    """The loss with the numbers that its knobs have now."""
    knobs, at = run.states["knobs"], run.position
    live = run.phase.substitute(run.phase.step_knobs.values(knobs, at) | run.phase.data_knobs.values(knobs, at))
    return run.loss if live.loss is None else live.loss
