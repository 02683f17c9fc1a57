"""One phase as a function of a script: what is set up, one step, what is handed on."""

from __future__ import annotations

import re
from typing import Any

from regimes.core import paths
from regimes.core.errors import DeclarationError
from regimes.ejection import names
from regimes.ejection.data import Data
from regimes.ejection.evaluation import Evaluation
from regimes.ejection.facts import Facts
from regimes.ejection.formulas import Formulas
from regimes.ejection.observe import Average, Controllers, has_controller
from regimes.ejection.rules import Rules
from regimes.ejection.text import Lines, Symbol, name_of
from regimes.ejection.transforms import enter, transform
from regimes.model_transforms import Freeze, Unfreeze
from regimes.optimizers import SGD
from regimes.optimizers.foreign.rule import Foreign

#: Names that a script has for things of its own.
# fmt: off
NAMES = frozenset((
    "F", "a", "after", "average", "averaged", "averager", "batch", "batches", "before", "block", "buffer",
    "count", "chosen", "climb", "done", "drawn", "found", "g", "generator", "groups", "half", "here", "inputs",
    "kept", "learned", "length", "loss", "losses", "main", "measured", "model", "move", "name", "named", "norm",
    "norms", "np", "number", "optimizer", "optimizers", "order", "p", "parameters", "part", "parts", "rg", "rows",
    "run_done", "samples", "scale", "scores", "seen", "shuffled", "sizes", "slope", "start", "statistics", "step",
    "streams", "summed", "tokens", "torch", "total", "train", "train_data", "units", "val_data", "validate",
    "value", "waiting", "weights", "whole", "work", "x", "y",
))
# fmt: on


class PhaseText:
    """Writes the function of one phase.

    Parameters
    ----------
    script : Script
    facts : Facts
    """

    def __init__(self, script: Any, facts: Facts) -> None:
        self.script, self.facts = script, facts
        self.formulas: Formulas = script.formulas
        self.previous: PhaseText | None = None
        self.next: PhaseText | None = None
        self.uses_streams = False
        self.clocks: set[str] = set()
        self.controllers = Controllers(self)
        #: The declaration with the expression of each varying knob in its place.
        self._texts = {path: self._knob_text(path) for path in facts.phase.specs}
        self.live = facts.phase.substitute({path: Symbol(text) for path, text in self._texts.items()})  # type: ignore[misc]
        self.data = Data(self)
        self.evaluation = Evaluation(self)
        self.rules = Rules(self)
        self.average = Average(self)
        self.uses_streams |= self.data.by_hand

    @property
    def alone(self) -> bool:
        """Whether the regime has no other phase."""
        return len(self.facts.run.phases) == 1

    @property
    def function_name(self) -> str:
        """Of the phase's function in the script."""
        name = name_of(self.facts.phase.name)
        taken = name in NAMES or self.formulas.has(name)
        return "train" if self.alone else f"{name}_phase" if taken else name

    @property
    def helpers(self) -> dict[str, list[str]]:
        """The functions that it needs, by name."""
        return self.data.helpers() | self.evaluation.helpers() | self.rules.helpers()

    # -- knobs and clocks ------------------------------------------------------------------------------------------

    def knob(self, path: str) -> str:
        """Return the expression for a knob."""
        return self._texts[path] if path in self._texts else repr(paths.get(self.facts.declared, path))

    def _knob_text(self, path: str) -> str:
        value, spec = paths.get(self.facts.declared, path), self.facts.phase.specs[path]
        try:
            text = self.controllers.expression(value, path) if has_controller(value) else self.formula(value, path)
        except DeclarationError as why:
            raise why.within(path if self.alone else f"{self.facts.phase.name}.{path}") from None
        return f"math.floor({text} + 0.5)" if spec.integer else text

    def formula(self, value: Any, path: str) -> str:
        """Return the expression of a number or a schedule, and note the clocks that it reads."""
        points = {
            "phase": None if self.facts.places is None else [at.fraction for at in self.facts.places],
            "run": None if self.facts.places is None else [at.run_fraction for at in self.facts.places],
        }
        clocks = {"phase": "done", "run": "run_done"}
        if self.alone and points["phase"] == points["run"]:
            clocks["run"] = "done"
        *_, owner, name = ["phase", *path.split(".")]
        if name.isdigit() or name in NAMES:  # "betas.0", and a source that is called as something of the loop
            name = f"{owner}_{name}"
        span = self.facts.phase.length.span()
        text = self.formulas.expression(value, span, clocks, points, name_of(name))  # type: ignore[arg-type]
        self.clocks |= {clock for clock in set(clocks.values()) if f"({clock})" in text}
        if "run_done" in self.clocks:
            self.clocks.add("done")
        return text

    def clock(self, name: str) -> str:
        """Return the expression for "done", or for what the phase has consumed in samples or tokens."""
        if name in ("done", "samples", "tokens"):
            self.clocks.add(name)
            return name
        unit = self.facts.phase.length.unit
        self.clocks.add(unit if unit != "steps" else "done")
        self.clocks.add("before")
        return {"before": "before", "after": "step + 1" if unit == "steps" else unit}[name]

    # -- what goes from phase to phase -----------------------------------------------------------------------------

    def takes_in(self, what: str) -> bool:
        """Whether the phase goes on with the optimizer, the average, the cursor or the sampler of the one before."""
        if self.previous is None or what not in self.facts.declared.carry:
            return False
        if what == "optimizer":
            return not self.rules.mezo
        if what == "average":
            return self.facts.declared.average is not None
        return what == "cursor" or (what == "sampler" and self.data.learns)

    def takes(self) -> list[str]:
        """Names of the arguments beside the model."""
        named = {
            "optimizer": self.rules.instances,
            "average": "averaged" if self.average.is_ema else "average",
            "cursor": "cursor",
            "sampler": "learned",
        }
        return [name for what, name in named.items() if self.takes_in(what)]

    def gives(self) -> list[str]:
        """Names of what it returns."""
        return [] if self.next is None else self.next.takes()

    def _returned(self) -> list[str]:
        own = {"cursor": "drawn.cursor", "learned": "batches.state"}
        return [own.get(name, name) for name in self.gives()]

    def _refuse_carry(self) -> None:
        """Refuse to hand on what the next phase would not use as it is."""
        before = self.previous
        assert before is not None
        changed = [t for t in self.facts.declared.on_entry if not isinstance(t, Freeze | Unfreeze)]
        same = list(before.facts.parameters) == list(self.facts.parameters) and not changed
        leaves = [[(leaf.class_name, leaf.condition) for leaf in phase.rules.leaves] for phase in (before, self)]
        if self.takes_in("optimizer"):
            same = same and leaves[0] == leaves[1] and all(map(_goes_on, before.rules.leaves, self.rules.leaves))
        if not same:
            raise DeclarationError(
                "got state of another set of parameters, or under other groups or options; allowed in a script: to go on "
                "with the same",
                f"{self.facts.phase.name}.carry",
            )

    def named_parameters(self) -> str:
        """Expression for the names and tensors that are trained."""
        return "model.named_parameters()" if self._all() else "named.items()"

    def _all(self) -> bool:
        return list(self.facts.parameters) == [name for name, _ in self.facts.model.named_parameters()]

    # -- text ------------------------------------------------------------------------------------------------------

    def function(self) -> list[str]:
        """Return the lines of the phase's function, a generator of (step, loss)."""
        if self.takes_in("optimizer") or self.takes_in("average"):
            self._refuse_carry()
        body = Lines()
        self._steps(body)
        if self.next is None or "averaged" in self.next.facts.declared.carry:
            self.average.settle(body)
        if self.gives():
            body.add(f"return {', '.join(self._returned())}")
        inside = Lines()
        for part in (self.rules, self.average, self.controllers, self.data):
            part.setup(inside)
        text, head = Lines(), ", ".join(["model", *self.takes()])
        with text.block(f"def {self.function_name}({head}):"):
            text.add(f'"""{self._said()}"""')
            self._begin(text, "\n".join([*inside.lines, *body.lines]))
            text.add(*inside.lines, *body.lines)
        return text.lines

    def _said(self) -> str:
        budget = self.facts.phase.length.budget
        return f"Yield the number and the loss of each step, for {budget}."

    def _begin(self, text: Lines, rest: str) -> None:
        """What happens to the model, and the names that the rest of the function reads."""
        for place, one in enumerate(self.facts.declared.on_entry):
            enter(self, text, one, place)
        if "streams" in rest:
            text.add(f'streams = Streams(SEED, "{self.facts.phase.name}")')
        listed = re.search(r"(?<![.\w])parameters\b", rest) is not None
        if not self._all():
            text.add(f"named = {{{self._trained()}}}", *(["parameters = list(named.values())"] if listed else []))
        elif listed:
            text.add("parameters = list(model.parameters())")

    def _trained(self) -> str:
        conditions = [names.any_pattern(self.facts.declared.trainable)] if self.facts.declared.trainable else []
        frozen = any(not p.requires_grad for _, p in self.facts.model.named_parameters())
        both = names.both([*conditions, "p.requires_grad" if frozen else ""])
        return f"name: p for name, p in model.named_parameters() if {both}"

    def _steps(self, body: Lines) -> None:
        inside = Lines()
        self.data.draw(inside)
        self.rules.write(inside, self._final)
        if self.data.learns:
            examples = "" if self.facts.each == 1 else self._examples()
            inside.add(f"batches.observe(drawn, seen{examples})")
        after = Lines()
        self.average.write(after)
        self._watch(after)
        from regimes.ejection.clocks import loop

        loop(self, body, inside.lines, after.lines)

    def _watch(self, text: Lines) -> None:
        self.controllers.write(text)

    def _examples(self) -> str:
        return ", torch.arange(len(drawn)).repeat_interleave(len(seen) // len(drawn))"

    def _final(self, text: Lines) -> None:
        """The transforms of the final gradient."""
        if self.evaluation.norms:
            text.add("whole = length([p.grad for p in parameters])")
        for place, one in enumerate(self.live.grad_transforms):
            transform(self, text, one, place)

    def loss(self) -> str:
        """The loss of the step as a number."""
        return "loss.item()" if self.evaluation.mean() and not self.rules.mezo else "loss"


def _goes_on(before: Any, after: Any) -> bool:
    """Whether one instance can serve both rules."""
    if isinstance(before.rule, Foreign):
        return bool(before.rule == after.rule)
    if isinstance(before.rule, SGD):
        return (before.rule.momentum == 0.0) == (after.rule.momentum == 0.0)
    return True
