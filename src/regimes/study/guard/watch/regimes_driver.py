"""Trains a workload of ours at a version: a script of its own, which is given the version's ``regimes`` by PYTHONPATH.

    python regimes_driver.py QUESTION.yaml SEED OUT METRIC MODE

leaves ``metrics.json``, and by its mode the times of the steps (``time``) or what every step read and wrote
(``trace:STEPS``), in the form of `regimes_watch`, which lies beside.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main(question: str, seed: str, out: str, metric: str, mode: str) -> None:
    """Train, and leave the metrics; a run that gave up leaves NaN."""
    from regimes.core.errors import RunFailed
    from regimes.study import files
    from regimes.study.own import Own

    found = files.read(question)
    assert isinstance(found, files.RunFile)  # that is how the question was written
    Own(found.workload, {}).metric_name(metric)  # refused before anything is trained
    kind, _, steps = mode.partition(":")
    make = _traced(Path(out), int(steps)) if kind == "trace" else _timed(Path(out))
    try:
        metrics = make(found.workload, found.regime, int(seed))
    except RunFailed as why:
        if why.__cause__ is not None:
            raise
        print(f"diverged: {why}", file=sys.stderr)
        metrics = {metric: math.nan}
    (Path(out) / "metrics.json").write_text(json.dumps(metrics))


def _timed(out: Path) -> Any:
    def make(workload: Any, regime: Any, seed: int) -> dict[str, float]:
        from regimes_watch import Watch

        from regimes.engine import api

        watch = Watch(out)
        try:
            for _ in api.stream(workload, regime, seed, out=out / "run"):
                watch.stepped(None, (), {})
        finally:
            watch.note_times()
        return api.run(workload, regime, seed, out=out / "run").metrics  # finished: it is only read

    return make


def _traced(out: Path, steps: int) -> Any:
    def make(workload: Any, regime: Any, seed: int) -> dict[str, float]:
        from regimes_watch import TRACE

        from regimes.engine.api import final_metrics
        from regimes.engine.run import Run

        run, record = Run(workload, regime, seed), None
        with (out / TRACE).open("w") as file:
            while not run.finished:
                record, row = _step(run, steps)
                file.write(json.dumps(row) + "\n")
            metrics = final_metrics(run, record)
            numbers = [[name, name, repr(value)] for name, value in metrics.items()]
            end = {"weights": _tensors(run.model.state_dict()), "metrics": numbers}
            file.write(json.dumps({"step": run.frame.step, "parts": end}) + "\n")
        return metrics

    return make


def _step(run: Any, steps: int) -> tuple[Any, dict[str, Any]]:
    """Train one step; return its record, and the row of it."""
    from regimes.engine import records

    run.ready()
    number, before, evaluated = run.frame.step, {}, {}
    whole = number < steps and run.frame.trial is None
    if whole:
        before, evaluated = {"before": _tensors(run.parameters), "data": _data(run)}, _seen(run)
    record = run.step()
    knobs = [[path, path, repr(value)] for path, value in record.knobs.items()]
    after = {"weights": _tensors(run.parameters)} if whole and not run.finished else {}
    line = {"record": [["record", "", records.line(record)]]}
    return record, {"step": number, "parts": before | {"knobs": knobs} | evaluated | after | line}


def _data(run: Any) -> list[list[str]]:
    """The plan of the step, its first examples by number."""
    plan = run.frame.plans[0]
    found = hashlib.blake2b(repr(plan.indices.tolist()).encode(), digest_size=8)
    for given in (plan.sources, plan.weights, *(plan.columns[name] for name in sorted(plan.columns))):
        found.update(repr(given.tolist() if hasattr(given, "tolist") else given).encode())
    shown = ", ".join(map(str, plan.indices[:4].tolist()))
    return [["examples", "", f"{shown} ... ({found.hexdigest()})"]]


def _seen(run: Any) -> dict[str, list[list[str]]]:
    """Loss and gradient of the step; of an engine that is built otherwise, nothing: records and weights still tell."""
    try:
        return _evaluated(run)
    except (AttributeError, ImportError, TypeError) as why:
        print(
            f"the engine of this version cannot be looked into ({why}): loss and gradient are left out", file=sys.stderr
        )
        return {}


def _evaluated(run: Any) -> dict[str, list[list[str]]]:
    """Loss and gradient before and after gradient transforms; everything is put back (as `engine.look` does)."""
    from regimes.core import randomness
    from regimes.core.errors import NonFinite
    from regimes.engine.evaluator import Evaluator
    from regimes.engine.forwards import Unaddressed

    live = run.phase.substitute(
        run.phase.step_knobs.values(run.states["knobs"], run.position) | run.frame.plans[0].knobs
    )
    flops, run.flops = run.flops, None
    modes = [(module, module.training) for module in run.model.modules()]
    evaluate = Evaluator(run, live, run.frame.plans[0])
    try:
        with randomness.kept():
            evaluate.ask()
            wanted, names = live.optimizer.uses_gradients, list(run.parameters)
            found = evaluate(grad=wanted, final=False)
            parts = {"loss": [["loss", "", repr(found.loss)]]}
            if wanted:
                parts["gradient"] = _tensors(dict(zip(names, found.gradients)))
                parts["transformed"] = _tensors(dict(zip(names, evaluate().gradients)))
            return parts
    except NonFinite as why:
        return {"loss": [["loss", "", f"not finite: {why}"]]}
    except Unaddressed:  # the forward has begun to draw from other generators; now that is known
        evaluate.undo()
        return _evaluated(run)
    finally:
        evaluate.undo()
        run.flops = flops
        for module, training in modes:
            module.training = training


def _tensors(named: Mapping[str, Any]) -> list[list[str]]:
    from regimes_watch import digest

    return [[name, "", digest(tensor)] for name, tensor in named.items()]


if __name__ == "__main__":
    main(*sys.argv[1:])
