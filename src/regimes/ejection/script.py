"""The script as a whole: what it imports and builds, one function for each phase, validation, `main`."""

from __future__ import annotations

from regimes.core.errors import DeclarationError
from regimes.ejection import measure
from regimes.ejection.facts import phases
from regimes.ejection.formulas import Formulas
from regimes.ejection.phase import PhaseText
from regimes.ejection.refusals import refuse
from regimes.ejection.source import lies_beside
from regimes.ejection.text import WIDTH, Lines, call, folded, literal
from regimes.engine.run import Run

#: What an import line is, in the order of a sorted import block: the standard library, then packages.
_STANDARD = ("collections", "fnmatch", "itertools", "math", "pathlib")


class Script:
    """Collects what the parts of a script need, and puts it together.

    Parameters
    ----------
    run : Run
        At its first step.
    source : Source lines
        How the script gets its workload: (import lines, expression).
    """

    def __init__(self, run: Run, source: tuple[list[str], str]) -> None:
        self.run, self.source = run, source
        self.imports: set[str] = {"import torch", *source[0]}
        self.formulas = Formulas()
        self.validates = "val" in run.workload.sources
        refuse(run)
        self.phases = [PhaseText(self, facts) for facts in phases(run)]
        refuse_unplaced(run, self.phases)
        for before, after in zip(self.phases, self.phases[1:]):
            before.next = after
            after.previous = before

    def need(self, *lines: str) -> None:
        """Note imports."""
        self.imports.update(lines)

    def text(self) -> str:
        """Return the script."""
        body = Lines()
        functions = [phase.function() for phase in self.phases]
        if len(self.phases) > 1:
            functions.append(self._train())
        functions = [*self.formulas.functions, *self._helpers(), *functions]
        if self.validates:
            functions.append(measure.validate(self))
        functions.append(self._main())
        self.need("from regimes.core.randomness import " + ", ".join(sorted(self._streams())))
        constants = [f"SEED = {self.run.seed}", f"work = {self.source[1]}", *self._sources()]
        code = "\n".join([*constants, *(line for lines in functions for line in lines)])
        for word, line in _USED.items():
            if word in code:
                self.need(line)
        body.add(*self._docstring(), "", *self._import_lines(), "", *constants)
        for lines in functions:
            body.lines += ["", "", *lines]
        body.lines += ["", "", 'if __name__ == "__main__":', "    main()"]
        return "\n".join(body.lines) + "\n"

    def _streams(self) -> set[str]:
        return {"Streams", "seed32"} if any(phase.uses_streams for phase in self.phases) else {"seed32"}

    def _sources(self) -> list[str]:
        splits = [("train", any(phase.data.by_hand for phase in self.phases)), ("val", self.validates)]
        lines = []
        for split, wanted in splits:
            sources = self.run.workload.sources.get(split, {})
            if wanted and len(sources) == 1:
                lines.append(f"{split}_data = work.sources[{literal(split)}][{literal(next(iter(sources)))}]")
        return lines

    def _docstring(self) -> list[str]:
        regime = self.run.regime
        text = f"regime = {call(regime).replace('rg.', '')}".replace("\\", "\\\\").replace('"""', "'''")
        return [
            f'"""The plain PyTorch loop of this regime, on {self.run.workload.name}, seed {self.run.seed}:',
            "",
            *(f"    {line}" for line in folded(text, WIDTH - 4)),
            "",
            "Written by `regimes eject`: its weights are those of `regimes run`, to the bit.",
            '"""',
        ]

    def _import_lines(self) -> list[str]:
        def rank(line: str) -> tuple[bool, str]:
            return line.startswith("from"), line.split()[1]

        def place(line: str) -> int:
            package = line.split()[1].split(".")[0]
            return 0 if package in _STANDARD else 2 if lies_beside(package) else 1

        found = [sorted((line for line in self.imports if place(line) == block), key=rank) for block in range(3)]
        blocks = [block for block in found if block]
        return [line for place, block in enumerate(blocks) for line in ([""] if place else []) + block]

    def _helpers(self) -> list[list[str]]:
        found: dict[str, list[str]] = {}
        for phase in self.phases:
            found |= phase.helpers
        return [found[name] for name in sorted(found)]

    def _train(self) -> list[str]:
        text = Lines()
        with text.block("def train(model):"):
            text.add('"""Yield the number and the loss of each step, phase after phase."""')
            for phase in self.phases:
                given, taken = ", ".join(["model", *phase.takes()]), ", ".join(phase.gives())
                text.add((f"{taken} = " if taken else "") + f"yield from {phase.function_name}({given})")
        return text.lines

    def _main(self) -> list[str]:
        steps = sum(phase.facts.steps or 0 for phase in self.phases)
        text = Lines()
        with text.block("def main():"):
            text.add('"""Train, print every so often, measure and save."""')
            text.add('model = work.build(seed32(SEED, "init"))')
            with text.block("for step, loss in train(model):"):
                text.add('assert math.isfinite(loss), f"step {step}: the loss is {loss}"')
                with text.block(f"if step % {max(steps // 20, 1) if steps else 10} == 0:"):
                    text.add('print(f"step {step:6d}  loss {loss:.4f}")')
            if self.validates:
                text.add("print(validate(model))")
            text.add('torch.save(model.state_dict(), Path(__file__).with_suffix(".pt"))')
        return text.lines


#: What needs an import, by the word with which it is used.
_USED = {
    "math.": "import math",
    "itertools.": "import itertools",
    "collections.": "import collections",
    "fnmatch.": "import fnmatch",
    "np.": "import numpy as np",
    "rg.": "import regimes as rg",
    "F.": "from torch.nn import functional as F",
    "Path(": "from pathlib import Path",
}


def refuse_unplaced(run: Run, phases: list[PhaseText]) -> None:
    """Refuse several phases where the end of one is only known when it is there."""
    if len(phases) < len(run.phases) or (len(phases) > 1 and phases[-1].facts.places is None):
        phase = phases[-1].facts.phase
        raise DeclarationError(
            f"got '{phase.length.budget}', whose number of steps depends on what is measured; allowed in a script of "
            "several phases: budgets that the declaration turns into steps",
            f"{phase.name}.budget",
        )
