"""Contracts of optimizers: what they write, and when."""

from __future__ import annotations

import contextlib

import torch

from regimes.core import paths
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Optimizer
from regimes.core.notation import parse
from regimes.engine import trees
from regimes.testing.conformance.declared import others
from regimes.testing.conformance.harness import demand, few, rule
from regimes.testing.conformance.stand import Setup, Stand
from regimes.testing.conformance.watch import watched_step


@rule("moves the weights", "optimizer")
def moves_the_weights(stand: Stand) -> None:
    """After a step some weights are others, all are finite, and what is not trained is as it was."""
    run = stand.make(trainable=["0.*", "4.weight"])() if stand.setup.place == "optimizer" else stand.make()()
    before = trees.clone(dict(run.model.named_parameters()))
    for _ in range(3):
        run.step()
    moved = trees.differences(before, trees.clone(dict(run.model.named_parameters())))
    demand(moved, f"three steps of {stand.example!r} move nothing")
    demand(set(moved) <= set(run.parameters), f"{stand.example!r} moves what is not trained: {moved}")
    demand(all(torch.isfinite(p).all() for p in run.trained), f"three steps of {stand.example!r} make weights infinite")


@rule("writes after its last evaluation", "optimizer")
def writes_after_its_last_evaluation(stand: Stand) -> None:
    """Parameters and state are written only when no further evaluation can fail."""
    run = stand.make()()
    for _ in range(3):
        seen = watched_step(run)
        demand(not seen.early, f"{stand.example!r} has written {seen.early[:4]} before its last evaluation")


@rule("leaves gradients as they are", "optimizer")
def leaves_gradients_as_they_are(stand: Stand) -> None:
    """Gradients belong to who made them: in a person's own loop they are `p.grad`, which is read after the step, too.

    With every knob that is 0 at another value also, as what a decay adds may be written there.
    """
    for setup in [*stand.setups, *_switched_on(stand)]:
        run = stand.make(setup)()
        for _ in range(3):
            found = watched_step(run).overwritten()
            demand(not found, f"a step of {setup.example!r} writes into its gradients: {few(found)}")


def _switched_on(stand: Stand) -> list[Setup]:
    """Setups in which one knob that is 0 in the example has another value that it allows."""
    found = []
    for path, spec in stand.own_knobs.items():
        number = paths.get(stand.example, path)
        for value in others(spec, number) if number == 0 else ():
            with contextlib.suppress(DeclarationError):
                setup = stand.setup._replace(example=paths.edit(stand.example, {path: value}))
                stand.make(setup)()
                found.append(setup)
                break
    return found


@rule("evaluates finally once", "optimizer")
def evaluates_finally_once(stand: Stand) -> None:
    """Exactly one final evaluation with gradients a step, or none with gradients; one in all where it says so."""
    run = stand.make()()
    for _ in range(2):
        calls = watched_step(run).calls
        finals = sum(grad and final for grad, final in calls)
        demand(
            finals == 1 or not any(grad for grad, _ in calls), f"{finals} evaluations of a step are final, of {calls}"
        )
        alone = not stand.example.single_evaluation or len(calls) == 1
        demand(alone, f"{stand.cls.__name__}.single_evaluation is True, but a step makes {len(calls)} evaluations")


@rule("shows evaluation weights", "optimizer")
def shows_evaluation_weights(stand: Stand) -> None:
    """Evaluation weights have the names and shapes of the parameters; looking at them changes nothing."""
    run = stand.make()()
    for _ in range(3):
        run.step()
    own = run.phase.declaration.optimizer
    before = trees.clone({"state": run.states["optimizer"], "weights": dict(run.parameters)})
    first, again = (
        trees.clone(dict(own.evaluation_weights(run.states["optimizer"], run.parameters))) for _ in range(2)
    )
    after = trees.clone({"state": run.states["optimizer"], "weights": dict(run.parameters)})
    found = trees.differences(before, after)
    demand(not found, f"looking at the evaluation weights of {stand.example!r} changes {found[:4]}")
    demand(not trees.differences(first, again), "looked at twice, the evaluation weights differ")
    shapes = {name: p.shape for name, p in run.parameters.items()}
    demand({name: w.shape for name, w in first.items()} == shapes, f"evaluation weights are {list(first)}")
    shared = not trees.differences(first, before["weights"])
    demand(shared or not own.shared_evaluation_weights(), "evaluation weights are others, and it says they are shared")


@rule("shows its base's evaluation weights", "optimizer")
def shows_its_bases_evaluation_weights(stand: Stand) -> None:
    """A rule that keeps another one's state under the name of its field shows that one's evaluation weights."""
    base = parse("ScheduleFreeSGD(lr=0.05)")
    for name, held in stand.example.children():
        if not isinstance(held, Optimizer) or stand.setup.place != "optimizer":
            continue
        try:
            run = stand.make(stand.setup._replace(example=stand.example.replace(name, base)))()
        except DeclarationError:
            continue  # it takes no such base
        for _ in range(3):
            run.step()
        own, state = run.phase.declaration.optimizer, run.states["optimizer"]
        if name not in state:
            continue  # what the other rule makes is its own affair: a client's, in a trial
        shown = trees.clone(dict(own.evaluation_weights(state, run.parameters)))
        meant = trees.clone(dict(base.evaluation_weights(state[name], run.parameters)))
        said = "" if not own.shared_evaluation_weights() else " and says that they are shared"
        demand(
            not said and not trees.differences(meant, shown),
            f"{stand.example!r} does not show the evaluation weights of its {name}{said}",
        )
