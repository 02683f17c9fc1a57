"""A look at the step that comes next, at the weights with which it begins: nothing of the run is changed."""

from __future__ import annotations

from typing import Any

from regimes.core import randomness
from regimes.core.errors import DeclarationError, NonFinite
from regimes.engine.evaluator import Evaluation, Evaluator
from regimes.engine.forwards import Unaddressed
from regimes.engine.plan import Plan
from regimes.probes.norms import by_layer, norm


def look(run: Any) -> dict[str, Any]:
    """Return what the next step's first evaluation finds, of the whole batch.

    Parameters
    ----------
    run : Run
        Between two steps; `Run.ready` has been called.

    Returns
    -------
    dict
        ``examples``: (name, loss), the largest loss first; of a loss that gives one number for the batch, none.
        ``gradient_norm`` and ``gradient`` (by layer), before gradient transforms; None and empty where the rule uses
        none. ``not_finite``: what was not, and of which examples, where the step will be skipped.
    """
    plan = run.frame.plans[0]
    live = run.phase.substitute(run.phase.step_knobs.values(run.states["knobs"], run.position) | plan.knobs)
    found: dict[str, Any] = {"examples": [], "gradient_norm": None, "gradient": {}}
    try:
        seen = _evaluated(run, live, plan)
    except NonFinite as why:
        return found | {"not_finite": {"what": why.what, "examples": list(map(str, why.examples)), "layer": why.layer}}
    if seen.gradients:
        found |= {"gradient_norm": norm(seen.gradients), "gradient": by_layer(run.parameters, seen.gradients)}
    if seen.units is not None:
        losses = seen.units.per_example().tolist()
        found["examples"] = sorted(zip(names(run, plan), losses), key=lambda pair: -pair[1])
    return found


def names(run: Any, plan: Plan) -> list[str]:
    """Names of a plan's examples: their numbers, with their source in front where there are several."""
    sizes = run.view.sizes
    if len(sizes) == 1:
        return [str(number) for number in plan.indices.tolist()]
    sources, indices = plan.placed(sizes)
    called = list(sizes)
    return [f"{called[place]}:{number}" for place, number in zip(sources.tolist(), indices.tolist())]


def _evaluated(run: Any, live: Any, plan: Plan, reduce: bool = False) -> Evaluation:
    """The step's first evaluation, on its own random streams; work, buffers, modes and generators are put back."""
    flops, run.flops = run.flops, None
    modes = [(module, module.training) for module in run.model.modules()]
    evaluate = Evaluator(run, live, plan)
    try:
        with randomness.kept():
            evaluate.ask()
            return evaluate(grad=live.optimizer.uses_gradients, final=False, reduce=reduce)
    except Unaddressed:  # the forward has begun to draw from other generators; now that is known
        evaluate.undo()
        return _evaluated(run, live, plan, reduce)
    except DeclarationError:  # a loss of one number for the whole batch, which says nothing of its examples
        if reduce:
            raise
        evaluate.undo()
        return _evaluated(run, live, plan, reduce=True)
    finally:
        evaluate.undo()
        run.flops = flops
        for module, training in modes:
            module.training = training
