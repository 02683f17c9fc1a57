"""One evaluation of a step in a script: batches, forwards, the gradient of the mean loss in ``p.grad``."""

from __future__ import annotations

from typing import Any

import torch

from regimes.core.errors import DeclarationError
from regimes.ejection import losses
from regimes.ejection.text import Lines, bracketed, call


class Evaluation:
    """How the loss of a step, and its gradient, are computed in a script.

    Parameters
    ----------
    own : PhaseText
    """

    def __init__(self, own: Any) -> None:
        self.own, facts = own, own.facts
        self.loss = losses.of_phase(own)
        self.micro = self._micro()
        self.selects = facts.declared.selector is not None
        self.norms = any("micro_batch_gradient_norms" in c.all_needs() for c in facts.phase.controllers.values())
        if (own.data.learns or self.selects) and (self.loss.ignores or facts.weighted):
            slot = "selector" if self.selects else facts.declared.data_slot
            raise DeclarationError(
                "got one that reads the losses of units, some of which may count as nothing; allowed in a script: units "
                "that all count",
                slot,
            )
        self.own_weights = facts.weighted and not self.loss.plain
        self.learns = own.data.learns
        self._first = True
        dtypes = {p.dtype for p in facts.parameters.values()}
        self.single_precision = dtypes == {torch.float32}

    def _micro(self) -> int | None:
        """Size of the micro-batches, None where the whole batch is one."""
        facts = self.own.facts
        micro = facts.declared.micro_batch
        if not isinstance(micro, int) or (facts.sizes is not None and micro >= max(facts.sizes)):
            return None
        return micro

    @property
    def pairwise(self) -> bool:
        """Whether there may be more than three micro-batches, or their gradients are wanted apart."""
        sizes = self.own.facts.sizes
        return self.norms or sizes is None or -(-max(sizes) // (self.micro or max(sizes))) > 3

    # -- counting --------------------------------------------------------------------------------------------------

    def units(self) -> int | None:
        """Units of a step that count, where the number is the same in every step."""
        each, facts = self.own.facts.tokens_each(), self.own.facts
        return each * facts.sizes[0] if each is not None and facts.even and facts.sizes else None

    def tokens(self) -> str:
        """How many units of the step counted, as the loop knows them."""
        if self.selects or self.own.data.weights or self.own_weights or self.own.rules.sam or self.own.rules.mezo:
            raise DeclarationError(
                "got a budget in tokens, whose number differs from step to step, beside parts that weight them; allowed in a "
                "script: steps or samples",
                "budget",
            )
        return "count" if self.loss.ignores or self.micro is not None else "len(losses)"

    def mean(self) -> bool:
        """Whether the plain mean has the gradient of the engine to the bit: it divides by a power of two."""
        n = self.units()
        plain = not (self.selects or self.own.data.weights or self.own_weights or self.micro or self.loss.ignores)
        return plain and n is not None and n & (n - 1) == 0

    def _count(self) -> str:
        if self.selects:
            return "chosen.sum().item()"
        if self.own.data.weights and type(self.own.facts.sampler).self_normalised:
            return "weights.sum().item()"
        if self.loss.ignores:
            return self.loss.counted()
        if self.own_weights:
            return "units.weights.sum().item()"
        return "len(losses)"

    def _weighted(self) -> str:
        factors = ["losses"]
        factors += ["units.weights"] if self.own_weights else []
        factors += ["weights"] if self.own.data.weights else []
        if self.selects:
            factors.append("chosen" if self.micro is None else "chosen[number]")
        return factors[0] if len(factors) == 1 else f"({' * '.join([factors[0], self._product(factors[1:])])})"

    @staticmethod
    def _product(factors: list[str]) -> str:
        """Weights are multiplied with one another first, as the engine does."""
        return factors[0] if len(factors) == 1 else f"({' * '.join(factors)})"

    # -- text ------------------------------------------------------------------------------------------------------

    def write(self, text: Lines, grad: bool = True, first: bool = True) -> None:
        """Assign ``loss``, and fill ``p.grad``; of a later evaluation of the step what is learned is not wanted."""
        self._first = first
        if grad:
            text.add("model.zero_grad()")
        if self.selects and first:
            self._select(text)
        if self.micro is None:
            self._whole(text, grad)
        else:
            self._in_parts(text, grad)

    def _forward(self, text: Lines, grad: bool = True) -> None:
        """Read a batch, and assign ``losses``."""
        number, size = ("0", None) if self.micro is None else ("number", str(self.micro))
        facts = self.own.facts
        if self._first or self.micro is not None:
            self._read(text, number, size)
        if facts.draws:
            self.own.uses_streams = True
            setter = "torch.manual_seed" if facts.draws == "torch" else "seed_all"
            if facts.draws == "all":
                self.own.script.need("from regimes.core.randomness import seed_all")
            text.add(f'{setter}(streams.seed32("forward", step, {number}))')
        if facts.declared.precision == "bfloat16":
            with text.block('with torch.autocast(device_type="cpu", dtype=torch.bfloat16):'):
                self.loss.write(text, facts.values)
        else:
            self.loss.write(text, facts.values)
        if self.own.data.weights:
            self._importance(text)

    def _read(self, text: Lines, number: str, size: str | None) -> None:
        self.own.data.read(text, self.loss.unpacked, size)
        for place, augment in enumerate(self.own.live.augment):
            self.own.uses_streams = True
            seed = f'streams.seed32("augment", {place}, step, {number})'
            text.add(f"generator = torch.Generator().manual_seed({seed})")
            text.add(f"{self.loss.unpacked} = {call(augment)}.apply({{}}, {self.loss.tuple_of}, generator)")

    def _importance(self, text: Lines) -> None:
        part = "drawn" if self.micro is None else "part"
        each = self.own.facts.each
        if each is None:
            raise DeclarationError(
                "got a sampler with weights over examples of several lengths; allowed in a script: examples of one length",
                "sampler",
            )
        spread = "" if each == 1 else f".repeat_interleave(len(losses) // len({part}))"
        text.add(f"weights = torch.from_numpy({part}.weights).to(losses){spread}")

    def _whole(self, text: Lines, grad: bool) -> None:
        self._forward(text)
        if self.mean() and grad:
            text.add("loss = losses.mean()", "loss.backward()")
            self._reached(text)
            if self.learns and self._first:
                text.add("seen = losses")
            return
        total, n = f"{self._weighted()}.sum()", self.units()
        fixed = n is not None and self._count() == "len(losses)"
        text.add(f"total = {total}")
        if grad:
            text.add("total.backward()")
        if not fixed:
            text.add(f"count = {self._count()}")
        divisor = str(n) if fixed else "count"
        if grad:
            self._divide(text, divisor)
        if self._first or not grad:
            text.add(f"loss = total.item() / {divisor}")
        if self.learns and self._first:
            text.add("seen = losses")

    def _in_parts(self, text: Lines, grad: bool) -> None:
        n = self.units()
        fixed = n is not None and self._count() == "len(losses)"
        apart = grad and self.pairwise
        text.add("total = 0.0" if fixed else "total, count = 0.0, 0")
        if apart:
            text.add("parts = []")
        if self.norms:
            text.add("norms, sizes = [], []")
        if self.learns and self._first:
            text.add("seen = []")
        with text.block(self._loop()):
            self._forward(text)
            if grad:
                text.add(f"{self._weighted()}.sum().backward()")
            text.add(f"total += {self._weighted()}.sum().item()")
            if not fixed:
                text.add(f"count += {self._part_count()}")
            if apart:
                self._set_apart(text)
            if self.learns and self._first:
                text.add("seen.append(losses.detach())")
        divisor = str(n) if fixed else "count"
        if apart:
            with text.block("for p, g in zip(parameters, summed(parts)):"):
                text.add(f"p.grad = {self._divided('g', divisor)}")
        elif grad:
            self._divide(text, divisor)
        text.add(f"loss = total / {divisor}")
        if self.learns and self._first:
            text.add("seen = torch.cat(seen)")

    def _length(self) -> str:
        """Examples of the step."""
        sizes = self.own.facts.sizes
        return str(sizes[0]) if sizes is not None and self.own.facts.even else f"len({self.own.data.name})"

    def _loop(self) -> str:
        """Over micro-batches: their numbers where something is addressed by them, and where they begin."""
        facts = self.own.facts
        numbered = facts.draws or self.own.live.augment or self.selects or not self.own.data.by_hand
        steps = f"range(0, {self._length()}, {self.micro})"
        return f"for number, start in enumerate({steps}):" if numbered else f"for start in {steps}:"

    def _part_count(self) -> str:
        return "chosen[number].sum().item()" if self.selects else self._count()

    def _set_apart(self, text: Lines) -> None:
        if self.own.facts.unreached:
            self._reached(text)
        if self.norms:
            n, count = self._length(), self._part_count()
            if count != "len(losses)":
                count = f"max({count}, 1e-30)"  # nothing of a micro-batch may have been chosen
            text.add(f"norms.append(length([p.grad for p in parameters]) / {count})")
            text.add(f"sizes.append(float(min({self.micro}, {n} - start)))")
        text.add("parts.append([p.grad for p in parameters])", "model.zero_grad()")

    def _divided(self, g: str, divisor: str) -> str:
        return f"{g} * (1 / {divisor})" if self.single_precision else f"{g} / {divisor}"

    def _divide(self, text: Lines, divisor: str) -> None:
        self._reached(text)
        if divisor != "1":
            with text.block("for p in parameters:"):
                text.add(f"p.grad.mul_(1 / {divisor})" if self.single_precision else f"p.grad.div_({divisor})")

    def _reached(self, text: Lines) -> None:
        """A parameter that the loss does not reach has a gradient of zero, and is decayed like the others."""
        if self.own.facts.unreached:
            with text.block("for p in parameters:"):
                text.add("p.grad = torch.zeros_like(p) if p.grad is None else p.grad")

    def _select(self, text: Lines) -> None:
        """The scoring pass: the same forwards without gradient, then 1 for the highest losses."""
        facts, share = self.own.facts, self.own.live.selector.share
        if facts.changed:
            text.add("kept = [buffer.clone() for buffer in model.buffers()]")
        with text.block("with torch.no_grad():"):
            if self.micro is None:
                self._forward_alone(text)
                text.add("scores = losses")
            else:
                text.add("scores = []")
                with text.block(self._loop()):
                    self._forward_alone(text)
                    text.add("scores.append(losses)")
                text.add("lengths = [len(part) for part in scores]", "scores = torch.cat(scores)")
            if facts.changed:
                with text.block("for buffer, before in zip(model.buffers(), kept):"):
                    text.add("buffer.copy_(before)")
        text.add(f"highest = math.ceil({bracketed(share)} * len(scores) - 1e-9)", "chosen = torch.zeros_like(scores)")
        text.add("chosen[scores.argsort(descending=True, stable=True)[:highest]] = 1.0")
        if self.micro is not None:
            text.add("chosen = chosen.split(lengths)")

    def _forward_alone(self, text: Lines) -> None:
        """A forward of which only the losses are wanted."""
        weights, self.own.data.weights = self.own.data.weights, False
        self._forward(text)
        self.own.data.weights = weights

    def helpers(self) -> dict[str, list[str]]:
        """The functions that it needs."""
        if self.micro is None or not self.pairwise or not self.own.facts.declared.optimizer.uses_gradients:
            return {}
        text = Lines()
        with text.block("def summed(parts):"):
            text.add(
                '"""Add the gradients of micro-batches pairwise, so that the sum does not depend on who adds them."""'
            )
            with text.block("if len(parts) == 1:"):
                text.add("return parts[0]")
            text.add("half = 1 << ((len(parts) - 1).bit_length() - 1)")
            text.add("return [a + b for a, b in zip(summed(parts[:half]), summed(parts[half:]))]")
        found = {"summed": text.lines}
        if self.norms:
            text = Lines()
            with text.block("def length(gradients):"):
                text.add('"""Norm of all gradients together."""')
                text.add("return torch.stack([g.norm() for g in gradients]).norm().item()")
            found["length"] = text.lines
        return found
