"""What looks on after a step of a script: averages of weights, controllers, samplers that learn."""

from __future__ import annotations

from typing import Any

from regimes.averagers import EMA, SWA
from regimes.controllers import Plateau
from regimes.core.algebra import ControlledPair
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Controller, Schedule
from regimes.ejection.text import Lines, bracketed, call


class Average:
    """The averager of a phase, and the weights that are judged.

    Parameters
    ----------
    own : PhaseText
    """

    def __init__(self, own: Any) -> None:
        self.own = own
        self.rule = own.live.average
        self.is_ema = isinstance(self.rule, EMA)
        self.shared = own.rules.shared

    def setup(self, text: Lines) -> None:
        """Before the first step."""
        if self.rule is None or self.is_ema:
            return
        text.add(f"averager = {call(self.rule)}")
        if not self.own.takes_in("average"):
            text.add(f"average = averager.init(dict({self.own.named_parameters()}))")

    def write(self, text: Lines) -> None:
        """After the update."""
        if self.rule is None:
            return
        with text.block("with torch.no_grad():" if self.shared else f"with torch.no_grad(), {self.own.rules.judged}:"):
            if self.is_ema:
                self._ema(text)
            else:
                weights = f"dict({self.own.named_parameters()})"
                text.add(f'average = averager.observe(average, {{"weights": {weights}}}, {self._position()})')

    def _ema(self, text: Lines) -> None:
        pairs = "zip(averaged, parameters)"
        move = f"a.lerp_(p, 1 - {bracketed(self.rule.decay)})"
        if self.own.takes_in("average"):
            with text.block(f"for a, p in {pairs}:"):
                text.add(move)
        elif self.own.facts.steps == 1:
            text.add("averaged = [p.detach().clone() for p in parameters]")
        else:
            with text.block(f"if step == {self.own.facts.begin.step}:"):
                text.add("averaged = [p.detach().clone() for p in parameters]")
            with text.block("else:"), text.block(f"for a, p in {pairs}:"):
                text.add(move)

    def _position(self) -> str:
        """The position as far as the averager reads it."""
        units = {d.unit for d in (getattr(self.rule, "start", None), self.rule.every) if d is not None and d.value}
        counts = {
            "%": ("fraction", "done"),
            "samples": ("phase_samples", "samples"),
            "tokens": ("phase_tokens", "tokens"),
        }
        own, begin = self.own, self.own.facts.begin.step
        given = ["step=step", "phase_step=" + (f"step - {begin}" if begin else "step")]
        for unit in sorted(units & set(counts)):
            name, clock = counts[unit]
            given.append(f"{name}={own.clock(clock)}")
        return f"rg.Progress({', '.join(given)})"

    def judged(self) -> str | None:
        """The weights that are judged at the end of the phase, None where they are the trained ones."""
        if self.rule is None or not self._taken():
            return None if self.shared else ""
        return "averaged" if self.is_ema else "averager.average(average).values()"

    def _taken(self) -> bool:
        """Whether the averager holds anything at the end."""
        if not isinstance(self.rule, SWA) or self.own.takes_in("average"):
            return True
        facts = self.own.facts
        if facts.places is None:
            raise DeclarationError(
                "got SWA in a phase whose steps are not known beforehand; allowed in a script: EMA, LAWA there",
                "average",
            )
        from regimes.averagers.cadence import _AMOUNTS

        start = self.rule.start
        return any(_AMOUNTS[start.unit](at) >= start.value * (1.0 - 1e-12) for at in facts.places)

    def settle(self, text: Lines) -> None:
        """Leave the judged weights in the model."""
        weights = self.judged()
        if weights is None:
            return
        if weights == "":
            with text.block(f"with {self.own.rules.judged}:"):
                text.add("weights = [p.detach().clone() for p in parameters]")
            weights = "weights"
        with text.block("with torch.no_grad():"), text.block(f"for p, value in zip(parameters, {weights}):"):
            text.add("p.copy_(value)")


class Controllers:
    """The controllers of a phase: each is a component of ours, called by hand.

    Parameters
    ----------
    own : PhaseText
    """

    def __init__(self, own: Any) -> None:
        self.own = own
        self.names: dict[str, Any] = {}
        self._refuse()

    def _refuse(self) -> None:
        facts = self.own.facts
        needs = set().union(*(c.all_needs() for c in facts.phase.controllers.values()))
        watched = sorted(need for need in needs if need.startswith("val:"))
        if watched and facts.declared.average is not None:
            raise DeclarationError(
                f"got '{watched[0]}' of averaged weights; allowed in a script: controllers that read the trained ones",
                "average",
            )
        if watched and not all(module.training for module in facts.model.modules()):
            raise DeclarationError(
                "got a model of which parts stay in evaluation mode, and validation on the way; allowed: one of the two",
                "model",
            )
        if any(need.count(":") > 1 for need in watched):
            raise DeclarationError(f"got '{watched[0]}'; allowed in a script: val:<metric>", "evaluate")
        self.watches = bool(watched)

    def expression(self, value: Any, path: str) -> str:
        """Return the expression for a knob with a controller in it, and note the controller."""
        if isinstance(value, ControlledPair):
            left, right = (self.expression(side, path) for side in (value.left, value.right))
            if isinstance(value.left, ControlledPair) and value.left.operation != value.operation:
                left = f"({left})"
            if isinstance(value.right, ControlledPair):
                right = f"({right})"
            return f"{left} {value.operation} {right}"
        if isinstance(value, Controller):
            name = f"{type(value).__name__.lower()}{len(self.names) or ''}"
            name = next((known for known, (_, where) in self.names.items() if where == (path, id(value))), name)
            self.names[name] = value, (path, id(value))
            return f"{name}.value({name}_state, None)"
        return self.own.formula(value, path)

    def setup(self, text: Lines) -> None:
        """Before the first step."""
        for name, (controller, _) in self.names.items():
            text.add(f"{name} = {call(controller)}", f"{name}_state = {name}.init()")

    def write(self, text: Lines) -> None:
        """After the update: measure what they watch, where it is due, and tell them."""
        for name, (controller, _) in self.names.items():
            if not isinstance(controller, Plateau):
                signals = '{"micro_batch_gradient_norms": {"norms": norms, "sizes": sizes, "total": whole}}'
                text.add(f"{name}_state = {name}.observe({name}_state, {signals}, None)")
            elif controller.metric == "loss":
                loss = "loss.item()" if self.own.evaluation.mean() and not self.own.rules.mezo else "loss"
                text.add(f'{name}_state = {name}.observe({name}_state, {{"loss": {loss}}}, None)')
        watching = [(n, c) for n, (c, _) in self.names.items() if isinstance(c, Plateau) and c.metric != "loss"]
        if watching and self._ever_due():
            with text.block(f"if {self._due()}:"):
                if self.own.rules.shared:
                    text.add("measured = validate(model)")
                else:
                    with text.block(f"with {self.own.rules.judged}:"):
                        text.add("measured = validate(model)")
                text.add("model.train()")
                for name, controller in watching:
                    key = controller.metric.removeprefix("val:")
                    signals = f'{{"{controller.metric}": measured["val/{key}"]}}'
                    text.add(f"{name}_state = {name}.observe({name}_state, {signals}, None)")

    # -- when validation is due ------------------------------------------------------------------------------------

    def _every(self) -> float:
        facts = self.own.facts
        every: Duration = facts.declared.evaluate
        return facts.phase.length.amount(every)

    def _crossings(self) -> list[int] | None:
        """The steps of the phase after which it is due."""
        facts, every = self.own.facts, self._every()
        if facts.places is None:
            return None
        consumed = [facts.phase.length.consumed(at, 0.0) for at in [*facts.places, facts.end]]
        marks = [int(amount / every + 1e-9) for amount in consumed]
        return [place for place in range(len(facts.places)) if marks[place + 1] > marks[place]]

    def _ever_due(self) -> bool:
        return self._crossings() != []

    def _due(self) -> str:
        found, facts = self._crossings(), self.own.facts
        begin = facts.begin.step
        local = f"step - {begin - 1}" if begin > 1 else "step" if begin == 1 else "step + 1"
        if found is not None:
            period = found[0] + 1
            if found == list(range(period - 1, len(facts.places), period)):
                return f"({local}) % {period} == 0" if " " in local else f"{local} % {period} == 0"
            return f"{local} in {{{', '.join(str(place + 1) for place in found)}}}"
        every = self._every()
        if facts.phase.length.unit == "steps":
            after, before = f"({local})", f"({local} - 1)"
        else:
            before, after = self.own.clock("before"), self.own.clock("after")
        return f"int({after} / {every!r} + 1e-9) > int({before} / {every!r} + 1e-9)"


def has_controller(value: Any) -> bool:
    """Whether a knob's value is moved by what is measured."""
    return isinstance(value, Controller) and not isinstance(value, Schedule)
