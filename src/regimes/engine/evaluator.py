"""The evaluator: the only way an optimizer reads the model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regimes.core.errors import NonFinite
from regimes.core.kinds import TransformContext
from regimes.core.unit_losses import UnitLosses, Units
from regimes.engine import arithmetic, diagnose, distributed
from regimes.engine.captures import Captures, calling
from regimes.engine.curvature import Products, Vector, sampled_gradients
from regimes.engine.example_gradients import example_gradients, own_gradients
from regimes.engine.parts import Part, culprits, units_of
from regimes.engine.plan import Plan
from regimes.engine.work import shapes
from regimes.losses.forward import evaluating


class Evaluation(NamedTuple):
    """What one evaluation of the step's plan found.

    Parameters
    ----------
    loss : float
        Weighted mean of the unit losses.
    gradients : tuple of Tensor
        In parameter order; empty without `grad`.
    units : Units or None
        Unit losses, without graph; None with ``reduce=True`` where nobody needs them.
    captured : dict
        What `capture` named, and what `examples`, `vectors` and `sampled` asked for.
    finite : bool
        Always True: what is not finite raises NonFinite.
    mass : float
        Sum of the weights by which the loss was divided: how many units count.
    """

    loss: float
    gradients: tuple[Tensor, ...]
    units: Units | None = None
    captured: dict[str, Any] = {}
    finite: bool = True
    mass: float = 0.0


class Foreseen(NamedTuple):
    """What every step of so many samples has, where all their units count the same: tokens, and operations."""

    tokens: int
    flops: float


class Ready(NamedTuple):
    """What several runs' forwards and backwards, made together, found for one of them.

    Parameters
    ----------
    parts : list of Part
        By micro-batch.
    gradients : tuple of Tensor
        Divided by the sum of weights; in parameter order.
    finite : bool
        Whether they are.
    """

    parts: list[Part]
    gradients: tuple[Tensor, ...]
    finite: bool


class Evaluator:
    """Evaluates the model on one step's plan: same examples, same random streams on every call."""

    def __init__(self, run: Any, live: Any, plan: Plan) -> None:
        self.run, self.live, self.plan = run, live, plan
        self.first: Evaluation | None = None
        self.final: Evaluation | None = None
        self.norms: dict[str, Any] = {}
        self.logged: dict[str, float] = {}
        self.example_gradients: dict[str, Tensor] | None = None
        self.tokens = 0
        self._batches: list[tuple[int, int, Any]] | None = None
        self.sizes = run.micro_batches(len(plan), live.micro_batch)
        #: Numbers of the micro-batches that this process evaluates.
        self.own = run.world.share(len(self.sizes))
        self._buffers = run.buffers.begin()
        self._selected: list[Tensor] | None = None
        self._noting = False
        self._products: Products | None = None
        #: The answer to the first evaluation with gradients, where it has been made together with other runs'.
        self.ready: Ready | None = None

    # -- what optimizers call ------------------------------------------------------------------------------

    def __call__(
        self,
        grad: bool = True,
        final: bool = True,
        capture: Sequence[str] = (),
        examples: bool = False,
        reduce: bool = True,
        training: bool = True,
        vectors: Sequence[Vector] = (),
        sampled: bool = False,
        before: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    ) -> Evaluation:
        """Evaluate loss and gradient of the step's plan at the present weights.

        Parameters
        ----------
        grad : bool
            Whether gradients are wanted.
        final : bool
            Whether the gradient transforms are applied: exactly one such call per step.
        capture : sequence of str
            ``input:<module>``, ``output:<module>`` or ``output_gradient:<module>``: a list in `captured`, one tensor
            per call of the module and micro-batch; ``target`` and ``weight``: one per micro-batch
            (`regimes.engine.captures`).
        examples : bool
            Gradients of single examples in ``captured["example_gradients"]``: by parameter name, shape ``(n, *shape)``,
            their mean being the gradient before its transforms.
        reduce : bool
            Whether only the reduced loss is wanted.
        training : bool
            False: with the model in evaluation mode (no dropout, running statistics as they are).
        vectors : sequence of sequences of Tensor
            A tensor for each parameter and vector: the products of the loss's Hessian with these come in
            ``captured["hessian_products"]``, in the same form (the loss before gradient transforms).
        sampled : bool
            The gradient of the same loss for targets that the model draws (`Loss.sampled`) comes in
            ``captured["sampled_gradients"]``, in parameter order, and `capture` is of that forward and backward.
        before : mapping of str to callable
            What is called, without arguments, whenever the module of that name is about to run.

        Raises
        ------
        NonFinite
            If loss, gradient or product is not finite.
        DeclarationError
            If `sampled` is asked of a loss that says no distribution of targets.
        """
        keep_units = self.first is None and (self.run.keep_units or not reduce)
        captures = Captures(self.run.model, capture, grad) if capture else None
        self._noting = grad and final and self.run.micro_norms
        self._products = Products(self, vectors) if vectors else None
        captured: dict[str, Any] = {}
        model, nothing = self.run.model, contextlib.nullcontext()
        self._buffers.enter(first=self.first is None)
        try:
            with nothing if training else evaluating(model), calling(model, before) if before else nothing:
                loss, gradients, units = self._sum(grad, keep_units or not reduce, None if sampled else captures)
                if sampled:
                    captured["sampled_gradients"] = sampled_gradients(self, self.mass, captures, grad)
            if captures is not None:
                captured |= {name: self.run.world.joined(found) for name, found in captures.found.items()}
            if self._products is not None:
                captured["hessian_products"] = self._products.total(self.mass)
        finally:  # a rule may go on after one that was not finite
            self._buffers.leave(first=self.first is None)
        if self.run.world.size > 1:
            distributed.refuse_statistics(self.run)
        if examples:
            captured["example_gradients"] = self._example_gradients()
        if grad and final:
            if self.run.example_gradients and self.final is None:
                self.example_gradients = captured.get("example_gradients") or self._example_gradients()
            gradients = self._finalize(gradients, loss)
        evaluation = Evaluation(loss, gradients, units, captured, mass=self.mass)
        if self.first is None:
            self.first = evaluation
        if grad and final:
            self.final = evaluation
            if self.run.workload.device.type == "cpu":
                self.run.held = gradients
        return evaluation

    @property
    def compiled(self) -> bool:
        """Whether the phase declares that a step is compiled."""
        return bool(self.run.phase.declaration.compile)

    @contextlib.contextmanager
    def at(self, direction: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the weights are moved by `direction`; afterwards they are restored bitwise, whatever happened."""
        tensors = self.run.trained
        kept = [p.detach().clone() for p in tensors]
        with torch.no_grad():
            torch._foreach_add_(tensors, list(direction))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(tensors, kept)

    @contextlib.contextmanager
    def moved(self, move: Callable[[float], None], scale: float) -> Iterator[None]:
        """Inside, ``move(scale)`` has been applied; afterwards ``move(-scale)``: memory-flat, exact to rounding."""
        move(scale)
        try:
            yield
        finally:
            move(-scale)

    def shifted(self, direction: Sequence[Tensor]) -> Callable[..., Evaluation]:
        """Return an evaluate whose every call happens at weights moved by `direction`."""
        return _Shifted(self, direction)

    def rng(self, name: str) -> torch.Generator:
        """Return a torch generator at the start of this step's stream `name`."""
        return self.run.rule_generator(name, self.plan.step)

    def log(self, name: str, value: float) -> None:
        """Write a number of the rule's own, by its name, into the step's record."""
        self.logged[name] = float(value)

    def ask(self) -> None:
        """Read the batches of data that ask the model: at the weights of now, wherever a rule evaluates first."""
        if self.run.read.asks:
            self.run.flush()
            self.batches()

    # -- inside --------------------------------------------------------------------------------------------

    def batches(self) -> list[tuple[int, int, Any]]:
        """The micro-batches that this process evaluates, fetched and augmented once.

        Each as (number, place of its first example in the plan, batch).
        """
        if self._batches is None:
            start, made, asked, read = 0, list[tuple[int, int, Any]](), list[Part](), self.run.read
            for number, size in enumerate(self.sizes):
                if number in self.own or not read.random_access:
                    part = self.plan.part(start, start + size)
                    batch = self._asked(number, part, asked) if read.asks else read(part, self.run.streams, number)
                    if number in self.own and batch is not None:
                        made.append((number, start, self._augmented(number, batch)))
                start += size
            if read.asks:
                self._book(self.run.world.joined(asked))
            self._batches = made
        return self._batches

    def _augmented(self, number: int, batch: Any) -> Any:
        run = self.run
        for place, augment in enumerate(self.live.augment):
            generator = torch.Generator(device=run.workload.device)
            generator.manual_seed(run.streams.seed32("augment", place, self.plan.step, number))
            batch = augment.apply(run.states[f"augment.{place}"], batch, generator)
        return batch

    def _asked(self, number: int, part: Plan, asked: list[Part]) -> Any:
        """One micro-batch of data that ask the model; what that cost, or how it failed, is noted in `asked`."""
        run = self.run
        try:
            batch = run.read(part, run.streams, number)
        except NonFinite as bad:
            asked.append(Part(number, 0.0, 0.0, 0, bad=bad))
            return None
        if run.flops is not None:
            asked.append(Part(number, 0.0, 0.0, 0, run.flops.asking(run, run.read, batch, part)))
        return batch

    def _book(self, parts: list[Part]) -> None:
        """Charge what was made beside the step, up to where it was not finite."""
        for part in parts:
            if part.bad is not None:
                raise part.bad
            self.run.work.charge(part.flops, beside=True)

    def _sum(
        self, grad: bool, keep_units: bool, captures: Captures | None
    ) -> tuple[float, tuple[Tensor, ...], Units | None]:
        run, world = self.run, self.run.world
        run.forward.step = self.plan.step
        if self.live.selector is not None:
            self._selection()
        if self.ready is not None and grad:
            (parts, gradients, finite), self.ready = self.ready, None
            total, mass = self._account(parts)
        else:
            parts, tree = self._parts(grad, keep_units, captures)
            total, mass = self._account(parts)
            gradients = world.total(tree, run.trained, len(self.sizes)) if grad else ()
            finite = arithmetic.divide_(gradients, mass)
        if not finite:
            raise NonFinite("gradient", (), run.first_bad_gradient(gradients))
        self.mass = mass
        return total / mass, gradients, units_of(self.plan, [p.kept for p in parts if p.kept]) if keep_units else None

    def _parts(self, grad: bool, keep_units: bool, captures: Captures | None) -> tuple[list[Part], arithmetic.Tree]:
        """Evaluate every micro-batch of the step; return what all processes found, and this one's gradients."""
        tree, parts = arithmetic.Tree(self.own.start), []
        for number, start, batch in self.batches():
            part = self._part(number, start, batch, tree if grad else None, keep_units, captures)
            parts.append(part)
            if part.bad is not None:
                break
        return self.run.world.joined(parts), tree

    def _part(
        self, number: int, start: int, batch: Any, tree: arithmetic.Tree | None, keep: bool, captures: Captures | None
    ) -> Part:
        """Evaluate one micro-batch, and add its gradients to the tree."""
        run, live, grad, products = self.run, self.live, tree is not None, self._products
        if products is not None:
            losses, (weights, own), curved = products.part(number, start, batch)
        elif captures is None:
            losses = run.forward(live, batch, number, grad)
            weights, own = self.weights(number, losses, start)
        else:
            with captures.listening():
                losses = run.forward(live, batch, number, grad, watched=True)
            weights, own = self.weights(number, losses, start)
            captures.note(batch, losses, weights)
        value, mass = arithmetic.weighted_sum(losses.values, weights, own)
        part = self.found(number, start, batch, losses, value, mass, keep)
        if part.bad is not None:
            return part
        norm = None
        if tree is not None:
            run.held = ()
            gradients = run.gradients(losses.values, weights) if products is None else curved
            if self._noting:
                norm = arithmetic.norm(gradients) / max(mass, 1e-30)
            tree.add(gradients)
        if run.flops is None:
            flops = 0.0
        elif products is None:
            flops = run.flops.evaluation(run, live, batch, grad, len(losses.values))
        else:
            flops = products.flops(number, start, batch)
        if grad and products is None and weights is None and own is None and len(self.sizes) == 1:
            run.foreseen[self.sizes[0]] = Foreseen(part.tokens, flops)
        return part._replace(flops=flops, norm=norm)

    def found(
        self, number: int, start: int, batch: Any, losses: UnitLosses, value: float, mass: float, keep: bool
    ) -> Part:
        """What the losses of one micro-batch say, before its gradient: sums, counts, units; or why the step is not made."""
        run, live, units = self.run, self.live, losses.values.shape[0]
        if units < self.sizes[number]:
            diagnose.refuse_uncounted(run, units, self.sizes[number])
            if keep or self.plan.weights is not None:
                diagnose.refuse_scalar(live, units, self.sizes[number])
        tokens = units if losses.weights is None else int(torch.count_nonzero(losses.weights).item())
        if not math.isfinite(value):
            why = NonFinite("loss", culprits(self.plan, losses, start), run.first_bad_layer(live, batch, number))
            return Part(number, value, mass, tokens, bad=why)
        kept = (UnitLosses(losses.values.detach(), losses.weights, losses.examples), start) if keep else None
        return Part(number, value, mass, tokens, kept=kept)

    def _account(self, parts: list[Part]) -> tuple[float, float]:
        """Book what the micro-batches cost, up to the first that is not finite; return the sums of losses and weights."""
        total, mass, charged = 0.0, 0.0, 0.0
        try:
            for part in parts:
                if self.first is None:
                    self.tokens += part.tokens
                if part.bad is not None:
                    raise part.bad
                total, mass, charged = total + part.value, mass + part.mass, charged + part.flops
        finally:
            self.run.work.charge(charged, beside=self.run.frame.trial is not None)
        if mass <= 0.0:
            raise NonFinite("loss: every unit of the batch has weight 0")
        if self._noting:
            norms, sizes = [part.norm for part in parts], [float(self.sizes[part.number]) for part in parts]
            self.norms["micro"] = {"norms": norms, "sizes": sizes}
        return total, mass

    def _example_gradients(self) -> dict[str, Tensor]:
        run = self.run
        if run.flops is not None:
            key = ("example gradients", tuple(shapes(batch) for _, _, batch in self.batches()))
            own = run.flops.counted((run.frame.phase, key), run.model, lambda: own_gradients(self))
            run.work.charge(sum(run.world.gathered(own)), beside=True)
        found = example_gradients(self)
        if not all(bool(torch.isfinite(rows).all()) for rows in found.values()):
            raise NonFinite("gradient of an example")
        return found

    def _selection(self) -> None:
        """The selector's weight of every unit, by micro-batch: one scoring pass a step, on the same random streams."""
        if self._selected is not None:
            return
        parts = self.run.world.joined([self._scored(*one) for one in self.batches()])
        self._book(parts)
        scored = [part.kept for part in parts if part.kept]
        units = units_of(self.plan, scored)
        if units.weights is not None and not bool((units.weights > 0).any()):
            raise NonFinite("loss: every unit of the batch has weight 0")
        chosen = self.live.selector.select(self.run.states["selector"], units)
        diagnose.check_selection(self.live.selector, chosen, units.values)
        self._selected = list(chosen.to(units.values.dtype).split([len(losses.values) for losses, _ in scored]))

    def _scored(self, number: int, start: int, batch: Any) -> Part:
        run = self.run
        with run.buffers.aside():
            losses = run.forward(self.live, batch, number, False)
        if len(losses.values) < self.sizes[number]:
            diagnose.refuse_scalar(self.live, len(losses.values), self.sizes[number])
        flops = 0.0 if run.flops is None else run.flops.evaluation(run, self.live, batch, False, len(losses.values))
        finite = bool(torch.isfinite(losses.values).all())
        why = None if finite else NonFinite("loss", culprits(self.plan, losses, start))
        return Part(number, 0.0, 0.0, 0, flops, None, (losses, start), why)

    def weights(self, number: int, losses: UnitLosses, start: int) -> tuple[Tensor | None, Tensor | None]:
        """Return a micro-batch's weights of (numerator, denominator); None stands for all 1."""
        own = losses.weights
        if self._selected is not None:
            chosen = self._selected[number]
            own = chosen if own is None else own * chosen
        if self.plan.weights is None:
            return own, own
        drawn = torch.from_numpy(self.plan.weights[start : start + self.sizes[number]]).to(losses.values)
        if losses.examples is not None:
            drawn = drawn[losses.examples]
        weights = drawn if own is None else own * drawn
        return weights, weights if self.run.self_normalised else own

    def _finalize(self, gradients: tuple[Tensor, ...], loss: float) -> tuple[Tensor, ...]:
        run = self.run
        if run.wants_norm:
            self.norms["final"] = arithmetic.norm(gradients)
        if "micro" in self.norms:
            self.norms["micro"]["total"] = self.norms.get("final") or arithmetic.norm(gradients)
        for place, transform in enumerate(self.live.grad_transforms):

            def generator(name: str, place: int = place) -> torch.Generator:
                return self.rng(f"transform {place} {name}")

            ctx = TransformContext(
                tuple(run.parameters),
                tuple(run.parameters.values()),
                generator,
                self.mass,
                loss,
                run.frame.skipped_in_a_row,
            )
            gradients = transform.apply(run.states[f"grad_transforms.{place}"], gradients, ctx)
        return gradients

    def undo(self) -> None:
        """Put the buffers back to what they were before the step: it is skipped."""
        self._buffers.restore()


class _Shifted:
    """An evaluate at moved weights; everything else is the evaluator's."""

    def __init__(self, inner: Any, direction: Sequence[Tensor]) -> None:
        self._inner, self._direction = inner, direction

    def __call__(self, **kwargs: Any) -> Evaluation:
        with self._inner.at(self._direction):
            return self._inner(**kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
