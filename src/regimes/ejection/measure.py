"""Validation in a script: the workload's loss and metrics over its validation data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from regimes.core.errors import DeclarationError
from regimes.core.randomness import Marks, kept, seed_all
from regimes.ejection.facts import _may_hold
from regimes.ejection.losses import LossText
from regimes.ejection.text import Lines, literal
from regimes.losses.forward import OutputLoss


def validate(script: Any) -> list[str]:
    """Return the lines of ``validate(model)``, which gives metrics by name."""
    run = script.run
    workload, sources = run.workload, run.workload.sources["val"]
    _refuse_drawing(script)
    batch = next(iter(sources.values())).fetch(np.arange(1), {})
    ignore = getattr(workload.loss, "ignore", None)
    ignores = ignore is not None and any(_may_hold(source, ignore) for source in sources.values())
    loss = LossText(workload.loss, batch, "work.loss", ignores)
    objects = [name for name, metric in workload.metrics.items() if hasattr(metric, "update")]
    if objects:
        raise DeclarationError(
            f"got {workload.metrics[objects[0]]!r}; allowed in a script: metrics that are functions",
            f"metrics.{objects[0]}",
        )
    if workload.metrics and not loss.plain and not _output(workload.loss):
        raise DeclarationError(
            "got some beside a loss that is no function of the output; allowed in a script: losses of output and target",
            "metrics",
        )
    text = Lines()
    with text.block("def validate(model):"):
        text.add('"""Return the loss of the workload and its metrics on the validation data."""')
        names = {
            name: f"hits_{place}" if len(workload.metrics) > 1 else "hits"
            for place, name in enumerate(workload.metrics)
        }
        text.add("model.eval()")
        if len(sources) == 1:
            _one(text, script, loss, names, "val_data", "")
            _result(text, names)
        else:
            counters = ["total", "count", *[c for n in names.values() for c in (n, f"{n}_of")]]
            text.add(*[f"{c} = 0" for c in counters])
            with text.block('for data in work.sources["val"].values():'):
                _one(text, script, loss, names, "data", "part_")
                text.add(*[f"{c} += part_{c}" for c in counters])
            _result(text, names)
    return ["@torch.no_grad()", *text.lines]


def _output(loss: Any) -> bool:
    return isinstance(loss, OutputLoss) and type(loss).units is OutputLoss.units


def _one(text: Lines, script: Any, loss: LossText, names: dict[str, str], val: str, lead: str) -> None:
    """Sums over one source."""
    workload = script.run.workload
    text.add(f"{lead}total, {lead}count = 0.0, 0")
    for name in names.values():
        text.add(f"{lead}{name}, {lead}{name}_of = 0.0, 0")
    with text.block(f"for start in range(0, len({val}), {workload.eval_batch}):"):
        script.need("import numpy as np")
        rows = f"np.arange(start, min(start + {workload.eval_batch}, len({val})))"
        text.add(f"{loss.unpacked} = {val}.fetch({rows}, {{}})")
        _values(text, script, loss, bool(names), lead)
        for key, name in names.items():
            text.add(f"found = work.metrics[{literal(key)}](output, {_target(loss)}).double()")
            text.add(f"{lead}{name} += found.mean().item() * found.numel()", f"{lead}{name}_of += found.numel()")


def _target(loss: LossText) -> str:
    return loss.target if loss.plain else "target"


def _values(text: Lines, script: Any, loss: LossText, outputs: bool, lead: str) -> None:
    values = _shown(script)
    if loss.plain:
        if outputs:
            text.add(f"output = {loss.output}")
        loss.write(text, values, "output" if outputs else "")
        text.add(
            f"{lead}total += losses.sum().item()", f"{lead}count += {loss.counted() if loss.ignores else 'len(losses)'}"
        )
        return
    if outputs:
        script.need("from regimes.losses.forward import predict")
        text.add("output, target = predict(model, batch)", "units = work.loss.per_unit(output, target)")
    else:
        text.add("units = work.loss(model, batch)")
    if _weighted(script):
        text.add(
            f"{lead}total += (units.values * units.weights).sum().item()", f"{lead}count += units.weights.sum().item()"
        )
    else:
        text.add(f"{lead}total += units.values.sum().item()", f"{lead}count += units.values.numel()")


def _result(text: Lines, names: dict[str, str]) -> None:
    found = ['"val/loss": total / count', *[f'"val/{key}": {n} / {n}_of' for key, n in names.items()]]
    text.add("return {" + ", ".join(found) + "}")


def _units(script: Any) -> Any:
    """The units of the workload's own loss on one validation example."""
    run = script.run
    batch = next(iter(run.workload.sources["val"].values())).fetch(np.arange(min(2, run.view.size)), {})
    modes = [(module, module.training) for module in run.model.modules()]
    run.model.eval()
    try:
        with kept(), torch.no_grad():
            return run.workload.loss(run.model, batch)
    finally:
        for module, training in modes:
            module.training = training


def _shown(script: Any) -> torch.Tensor:
    return _units(script).values


def _weighted(script: Any) -> bool:
    return _units(script).weights is not None


def _refuse_drawing(script: Any) -> None:
    """Refuse a model that draws random numbers in evaluation mode, too."""
    marks = Marks()
    with kept():
        seed_all(0)
        before, others = torch.default_generator.get_state(), marks()
        _units_unkept = _units(script)
        del _units_unkept
        moved = not torch.equal(before, torch.default_generator.get_state()) or marks() != others
    if moved or any(source.draws for source in script.run.workload.sources["val"].values()):
        raise DeclarationError(
            "got validation that draws random numbers; allowed in a script: one that draws none", "val"
        )
