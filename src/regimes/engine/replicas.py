"""Replicas: runs of one architecture whose forwards and backwards are made together.

Every replica is a run like any other, with its own position, plan, knobs, states, records: only the answer to the first
evaluation of its step is made together with the others'. Whatever a stack cannot do is left to the run alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from regimes.core.randomness import kept
from regimes.core.unit_losses import UnitLosses
from regimes.engine import arithmetic, bursts
from regimes.engine.buffers import Buffers
from regimes.engine.evaluator import Evaluator, Foreseen, Ready
from regimes.engine.parts import Part
from regimes.engine.plan import Plan
from regimes.engine.rows import Rows
from regimes.engine.stackable import Unstackable, refuse
from regimes.engine.stacked_forward import Mode, StackedForward
from regimes.engine.step import Begun, Record, begin, end
from regimes.engine.traced import Attributes, Inputs, Traced, Worth
from regimes.losses.forward import split

#: Makes gradients, by leaf, of the seeds of all values.
Backward = Callable[[Tensor], Sequence[Tensor | None]]

#: How far the loss and gradient of a replica may be from those that it has alone, relative to their size.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_AUTOCAST = 0.05
#: What is so small beside the largest entry of all gradients is compared with that instead of with its own size.
_ROUNDED = 1e-3


class Stack:
    """Several runs that step together.

    Parameters
    ----------
    runs : sequence of Run
        In one process, of one workload, between two steps.

    Raises
    ------
    Unstackable
        If they cannot be stacked, with the reason; they are then as before.
    """

    def __init__(self, runs: Sequence[Any]) -> None:
        refuse(runs)
        self.runs = list(runs)
        self._phases = [run.phase for run in runs]
        self.rows = Rows(runs)
        leaves = self.rows.stacked()
        self._leaves = tuple(leaves.values())
        frozen = {
            name: torch.stack([dict(run.model.named_parameters())[name].detach() for run in runs])
            for name, _ in runs[0].model.named_parameters()
            if name not in leaves
        }
        self._forward = StackedForward([run.model for run in runs], leaves | frozen)
        #: By the size of a micro-batch, its graph; None where it cannot be traced.
        self._graphs: dict[int, Traced | None] = {}
        self._traceable = False
        #: Whether steps are made by graphs.
        self.worth = Worth()
        for run in runs:
            run.buffers = Buffers(run.model)
        #: Operations of a micro-batch, by its size.
        self._flops: dict[int, float] = {}
        try:
            self._verify()
        except Exception as why:
            self.release()
            if isinstance(why, Unstackable):
                raise
            raise Unstackable(f"the model does not go through torch.func.vmap ({_first_line(why)})") from why

    @property
    def whole(self) -> bool:
        """Whether every run is still in the phase in which they were stacked."""
        return all(not run.finished and run.phase is phase for run, phase in zip(self.runs, self._phases))

    @property
    def left(self) -> float:
        """How many steps there are left of the phase, by the steps that have been made of it."""
        run = self.runs[0]
        return run.frame.phase_step * (run.phase.length.total - run.consumed) / max(run.consumed, 1e-12)

    def release(self) -> None:
        """Give every run tensors of its own; from then on each goes on alone."""
        self.rows.release()
        for run in self.runs:
            for slot in run.buffers.watched.values():
                value = slot.get()
                slot.module._buffers[slot.key] = None if value is None else value.clone()
            run.buffers = Buffers(run.model)

    # -- one step ------------------------------------------------------------------------------------------

    def step(self) -> list[Record | BaseException]:
        """Step every run once; what a run raises stands in place of its record.

        Raises
        ------
        Unstackable
            If the evaluation of all of them fails; no run has moved then.
        """
        begun = [begin(run) for run in self.runs]
        forward = self.runs[0].forward
        before = forward.callers_state()
        try:
            self._answer(begun)
            return [_ended(one) for one in begun]
        finally:
            forward.give_back(before)

    def _answer(self, begun: Sequence[Begun]) -> None:
        """Give every evaluator its answer; where batches differ in form, each makes its own."""
        try:
            found = self.evaluate(begun)
        except _Differ:
            return
        except Exception as why:
            for one in begun:
                one.evaluate.undo()
            raise Unstackable(f"evaluated together they fail ({_first_line(why)})") from why
        for one, ready in zip(begun, found):
            one.evaluate.ready = ready

    def burst(self, most: int, last: Callable[[Any], bool]) -> list[list[Record]]:
        """Make up to so many steps of every run whose bookkeeping is done ahead; return the records of each run.

        They end before a step that has to be made by `step`: one that is not finite, or after which there is something to
        measure. The bits are those of `step`.

        Parameters
        ----------
        most : int
        last : callable
            As of `regimes.engine.bursts.ahead`.
        """
        if not all(bursts.plain(run) for run in self.runs):
            return [[] for _ in self.runs]
        tables = [bursts.ahead(run, most, last) for run in self.runs]
        made: list[list[dict[str, Any]]] = [[] for _ in self.runs]
        for steps in zip(*tables):
            losses = self._plain_step([step.begun for step in steps])
            if losses is None:
                break
            for place, step in enumerate(steps):
                made[place].append(bursts.update(step.begun, losses[place], self.rows.views[place]))
        return [
            bursts.commit(run, table[: len(signals)], signals) if signals else []
            for run, table, signals in zip(self.runs, tables, made)
        ]

    def _plain_step(self, begun: Sequence[Begun]) -> list[float] | None:
        """Evaluate one step of every run; return the losses. None, and nothing has changed, if it is not a plain one."""
        before = [buffer.clone() for buffer in self._forward.buffers.values()]
        try:
            return self._plain_losses(begun)
        except Exception:  # `step` meets it again, and says whose it is
            for buffer, value in zip(self._forward.buffers.values(), before):
                buffer.copy_(value)
            return None

    def _plain_losses(self, begun: Sequence[Begun]) -> list[float]:
        size = len(begun[0].plan)
        if any(len(one.plan) != size or one.plan.weights is not None for one in begun) or not self._rowwise(begun):
            raise _Differ
        losses, values, each, backward = self._losses(begun, 0, 0, size)
        if (
            not each
            or any(found.weights is not None for found in losses)
            or (len(losses[0].values) != begun[0].run.foreseen[size].tokens)
        ):
            raise _Differ
        sums = values.detach().view(len(begun), -1).sum(1).tolist()
        mass = float(len(losses[0].values))
        self.rows.fill_scaled(backward(arithmetic.ones(values)), self._scale([mass] * len(begun)))
        if not all(map(math.isfinite, sums)) or not all(self._finite()):
            raise _Differ
        return [value / mass for value in sums]

    def evaluate(self, begun: Sequence[Begun]) -> list[Ready]:
        """Return the evaluation of every run's step."""
        sizes = begun[0].evaluate.sizes
        if any(one.evaluate.sizes != sizes for one in begun[1:]):
            raise _Differ
        tree, start = arithmetic.Tree(0, add=_add), 0
        parts: list[list[Part]] = [[] for _ in begun]
        for number, size in enumerate(sizes):
            tree.add(self._micro_batch(begun, number, start, size, parts))
            start += size
        scale = self._scale([math.fsum(part.mass for part in own) for own in parts])
        torch.mul(tree.total(), scale.unsqueeze(1), out=self.rows.gradients)
        finite = self._finite()
        return [Ready(own, views, fine) for own, views, fine in zip(parts, self.rows.views, finite)]

    def _scale(self, masses: list[float]) -> Tensor:
        """One over every run's sum of weights."""
        like = self.rows.gradients
        return torch.tensor([1.0 / max(mass, 1e-30) for mass in masses], dtype=like.dtype, device=like.device)

    def _finite(self) -> list[bool]:
        """Of each run whether its gradients are finite."""
        rows = self.rows.gradients
        # A sum that is finite says that all are; one that is not may have overflowed.
        return [
            math.isfinite(found) or bool(torch.isfinite(row).all()) for found, row in zip(rows.sum(1).tolist(), rows)
        ]

    def _micro_batch(
        self, begun: Sequence[Begun], number: int, start: int, size: int, parts: list[list[Part]]
    ) -> Tensor:
        """Evaluate one micro-batch of every run; note its part, and return the gradients as rows."""
        counted = self._counted(begun, number)  # first: to count puts buffers back, which a graph would mind
        losses, values, each, backward = self._losses(begun, number, start, size)
        own = [one.evaluate.weights(number, found, start) for one, found in zip(begun, losses)]
        sums, seeds = None, arithmetic.ones(values)
        if any(weights is not None for weights, _ in own):
            made = [torch.ones_like(f.values) if w is None else w.to(f.values.dtype) for f, (w, _) in zip(losses, own)]
            seeds = torch.cat(made)
        elif each:
            sums = values.detach().view(len(begun), -1).sum(1).tolist()
        if each and len(begun[0].evaluate.sizes) == 1 and all(found.weights is None for found in losses):
            for one in begun:
                one.run.foreseen[size] = Foreseen(len(losses[0].values), counted)
        for place, (one, found, (weights, mine)) in enumerate(zip(begun, losses, own)):
            if sums is None:
                value, mass = arithmetic.weighted_sum(found.values, weights, mine)
            else:
                value, mass = sums[place], float(len(found.values))
            batch = None if math.isfinite(value) else one.evaluate.batches()[number][2]
            part = one.evaluate.found(number, start, batch, found, value, mass, one.run.keep_units)
            parts[place].append(part._replace(flops=counted))
        gradients = self.rows.fill(backward(seeds))
        if any(one.run.micro_norms for one in begun):
            for mine_, norm in zip(parts, gradients.norm(dim=1).tolist()):
                mine_[-1] = mine_[-1]._replace(norm=norm / max(mine_[-1].mass, 1e-30))
        return gradients

    def _losses(
        self, begun: Sequence[Begun], number: int, start: int, size: int
    ) -> tuple[list[UnitLosses], Tensor, bool, Backward]:
        """Unit losses of one micro-batch of every run, all their values as one tensor, whether each has as many, and what
        makes gradients of seeds."""
        inputs = Inputs(*self._batch(begun, number, start, size))

        def seeds() -> list[int]:
            return [one.run.streams.seed32("forward", one.plan.step, number) for one in begun]

        with begun[0].run.forward.precision():
            masks, mode = self._forward.drawn(inputs.args, inputs.kwargs, seeds)
            graph = self._graph(begun, size, inputs, masks, mode) if self.worth.wanted else None
            if graph is not None:
                values, gradients = graph(self._leaves, self._buffers, inputs, masks)
                each = values.view(len(begun), -1)
                return [UnitLosses(own, None, graph.examples) for own in each], values, True, lambda _: gradients
            losses, values, each = self._units(begun, self._outputs(inputs, masks, mode), inputs.targets, size)
            return losses, values, each, lambda seeds: arithmetic.gradient(values, seeds, self._leaves)

    def _outputs(self, inputs: Inputs, masks: Sequence[Tensor], mode: Mode) -> Any:
        forward = self._forward
        return forward.mapped(forward.leaves, self._buffers, inputs.args, inputs.kwargs, masks, mode)

    @property
    def _buffers(self) -> tuple[Tensor, ...]:
        return tuple(self._forward.buffers.values())

    def _graph(
        self, begun: Sequence[Begun], size: int, inputs: Inputs, masks: Sequence[Tensor], mode: Mode
    ) -> Traced | None:
        """The graph of such a micro-batch, where there is one and what it supposes holds."""
        if not self._traceable or any(one.plan.weights is not None for one in begun):
            return None
        losses = [_loss_of(one.run, one.live) for one in begun]
        if size not in self._graphs:
            try:
                self._graphs[size] = self._trace(losses, begun, size, inputs, masks, mode)
            except Exception:  # torch cannot trace it, or it would not be the same
                self._graphs[size] = None
        graph = self._graphs[size]
        return graph if graph is not None and graph.fits(inputs, losses) else None

    def _trace(
        self,
        losses: Sequence[Any],
        begun: Sequence[Begun],
        size: int,
        inputs: Inputs,
        masks: Sequence[Tensor],
        mode: Mode,
    ) -> Traced:
        """Trace one step, and see that the graph finds the same bits; buffers are as before.

        Raises
        ------
        Exception
            If it cannot be traced, or finds others.
        """
        places = [next((i for i, own in enumerate(self._leaves) if own is leaf), leaf) for leaf in self._forward.leaves]

        def made(leaves: Any, buffers: Any, given: Inputs, masks: Any) -> tuple[Tensor, Any, Tensor | None]:
            own = tuple(leaves[place] if isinstance(place, int) else place for place in places)
            output = self._forward.mapped(own, buffers, given.args, given.kwargs, masks, mode)
            found, values, each = self._units(begun, output, given.targets, size)
            if not each or found[0].weights is not None or not losses[0].separable:
                raise _Differ
            gradients = torch.autograd.grad(values, leaves, torch.ones_like(values), allow_unused=True)
            return values, gradients, found[0].examples

        def plainly() -> tuple[Tensor, Sequence[Tensor | None]]:
            _, values, _ = self._units(begun, self._outputs(inputs, masks, mode), inputs.targets, size)
            return values.detach(), arithmetic.gradient(values, arithmetic.ones(values), self._leaves)

        before = [buffer.clone() for buffer in self._buffers]

        def aside(make: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
            try:
                return make(), [buffer.clone() for buffer in self._buffers]
            finally:
                for buffer, value in zip(self._buffers, before):
                    buffer.copy_(value)

        expected = aside(plainly)
        graph, _ = aside(lambda: Traced(made, self._leaves, self._buffers, inputs, masks, losses[0]))
        if not _same(expected, aside(lambda: graph(self._leaves, self._buffers, inputs, masks))):
            raise _Differ
        return graph

    def _counted(self, begun: Sequence[Begun], number: int) -> float:
        """Operations of one micro-batch: of all runs the same, counted by the first alone, once per size."""
        run, evaluate = begun[0].run, begun[0].evaluate
        if run.flops is None:
            return 0.0
        key = evaluate.sizes[number]
        if key not in self._flops:
            batch = evaluate.batches()[number][2]
            with run.buffers.aside():
                units = len(run.forward(begun[0].live, batch, number, False).values)
            self._flops[key] = run.flops.evaluation(run, begun[0].live, batch, True, units)
            for one in begun[1:]:
                one.run.flops.learn(one.run, batch, True, units, self._flops[key])
        return self._flops[key]

    # -- batches -------------------------------------------------------------------------------------------

    def _batch(self, begun: Sequence[Begun], number: int, start: int, size: int) -> tuple[Any, Any, Any]:
        """Inputs, named inputs and targets of one micro-batch, with a leading axis of runs."""
        if self._rowwise(begun):
            batch = begun[0].run.read(_joined([one.plan.part(start, start + size) for one in begun]))
            args, kwargs, target = split(batch)
            count = len(begun)

            def parted(value: Any) -> Any:
                return value.unflatten(0, (count, size)) if isinstance(value, Tensor) else value

            inputs = [_each(parted, value) for value in args], {n: _each(parted, v) for n, v in kwargs.items()}
            return *inputs, _each(parted, target)
        return _stacked([split(one.evaluate.batches()[number][2]) for one in begun])

    def _rowwise(self, begun: Sequence[Begun]) -> bool:
        """Whether the batches of all runs can be read as one."""
        return begun[0].run.read.rowwise and all(
            not one.live.augment
            and not one.plan.columns
            and (one.plan.sources is None) == (begun[0].plan.sources is None)
            for one in begun
        )

    def _units(
        self, begun: Sequence[Begun], output: Any, targets: Any, size: int
    ) -> tuple[list[UnitLosses], Tensor, bool]:
        """Unit losses of every run, all their values as one tensor, and whether each run has as many as the others."""
        count = len(begun)
        losses = [_loss_of(one.run, one.live) for one in begun]
        if losses[0].separable and all(loss == losses[0] for loss in losses[1:]):
            whole = losses[0].per_unit(_each(_merged, output), _each(_merged, targets))
            found = _parted(whole, count, size)
            if found is not None:
                return found, whole.values.reshape(-1), True
        each = [
            loss.per_unit(*pytree.tree_map(lambda t, place=place: t[place], (output, targets)))
            for place, loss in enumerate(losses)
        ]
        each = [UnitLosses(found.values.reshape(-1), found.weights, found.examples) for found in each]
        same = len({len(found.values) for found in each}) == 1
        return each, torch.cat([found.values for found in each]), same

    # -- before anything is spent --------------------------------------------------------------------------

    def _verify(self) -> None:
        """Compare what the stack finds on the first step with what every run finds alone.

        Raises
        ------
        Unstackable
            Where they differ.
        """
        with kept():
            watch = Attributes(self._forward.model)
            together = self._aside(
                lambda begun: [(r.parts, tuple(g.clone() for g in r.gradients)) for r in self.evaluate(begun)]
            )
            self._traceable = watch.unchanged()
            alone = self._aside(lambda begun: [_alone(one) for one in begun])
        for run, (parts, gradients), (loss, expected) in zip(self.runs, together, alone):
            bad = next((part.bad for part in parts if part.bad is not None), None)
            if bad is not None or loss is None:
                if (bad is None) != (loss is None):
                    raise Unstackable("evaluated together a loss is not finite that is finite alone, or the reverse")
                continue
            mass = math.fsum(part.mass for part in parts)
            _compare(run, math.fsum(part.value for part in parts) / mass, loss, gradients, expected)

    def _aside(self, evaluate: Any) -> Any:
        """What `evaluate(begun)` finds, with buffers and accounts as before afterwards."""
        buffers = [(buffer, buffer.clone()) for buffer in self._forward.buffers.values()]
        flops = [run.flops for run in self.runs]
        for run in self.runs:
            run.flops = None
        try:
            return evaluate([begin(run) for run in self.runs])
        finally:
            for run, account in zip(self.runs, flops):
                run.flops = account
                run.foreseen.clear()  # its operations were not counted
            for buffer, value in buffers:
                buffer.copy_(value)


class _Differ(Exception):
    """The batches of a step differ in form: they are not stacked."""


def _same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same tensors, to the bit."""
    first, second = pytree.tree_leaves(one), pytree.tree_leaves(other)
    return len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b for a, b in zip(first, second)
    )


def _ended(begun: Begun) -> Record | BaseException:
    try:
        return end(begun)
    except (Exception, SystemExit) as why:
        return why


def _each(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with every tensor in it replaced; most are one tensor, and a tree costs 20 us."""
    return function(value) if isinstance(value, Tensor) else pytree.tree_map(function, value)


def _merged(stacked: Tensor) -> Tensor:
    return stacked.flatten(0, 1)


def _add(one: Tensor, other: Tensor) -> None:
    one.add_(other)


def _loss_of(run: Any, declared: Any) -> Any:
    return declared.loss if declared.loss is not None else run.workload.loss


def _joined(plans: Sequence[Plan]) -> Plan:
    """The plans of one step of several runs as one, in order."""
    import numpy as np

    first = plans[0]
    indices = np.concatenate([plan.indices for plan in plans])
    sources = None if first.sources is None else np.concatenate([plan.sources for plan in plans])
    return Plan(first.step, indices, sources, None, {}, {}, {})


def _stacked(found: Sequence[tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
    """Stack the batches of several runs."""
    leaves = [pytree.tree_flatten(batch) for batch in found]
    if any(spec != leaves[0][1] for _, spec in leaves[1:]):
        raise _Differ
    made = []
    for values in zip(*[flat for flat, _ in leaves]):
        if not isinstance(values[0], Tensor):
            if any(value != values[0] for value in values[1:]):
                raise _Differ
            made.append(values[0])
        elif any(value.shape != values[0].shape or value.dtype != values[0].dtype for value in values[1:]):
            raise _Differ
        else:
            made.append(torch.stack(values))
    args, kwargs, target = pytree.tree_unflatten(made, leaves[0][1])
    return args, kwargs, target


def _parted(whole: UnitLosses, count: int, size: int) -> list[UnitLosses] | None:
    """The unit losses of every run, where those of one lie side by side and are as many as another's; else None."""
    values = whole.values.reshape(-1)
    units, left = divmod(len(values), count)
    if left or not units or units % size:
        return None
    weights = [None] * count if whole.weights is None else list(whole.weights.view(count, units))
    examples = None
    if whole.examples is not None:
        examples = whole.examples[:units]
        if (
            units != size * (units // size)
            or int(whole.examples[-1]) != count * size - 1
            or int(examples[-1]) != size - 1
        ):
            return None
    elif units != size:
        return None
    return [UnitLosses(own, weight, examples) for own, weight in zip(values.view(count, units), weights)]


def _alone(begun: Begun) -> tuple[float | None, Any]:
    """Loss and gradient of a run's step, made alone; None where they are not finite."""
    evaluate = Evaluator(begun.run, begun.live, begun.plan)
    try:
        loss, gradients, _ = evaluate._sum(True, False, None)
    except ArithmeticError:
        return None, ()
    return loss, gradients


def _compare(run: Any, loss: float, alone: float, gradients: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    near = _AUTOCAST if run.autocast else TOLERANCE[run.trained[0].dtype]
    if abs(loss - alone) > near * max(abs(alone), 1e-3):
        raise Unstackable(f"evaluated together its loss is {loss!r}, alone {alone!r}")
    scales = [float(other.abs().max()) if other.numel() else 0.0 for other in expected]
    # Of a bias before a norm the gradient is zero, and what is found of it is rounding of the others'.
    least = max(1e-6, _ROUNDED * max(scales, default=0.0))
    for name, g, other, scale in zip(run.parameters, gradients, expected, scales):
        if other.numel() and float((g - other).abs().max()) > near * max(scale, least):
            raise Unstackable(f"evaluated together the gradient of '{name}' is another than alone")


def _first_line(why: Exception) -> str:
    return f"{type(why).__name__}: {why}".split("\n", 1)[0][:200]
