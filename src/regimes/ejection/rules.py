"""Optimizers in a script: torch's own where it has them, ``rg.optim`` where it lacks them, SAM and MeZO by hand."""

from __future__ import annotations

from typing import Any

from regimes.core.errors import DeclarationError
from regimes.core.progress import Progress
from regimes.ejection import names
from regimes.ejection.leaf import Leaf, varies
from regimes.ejection.text import Lines, bracketed, literal
from regimes.optimizers import SAM, Groups, MeZO
from regimes.optimizers.zeroth_order.mezo import BLOCK


class Rules:
    """The optimizer of a phase.

    Parameters
    ----------
    own : PhaseText
    """

    def __init__(self, own: Any) -> None:
        self.own, facts = own, own.facts
        rule = own.live.optimizer
        self.sam = rule if isinstance(rule, SAM) and rule.rho != 0.0 else None
        if isinstance(rule, SAM):
            rule = rule.base
        self.mezo = rule if isinstance(rule, MeZO) else None
        self.roles, self.named = facts.parameters.roles, facts.parameters
        self.leaves = [] if self.mezo else self._leaves(rule, "")
        _refuse_layout(facts)
        _refuse_momentum(own)
        classes = {leaf.class_name for leaf in self.leaves}
        self.one = len(classes) <= 1
        self.shared = facts.declared.optimizer.shared_evaluation_weights()
        self.grouped = len(self.leaves) > 1

    def _leaves(self, rule: Any, outer: str) -> list[Leaf]:
        if not isinstance(rule, Groups):
            return [Leaf(self.own, rule, outer)]
        found = []
        for group in rule.groups:
            condition = names.group(group, self.named, self.roles)
            found += self._leaves(group.rule, names.both((outer, condition)))
        return found

    @property
    def judged(self) -> str:
        """Contexts inside which the parameters hold the weights that are judged, where these are others."""
        if self.one:
            return "optimizer.evaluating()"
        own = [place for place, leaf in enumerate(self.leaves) if not leaf.rule.shared_evaluation_weights()]
        return ", ".join(f"optimizers[{place}].evaluating()" for place in own)

    # -- before the first step -------------------------------------------------------------------------------------

    def setup(self, text: Lines) -> None:
        """The instances, or what is set in those that an earlier phase hands over."""
        if self.mezo:
            return
        if self.own.takes_in("optimizer"):
            self._set_all(text)
            return
        if self.grouped:
            self._assign(text)
        if self.one:
            text.add(f"optimizer = {self._instance()}")
        else:
            made = [
                f"{leaf.class_name}({', '.join([f'groups[{i}]', *self._arguments(leaf)])})"
                for i, leaf in enumerate(self.leaves)
            ]
            text.add(f"optimizers = [{', '.join(made)}]")

    def _assign(self, text: Lines) -> None:
        text.add(f"groups = [{', '.join('[]' for _ in self.leaves)}]")
        by_name = any("name" in leaf.condition for leaf in self.leaves[:-1])
        with text.block(f"for name, p in {self.own.named_parameters()}:" if by_name else "for p in parameters:"):
            for place, leaf in enumerate(self.leaves):
                last = place + 1 == len(self.leaves)
                head = "else:" if last else f"{'elif' if place else 'if'} {leaf.condition}:"
                with text.block(head):
                    text.add(f"groups[{place}].append(p)")

    @staticmethod
    def _arguments(leaf: Leaf) -> list[str]:
        return [*leaf.arguments(), *(["fused=True"] if leaf.fused else [])]

    def _instance(self) -> str:
        first = self.leaves[0]
        if not self.grouped:
            return f"{first.class_name}({', '.join(['parameters', *self._arguments(first)])})"
        common = {k: v for k, v in first.fixed.items() if all(leaf.fixed.get(k, leaf) == v for leaf in self.leaves)}
        entries = []
        for place, leaf in enumerate(self.leaves):
            given = {"params": f"groups[{place}]"}
            given |= {k: literal(v) for k, v in leaf.fixed.items() if k not in common}
            entries.append("{" + ", ".join(f'"{k}": {v}' for k, v in given.items()) + "}")
        shared = [f"{k}={literal(v)}" for k, v in common.items()] + (["fused=True"] if first.fused else [])
        return f"{first.class_name}({', '.join(['[' + ', '.join(entries) + ']', *shared])})"

    def _set_all(self, text: Lines) -> None:
        """An instance goes on under new numbers: those that do not vary are set here, once."""
        for place, leaf in enumerate(self.leaves):
            for name, value in leaf.options.items():
                if not varies(value):
                    text.add(f"{self._group(place)}[{literal(name)}] = {literal(value)}")

    def _group(self, place: int) -> str:
        return f"optimizer.param_groups[{place}]" if self.one else f"optimizers[{place}].param_groups[0]"

    # -- in a step -------------------------------------------------------------------------------------------------

    def write(self, text: Lines, final: Any) -> None:
        """One step: gradients, what `final` writes of their transforms, the update.

        Parameters
        ----------
        text : Lines
        final : callable
            Writes the transforms of the final gradient.
        """
        if self.mezo:
            self._mezo(text)
            return
        if self.sam:
            self._sam(text)
        else:
            self.own.evaluation.write(text)
        final(text)
        for place, leaf in enumerate(self.leaves):
            for name, value in leaf.moving.items():
                text.add(f"{self._group(place)}[{literal(name)}] = {literal(value)}")
        if self.one:
            text.add("optimizer.step()")
        else:
            with text.block("for optimizer in optimizers:"):
                text.add("optimizer.step()")

    @property
    def instances(self) -> str:
        """What is handed to a phase that goes on with it."""
        return "optimizer" if self.one else "optimizers"

    def _sam(self, text: Lines) -> None:
        """Climb to the worst point near by, evaluate there, come back."""
        facts, write = self.own.facts, self.own.evaluation.write
        assert self.sam is not None
        write(text)
        adaptive = self.sam.adaptive
        if facts.changed:
            text.add("statistics = [buffer.clone() for buffer in model.buffers()]")
        with text.block("with torch.no_grad():"):
            text.add("here = [p.clone() for p in parameters]")
            if adaptive:
                text.add(f"sizes = [p.abs() + {self.sam.eta!r} for p in parameters]")
            text.add(
                "climb = "
                + ("[t * p.grad for p, t in zip(parameters, sizes)]" if adaptive else "[p.grad for p in parameters]")
            )
            text.add("norm = torch.stack([g.norm() for g in climb]).norm()")
            if adaptive:
                text.add("climb = [g * t for g, t in zip(climb, sizes)]")
            text.add(f"scale = ({self.sam.rho!r} / (norm + 1e-12)).item()")
            with text.block("for p, g in zip(parameters, climb):"):
                text.add("p.add_(g * scale)")
        plain = self.own.evaluation.mean()
        if plain or self.own.evaluation.micro is not None:
            text.add("found = loss")
        write(text, first=False)
        with text.block("with torch.no_grad():"):
            with text.block("for p, before in zip(parameters, here):"):
                text.add("p.copy_(before)")
            if facts.changed:
                with text.block("for buffer, value in zip(model.buffers(), statistics):"):
                    text.add("buffer.copy_(value)")
        if plain or self.own.evaluation.micro is not None:
            text.add("loss = found")

    def _mezo(self, text: Lines) -> None:
        """Two forwards, at theta + eps z and theta - eps z, and a step along z."""
        rule, write, facts = self.mezo, self.own.evaluation.write, self.own.facts
        assert rule is not None
        self.own.uses_streams = True
        eps = repr(rule.eps)
        text.add("model.eval()")
        with text.block("with torch.no_grad():"):
            text.add(f"move(parameters, {eps}, streams, step)")
            write(text, grad=False)
            text.add("found = loss")
            if facts.changed:
                text.add("statistics = [buffer.clone() for buffer in model.buffers()]")
            text.add(
                f"move(parameters, -{bracketed(rule.eps)}, streams, step)",
                f"move(parameters, -{bracketed(rule.eps)}, streams, step)",
            )
            write(text, grad=False, first=False)
            text.add(f"move(parameters, {eps}, streams, step)")
            if facts.changed:
                with text.block("for buffer, value in zip(model.buffers(), statistics):"):
                    text.add("buffer.copy_(value)")
            text.add(f"slope = (found - loss) / (2 * {bracketed(rule.eps)})")
            if rule.weight_decay != 0.0:
                with text.block("for p in parameters:"):
                    text.add(f"p.mul_(1 - {bracketed(rule.lr)} * {bracketed(rule.weight_decay)})")
            text.add(f"move(parameters, -{bracketed(rule.lr)} * slope, streams, step)")
        text.add("model.train()", "loss = found")

    def helpers(self) -> dict[str, list[str]]:
        """The functions that it needs."""
        if not self.mezo:
            return {}
        text, large = Lines(), any(p.numel() > BLOCK for p in self.named.values())
        with text.block("def move(parameters, scale, streams, step):"):
            text.add('"""Add `scale` times the normal noise of this step, drawn anew each time it is wanted."""')
            text.add('generator = torch.Generator().manual_seed(streams.seed32("rule", "mezo", step))')
            with text.block("for p in parameters:"):
                if large:
                    with text.block(f"for block in p.view(-1).split({BLOCK}):"):
                        text.add("block.add_(torch.randn(block.shape, generator=generator), alpha=scale)")
                else:
                    text.add("p.add_(torch.randn(p.shape, generator=generator), alpha=scale)")
        return {"move": text.lines}


def _refuse_layout(facts: Any) -> None:
    for name, p in facts.parameters.items():
        if not p.is_contiguous() or not p.is_floating_point():
            raise DeclarationError(
                f"got the parameter '{name}', whose memory torch's fused kernels do not take; allowed in a script: "
                "contiguous floating-point parameters",
                "optimizer",
            )


def _refuse_momentum(own: Any) -> None:
    """Refuse a momentum that is 0 for a while: what becomes of the buffer then, torch and we do not do alike."""
    # Where the number of steps is not known beforehand, steps may lie anywhere.
    anywhere = [Progress(fraction=part / 1000, run_fraction=part / 1000) for part in range(1000)]
    for path, function in own.facts.phase.functions.items():
        if path.endswith("momentum") and any(function(at) == 0.0 for at in own.facts.places or anywhere):
            raise DeclarationError(
                "got a momentum that reaches 0; allowed in a script: one that stays above it, or is 0 throughout", path
            )
