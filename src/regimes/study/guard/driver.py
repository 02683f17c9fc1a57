"""Trains a workload of ours at a version: a script of its own, which is given the version's ``regimes`` by PYTHONPATH.

    python driver.py QUESTION.yaml SEED OUT METRIC MODE

leaves ``metrics.json``, and by its mode the times of the steps (``time``) or what every step read and wrote
(``trace:STEPS``), in the form of `watch.regimes_watch`.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "watch"))
from regimes_watch import TRACE, Watch, digest  # type: ignore[import-not-found]  # noqa: E402 (it lies beside)


def main(question: str, seed: str, out: str, metric: str, mode: str) -> None:
    """Train, and leave the metrics; a run that gave up leaves NaN."""
    from regimes.core.errors import RunFailed
    from regimes.study import files
    from regimes.study.own import Own

    found = files.read(question)
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
        from regimes.engine.api import final_metrics
        from regimes.engine.run import Run

        run, last = Run(workload, regime, seed), None
        with (out / TRACE).open("w") as file:
            for last, row in _rows(run, steps):
                file.write(json.dumps(row) + "\n")
            metrics = final_metrics(run, last)
            numbers = [[name, name, repr(value)] for name, value in metrics.items()]
            end = {"weights": _tensors(run.model.state_dict()), "metrics": numbers}
            file.write(json.dumps({"step": run.frame.step, "parts": end}) + "\n")
        return metrics

    return make


def _rows(run: Any, steps: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    from regimes.engine import records

    while not run.finished:
        number, parts = run.frame.step, {}
        run.ready()
        whole = number < steps and run.frame.trial is None
        if whole:
            parts = {"before": _tensors(run.parameters), "data": _data(run)} | _seen(run)
        record = run.step()
        knobs = [[path, path, repr(value)] for path, value in record.knobs.items()]
        parts = {name: parts[name] for name in ("before", "data") if name in parts} | {"knobs": knobs} | parts
        if whole and not run.finished:
            parts["weights"] = _tensors(run.parameters)
        line = records.line(record)
        parts["record"] = [["record", "", line]]
        yield record, {"step": number, "parts": parts}


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
        print(f"the engine of this version cannot be looked into ({why}): loss and gradient are left out", file=sys.stderr)
        return {}


def _evaluated(run: Any) -> dict[str, list[list[str]]]:
    """Loss and gradient before and after gradient transforms; everything is put back (as `engine.look` does)."""
    from regimes.core import randomness
    from regimes.core.errors import NonFinite
    from regimes.engine.evaluator import Evaluator
    from regimes.engine.forwards import Unaddressed

    live = run.phase.substitute(run.phase.step_knobs.values(run.states["knobs"], run.position) | run.frame.plans[0].knobs)
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
    return [[name, "", digest(tensor)] for name, tensor in named.items()]


if __name__ == "__main__":
    main(*sys.argv[1:])
