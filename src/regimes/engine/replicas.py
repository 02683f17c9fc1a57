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

from regimes.core.randomness import kept
from regimes.core.unit_losses import UnitLosses
from regimes.engine import arithmetic, bursts
from regimes.engine.attributes import Attributes, hooked, unchanged
from regimes.engine.buffers import Buffers
from regimes.engine.evaluator import Evaluator, Foreseen, Ready
from regimes.engine.graphs import Graphs
from regimes.engine.parts import Part
from regimes.engine.rows import Rows
from regimes.engine.stackable import Unstackable, refuse
from regimes.engine.stacked_batches import Differ, read, rowwise, units
from regimes.engine.stacked_forward import StackedForward
from regimes.engine.step import Begun, Record, begin, end

#: Makes gradients, by leaf, of the seeds of all values.
Backward = Callable[[Tensor], Sequence[Tensor | None]]

#: How far the loss and gradient of a replica may be from those that it has alone, relative to their size.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_AUTOCAST = 0.05
#: What is so small beside the largest entry of all gradients is compared with that instead of with its own size; compiled,
#: sums over many places are made in other orders.
_ROUNDED = {False: 1e-2, True: 1e-1}


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
        self.graphs = Graphs(self._forward, self._leaves, self._near, bool(runs[0].phase.declaration.compile))
        for run in runs:
            run.buffers = Buffers(run.model)
        #: Operations of a micro-batch, by its size.
        self._flops: dict[int, float] = {}
        try:
            self._verify()
            self._check_compiled()
        except Exception as why:
            self.release()
            if isinstance(why, Unstackable):
                raise
            if isinstance(why, Differ):
                raise Unstackable("their batches differ in form") from why
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
        except Differ:
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
        before = [buffer.clone() for buffer in self._forward.written]
        try:
            return self._plain_losses(begun)
        except Exception:  # `step` meets it again, and says whose it is
            for buffer, value in zip(self._forward.written, before):
                buffer.copy_(value)
            return None

    def _plain_losses(self, begun: Sequence[Begun]) -> list[float]:
        size = len(begun[0].plan)
        if any(len(one.plan) != size or one.plan.weights is not None for one in begun) or not rowwise(begun):
            raise Differ
        losses, values, each, backward = self._losses(begun, 0, 0, size)
        if (
            not each
            or any(found.weights is not None for found in losses)
            or (len(losses[0].values) != begun[0].run.foreseen[size].tokens)
        ):
            raise Differ
        sums = values.detach().view(len(begun), -1).sum(1).tolist()
        mass = float(len(losses[0].values))
        self.rows.fill_scaled(backward(arithmetic.ones(values)), self._scale([mass] * len(begun)))
        if not all(map(math.isfinite, sums)) or not all(self._finite()):
            raise Differ
        return [value / mass for value in sums]

    def evaluate(self, begun: Sequence[Begun]) -> list[Ready]:
        """Return the evaluation of every run's step."""
        sizes = begun[0].evaluate.sizes
        if any(one.evaluate.sizes != sizes for one in begun[1:]):
            raise Differ
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
        inputs = read(begun, number, start, size)

        def seeds() -> list[int]:
            return [one.run.streams.seed32("forward", one.plan.step, number) for one in begun]

        with begun[0].run.forward.precision():
            masks, mode = self._forward.drawn(inputs.args, inputs.kwargs, seeds)
            graph = self.graphs.find(begun, size, inputs, masks, mode) if self.graphs.worth.wanted else None
            if graph is not None:
                values, gradients = graph(self._leaves, self._forward.written, inputs, masks)
                parted = values.view(len(begun), -1)
                return [UnitLosses(own, None, graph.examples) for own in parted], values, True, lambda _: gradients
            output = self._forward.outputs(inputs.args, inputs.kwargs, masks, mode)
            losses, values, each = units(begun, output, inputs.targets, size)
            return losses, values, each, lambda seeds: arithmetic.gradient(values, seeds, self._leaves)

    def _counted(self, begun: Sequence[Begun], number: int) -> float:
        """Operations of one micro-batch: of all runs the same, counted by the first alone, once per size."""
        run, evaluate = begun[0].run, begun[0].evaluate
        if run.flops is None:
            return 0.0
        key = evaluate.sizes[number]
        if key not in self._flops:
            batch = evaluate.batches()[number][2]
            with run.buffers.aside():
                count = len(run.forward(begun[0].live, batch, number, False).values)
            self._flops[key] = run.flops.evaluation(run, begun[0].live, batch, True, count)
            for one in begun[1:]:
                one.run.flops.learn(one.run, batch, True, count, self._flops[key])
        return self._flops[key]

    # -- before anything is spent --------------------------------------------------------------------------

    def _verify(self) -> None:
        """Compare what the stack finds on the first step with what every run finds alone.

        Raises
        ------
        Unstackable
            Where they differ.
        """
        with kept(), unchanged([run.model for run in self.runs]):
            watch = Attributes(self.runs[0].model)
            together = self._aside(
                lambda begun: [(r.parts, tuple(g.clone() for g in r.gradients)) for r in self.evaluate(begun)]
            )
            changed = watch.changed()
            if changed is not None:
                raise Unstackable(f"its forward changes '{changed}', which is neither a parameter nor a buffer")
            alone = self._aside(lambda begun: [_alone(one) for one in begun])
        self.graphs.traceable = not hooked(self.runs[0].model)
        for run, (parts, gradients), (loss, expected) in zip(self.runs, together, alone):
            bad = next((part.bad for part in parts if part.bad is not None), None)
            if bad is not None or loss is None:
                if (bad is None) != (loss is None):
                    raise Unstackable("evaluated together a loss is not finite that is finite alone, or the reverse")
                continue
            mass = math.fsum(part.mass for part in parts)
            _compare(run, self._near, math.fsum(part.value for part in parts) / mass, loss, gradients, expected)

    @property
    def _near(self) -> float:
        return _AUTOCAST if self.runs[0].autocast else TOLERANCE[self.runs[0].trained[0].dtype]

    def _check_compiled(self) -> None:
        """Compile before anything is spent.

        Raises
        ------
        Unstackable
            If it is declared and cannot be.
        """
        if self.graphs.compiled:
            with kept():
                self._aside(self.evaluate)
            if None in self.graphs.by_size.values() or not self.graphs.by_size:
                raise Unstackable("compile=True, but forward and backward of all do not become one graph")

    def _aside(self, evaluate: Any) -> Any:
        """What `evaluate(begun)` finds, with buffers and accounts as before afterwards."""
        buffers = [(buffer, buffer.clone()) for buffer in self._forward.written]
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


def _ended(begun: Begun) -> Record | BaseException:
    try:
        return end(begun)
    except (Exception, SystemExit) as why:
        return why


def _add(one: Tensor, other: Tensor) -> None:
    one.add_(other)


def _alone(begun: Begun) -> tuple[float | None, Any]:
    """Loss and gradient of a run's step, made alone; None where they are not finite."""
    evaluate = Evaluator(begun.run, begun.live, begun.plan)
    try:
        loss, gradients, _ = evaluate._sum(True, False, None)
    except ArithmeticError:
        return None, ()
    return loss, gradients


def _compare(
    run: Any, near: float, loss: float, alone: float, gradients: Sequence[Tensor], expected: Sequence[Tensor]
) -> None:
    if abs(loss - alone) > near * max(abs(alone), 1e-3):
        raise Unstackable(f"evaluated together its loss is {loss!r}, alone {alone!r}")
    scales = [float(other.abs().max()) if other.numel() else 0.0 for other in expected]
    # Of a bias before a norm the gradient is zero, and what is found of it is rounding of the others'.
    least = max(1e-6, _ROUNDED[run.phase.declaration.compile] * max(scales, default=0.0))
    for name, g, other, scale in zip(run.parameters, gradients, expected, scales):
        if other.numel() and float((g - other).abs().max()) > near * max(scale, least):
            raise Unstackable(f"evaluated together the gradient of '{name}' is another than alone")


def _first_line(why: Exception) -> str:
    return f"{type(why).__name__}: {why}".split("\n", 1)[0][:200]
