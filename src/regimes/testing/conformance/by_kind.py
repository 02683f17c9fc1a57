"""Contracts of single kinds: samplers, losses, averagers, gradient transforms, controllers, model transforms."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch

from regimes.core.kinds import Draw, DrawContext, TransformContext
from regimes.core.progress import Progress
from regimes.core.unit_losses import UnitLosses, Units
from regimes.engine import trees
from regimes.engine.plan import Plan
from regimes.engine.run import Run
from regimes.probes.view import length
from regimes.testing.conformance.harness import demand, rule
from regimes.testing.conformance.stand import Stand, applied
from regimes.testing.conformance.tiny import BATCH, SIZE
from regimes.testing.resume import elsewhere, through_bytes


def _begun(stand: Stand, steps: int = 3) -> Run:
    """A run of the example, some steps in."""
    run = stand.make()()
    for _ in range(steps):
        applied(run)
    return run


def _unchanged(stand: Stand, run: Run, before: Any, doing: str) -> None:
    found = trees.differences(before, trees.clone(stand.state(run)))
    demand(not found, f"{doing}, {stand.example!r} changes its state at {found[:4]}: it may be read only")


# -- samplers --------------------------------------------------------------------------------------------


def _drawn(stand: Stand, run: Run, cursor: Any, n: int) -> Draw:
    ctx = DrawContext(run.view, run.streams, run.frame.step, run.position, run.streams.prefix)
    return stand.live(run).draw(stand.state(run), cursor, n, ctx)


@rule("draws what can be fetched", "sampler")
def draws_what_can_be_fetched(stand: Stand) -> None:
    """n indices in range of their sources, columns of n values, weights that are positive; for any n."""
    run = _begun(stand)
    sizes = list(run.view.sizes.values())
    for n in (1, BATCH, SIZE, 2 * SIZE + 1):
        drawn = _drawn(stand, run, run.frame.cursor, n)
        indices = np.asarray(drawn.indices)
        demand(
            indices.shape == (n,) and indices.dtype == np.int64, f"asked for {n}, drew {indices.dtype}{indices.shape}"
        )
        sources = np.zeros(n, dtype=np.int64) if drawn.sources is None else np.asarray(drawn.sources)
        demand(sources.shape == (n,) and 0 <= sources.min() <= sources.max() < len(sizes), f"sources are {sources}")
        limits = np.array(sizes)[sources] if drawn.sources is not None else run.view.size
        demand((indices >= 0).all() and (indices < limits).all(), f"{indices} are not all below {limits}")
        if drawn.weights is not None:
            weights = np.asarray(drawn.weights)
            demand(weights.shape == (n,) and np.isfinite(weights).all(), f"weights of {n} examples are {weights}")
            demand((weights > 0).all(), f"a drawn example has no positive weight: {weights.min()}")
        for name, column in drawn.columns.items():
            demand(np.ndim(column) == 0 or len(column) == n, f"column '{name}' has {np.shape(column)} values for {n}")


@rule("draws the same again", "sampler")
def draws_the_same_again(stand: Stand) -> None:
    """A draw is a function of state, cursor and address: it changes neither, and no global generator plays a part."""
    run = _begun(stand)
    state, cursor = trees.clone(stand.state(run)), copy.deepcopy(run.frame.cursor)
    first = _plain(_drawn(stand, run, run.frame.cursor, 2 * BATCH + 1))
    _unchanged(stand, run, state, "drawing")
    found = trees.differences(trees.clone(cursor), trees.clone(run.frame.cursor))
    demand(not found, f"drawing, {stand.example!r} changes the cursor that it was given at {found[:4]}")
    with elsewhere(5):
        again = _plain(_drawn(stand, run, through_bytes(trees.clone(cursor)), 2 * BATCH + 1))
    found = trees.differences(first, again)
    demand(not found, f"from a copied cursor {stand.example!r} draws something else: {found[:4]}")


def _plain(drawn: Draw) -> dict[str, Any]:
    arrays = {"indices": drawn.indices, "weights": drawn.weights, "sources": drawn.sources, **drawn.columns}
    return {name: a.tolist() if isinstance(a, np.ndarray) else a for name, a in arrays.items()} | {
        "cursor": trees.clone(drawn.cursor)
    }


# -- losses ----------------------------------------------------------------------------------------------


def _units(stand: Stand, run: Run, places: list[int]) -> UnitLosses:
    plan = Plan(0, np.array(places), None, None, {}, {}, {})
    batch = run.read(plan)
    torch.default_generator.manual_seed(0)
    return stand.live(run).units(stand.state(run), run.model, batch)


@rule("gives unreduced losses", "loss")
def gives_unreduced_losses(stand: Stand) -> None:
    """One value with graph per unit, weights without graph, examples in range; the state is only read."""
    run = _begun(stand)
    state = trees.clone(stand.state(run))
    found = _units(stand, run, list(range(BATCH)))
    _unchanged(stand, run, state, "giving units")
    shape = tuple(found.values.shape)
    demand(found.values.requires_grad, "the values of the units have no graph")
    demand(len(shape) == 1 and shape[0] >= BATCH, f"{BATCH} examples give values of shape {shape}: were they reduced?")
    demand(shape[0] == BATCH or found.examples is not None, f"{shape[0]} units of {BATCH} examples do not say whose")
    if found.examples is not None:
        demand(set(found.examples.tolist()) <= set(range(BATCH)), f"units belong to examples {found.examples.tolist()}")
    if found.weights is not None:
        demand(
            tuple(found.weights.shape) == shape, f"{shape[0]} units have weights of shape {tuple(found.weights.shape)}"
        )
        demand(not found.weights.requires_grad and (found.weights >= 0).all(), "weights have a graph, or are negative")


@rule("is separable as it says", "loss", when=lambda stand: stand.example.separable)
def is_separable_as_it_says(stand: Stand) -> None:
    """In a model without interaction, an example's losses are the same alone and in a batch."""
    run = _begun(stand)
    run.model.eval()
    whole = _units(stand, run, list(range(BATCH)))
    place = torch.arange(BATCH) if whole.examples is None else whole.examples
    for example in range(BATCH):
        alone = _units(stand, run, [example]).values
        inside = whole.values[place == example]
        demand(
            torch.allclose(alone, inside, rtol=1e-4, atol=1e-6),
            f"{stand.example!r} says it is separable; example {example} has {inside.tolist()} in a batch and "
            f"{alone.tolist()} alone",
        )


# -- averagers and gradient transforms -----------------------------------------------------------------------


@rule("averages what it is shown", "averager")
def averages_what_it_is_shown(stand: Stand) -> None:
    """The average of equal weights is these weights, under their names; looking at it changes nothing."""
    run = _begun(stand, 0)
    shown = {name: torch.full_like(p, 0.375) for name, p in run.parameters.items()}
    state, live = stand.state(run), stand.live(run)
    for number in range(24):
        at = Progress(number, 6 * number, 6 * number, number, 6 * number, 6 * number, number / 24, number / 24)
        state = live.observe(state, {"weights": shown}, at)
    before = trees.clone(state)
    average = live.average(state)
    demand(average is not None, f"after 24 steps {stand.example!r} has averaged nothing")
    assert average is not None
    demand(list(average) == list(run.parameters), f"the average holds {list(average)}")
    for name, value in average.items():
        demand(torch.allclose(value, shown[name], rtol=1e-6), f"the average of equal weights '{name}' is another")
        demand(value.shape == run.parameters[name].shape, f"the average of '{name}' has shape {tuple(value.shape)}")
    demand(not trees.differences(before, trees.clone(state)), "averaging changes the state: it may be read only")
    demand(all((w == 0.375).all() for w in shown.values()), "observing writes into the weights that are shown")


@rule("transforms gradients in form", "grad_transform")
def transforms_gradients_in_form(stand: Stand) -> None:
    """As many gradients of the same shapes, finite also where all are zero, the same again, the state only read."""
    run = _begun(stand)
    state = trees.clone(stand.state(run))
    names, tensors = tuple(run.parameters), tuple(run.parameters.values())

    def applied(scale: float, process: int) -> tuple[torch.Tensor, ...]:
        def generator(name: str) -> torch.Generator:
            return torch.Generator().manual_seed(len(name))

        drawn = torch.Generator().manual_seed(3)
        gradients = tuple(torch.randn(p.shape, generator=drawn) * scale for p in tensors)
        with elsewhere(process):
            return stand.live(run).apply(stand.state(run), gradients, TransformContext(names, tensors, generator, 6.0))

    for scale in (1.0, 0.0, 1e-4):
        found = applied(scale, 1)
        demand(
            [g.shape for g in found] == [p.shape for p in tensors], f"shapes become {[tuple(g.shape) for g in found]}"
        )
        demand(all(torch.isfinite(g).all() for g in found), f"gradients of size {scale:g} become infinite or NaN")
        same = all(torch.equal(a, b) for a, b in zip(found, applied(scale, 2)))
        demand(same, "the same gradients are transformed differently the second time")
    _unchanged(stand, run, state, "applied")


@rule("augments in form", "augment")
def augments_in_form(stand: Stand) -> None:
    """As many examples in the same form, the same from the same generator and no other; the state only read."""
    run = _begun(stand)
    before = trees.clone(stand.state(run))

    def applied(process: int) -> Any:
        plan = Plan(0, np.arange(BATCH), None, None, {}, {}, {})
        batch = run.read(plan)
        with elsewhere(process):
            found = stand.live(run).apply(stand.state(run), batch, torch.Generator().manual_seed(3))
        return batch, found

    (batch, first), (_, again) = applied(1), applied(2)
    _unchanged(stand, run, before, "applied")
    demand(type(first) is type(batch), f"a batch of type {type(batch).__name__} becomes a {type(first).__name__}")
    demand(length(first) == BATCH, f"{BATCH} examples become {length(first)}")
    demand(not trees.differences(first, again), "from the same generator the same batch becomes another")


# -- controllers, selectors, model transforms --------------------------------------------------------------


@rule("has a value before any signal", "controller")
def has_a_value_before_any_signal(stand: Stand) -> None:
    """The value is a finite function of state and position; reading it changes nothing."""
    run = _begun(stand, 0)
    controller: Any = run.phase.controllers["optimizer.lr"]
    controller = controller.right
    for _ in range(3):
        before = trees.clone(stand.state(run))
        values = [controller.value(stand.state(run), run.position) for _ in range(2)]
        demand(all(math.isfinite(v) for v in values) and values[0] == values[1], f"read twice, the value is {values}")
        _unchanged(stand, run, before, "read")
        applied(run)


@rule("selects with a weight per unit", "selector")
def selects_with_a_weight_per_unit(stand: Stand) -> None:
    """One finite, non-negative weight per unit, not all zero, the same again; the state is only read."""
    run = _begun(stand)
    before = trees.clone(stand.state(run))
    places = torch.arange(12)
    units = Units(torch.linspace(0.1, 3.0, 12), None, places, places)
    first, again = (stand.live(run).select(stand.state(run), units) for _ in range(2))
    _unchanged(stand, run, before, "selecting")
    demand(tuple(first.shape) == (12,) and torch.isfinite(first).all(), f"12 units get the weights {first.tolist()}")
    demand((first >= 0).all() and (first > 0).any(), f"12 units get the weights {first.tolist()}")
    demand(torch.equal(first, again), "the same losses are selected differently the second time")


@rule("builds the same structure again", "model_transform")
def builds_the_same_structure_again(stand: Stand) -> None:
    """`structure` is a pure function of the declaration, and `fill` names every new parameter."""
    build = stand.workload().build
    with elsewhere(1):
        first = stand.example.structure(build(7))
    with elsewhere(2):
        again = stand.example.structure(build(7))
    shapes = [{n: (tuple(p.shape), p.requires_grad) for n, p in m.named_parameters()} for m in (first, again)]
    demand(shapes[0] == shapes[1], f"the second time the structure is another: {shapes}")
    run = stand.make()()
    before = build(7)
    changed = stand.example.structure(copy.deepcopy(before))
    with elsewhere(3):
        result = stand.example.fill(changed, before, iter(()), run.streams.within("fill"))
    named = dict(changed.named_parameters())
    demand(set(named) <= set(result.names), f"the name map leaves out {sorted(set(named) - set(result.names))}")
    old = dict(before.named_parameters())
    strange = {origin for origin in result.names.values() if origin is not None and origin not in old}
    demand(not strange, f"the name map names parameters that the old model does not have: {strange}")
