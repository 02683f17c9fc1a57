"""Contracts of probes: they give numbers, the same again, and disturb nothing, alone and in a run."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

from regimes.core.errors import DeclarationError
from regimes.core.notation import parse
from regimes.engine import trees
from regimes.engine.observation import Observer
from regimes.engine.run import Run
from regimes.testing.conformance import tiny
from regimes.testing.conformance.examples import importable
from regimes.testing.conformance.harness import demand, rule
from regimes.testing.conformance.stand import Stand

_OFTEN = "0.1%"


def _task(stand: Stand) -> str:
    """The first tiny workload that the probe does not refuse: most take any, some want a model of a form of its own."""
    for task in (*tiny.TASKS, *tiny.SPECIAL):
        work = tiny.workload(task)
        model = work.build(3)
        given = {name: p.detach() * 0.9 for name, p in model.named_parameters()}
        # What fails otherwise than by a refusal is tried there, and found by the check that meets it.
        with importable(stand.cls), contextlib.suppress(Exception):
            try:
                stand.example(model, work.loss, _batch(task), previous=given, initial=given)
            except DeclarationError:
                continue
        return task
    return "classes"


def _batch(task: str) -> Any:
    return tiny.workload(task).sources["train"]["train"].fetch(np.arange(tiny.SIZE), {})


def _run(task: str) -> Run:
    rule_ = "SAM(AdamW(lr=Cosine(0.01)))"
    regime = parse(f"Regime(optimizer={rule_}, batch_size=6, budget='5 steps', average=EMA(0.9), lag=1)")
    return Run(tiny.workload(task), regime, seed=1)


def _observed(task: str, probes: list[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The final state of a run, and what was found after each step."""
    run, found = _run(task), []
    observer = Observer(run, probes)
    while not run.finished:
        observer.before()
        found.append(observer.after(run.step()))
    tree = trees.clone(run.tree())
    del tree["probes"]
    del tree["work"]["observed_flops"]
    return tree, found


@rule("gives numbers", "probe")
def gives_numbers(stand: Stand) -> None:
    """In a run every measurement succeeds, and is a dict of floats by name."""
    _, found = _observed(_task(stand), [stand.example.replace("every", _OFTEN)])
    for number, values in enumerate(found):
        demand("probe_error" not in values, f"after step {number}: {values.get('probe_error')}")
        demand(values, f"nothing was measured after step {number}")


@rule("disturbs nothing in a run", "probe")
def disturbs_nothing_in_a_run(stand: Stand) -> None:
    """Weights, states, buffers, plans and work are bitwise those of a run without it; its own memory is apart."""
    task, often = _task(stand), stand.example.replace("every", _OFTEN)
    found = trees.differences(_observed(task, [])[0], _observed(task, [often])[0])
    demand(not found, f"with {stand.example!r} the run ends differently at {found[:4]}")


@rule("disturbs nothing alone", "probe")
def disturbs_nothing_alone(stand: Stand) -> None:
    """Called as ``probe(model, loss_fn, batch)`` it gives the same numbers again and leaves everything as it was."""
    task = _task(stand)
    work, batch = tiny.workload(task), _batch(task)
    model = work.build(3)
    previous = {name: p.detach() * 0.9 for name, p in model.named_parameters()}
    work.loss(model, batch).values.mean().backward()
    before = _everything(model)
    with importable(stand.cls):
        first, again = (stand.example(model, work.loss, batch, previous=previous, initial=previous) for _ in range(2))
    found = trees.differences(before, _everything(model))
    demand(not found, f"{stand.example!r} leaves changes at {found[:4]}")
    fine = first and all(isinstance(k, str) and isinstance(v, float | int) for k, v in first.items())
    demand(fine, f"{stand.example!r} gave {first!r}; allowed: numbers by name")
    demand(not trees.differences(first, again), f"measured twice, {stand.example!r} gives {first} and {again}")


def _everything(model: Any) -> dict[str, Any]:
    return {
        "state": trees.clone(dict(model.state_dict())),
        "gradients": {name: trees.clone(p.grad) for name, p in model.named_parameters()},
        "places": {name: p.data_ptr() for name, p in model.named_parameters()},
        "trained": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "random": torch.get_rng_state(),
    }
