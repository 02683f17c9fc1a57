"""What a step trains on, in a script: a permutation walked through by hand, or the draws of a sampler of ours."""

from __future__ import annotations

from typing import Any

from regimes.core.component import observes
from regimes.core.permutation import WHOLE
from regimes.ejection.text import Lines, call, literal
from regimes.samplers import Reshuffle


def inside(sampler: Any) -> Any:
    """What draws within each source of a mixture; a plain sampler itself."""
    return getattr(sampler, "inside", sampler)


class Data:
    """The data of one phase.

    Parameters
    ----------
    own : PhaseText
    """

    def __init__(self, own: Any) -> None:
        self.own, facts = own, own.facts
        sources = list(facts.run.workload.sources["train"].values())
        self.size = facts.run.view.size
        self.by_hand = (
            type(facts.sampler) is Reshuffle
            and len(sources) == 1
            and self.size <= WHOLE
            and not sources[0].draws
            and not self._goes_on()
            and not self._waits()
        )
        self.learns = observes(inside(facts.sampler))
        self.weights = facts.plan.weights is not None
        #: What the batch of a step is cut from.
        self.name = "rows" if self.by_hand else "drawn"

    def _goes_on(self) -> bool:
        """Whether the phase takes over a place in the data, or hands its own on."""
        phases, place = self.own.facts.run.phases, self.own.facts.phase.index
        return any("cursor" in phase.declaration.carry for phase in phases[max(place, 1) : place + 2])

    def _waits(self) -> bool:
        """Whether lag changes what is drawn: it does where data knobs vary, or the sampler learns."""
        facts = self.own.facts
        return bool(facts.declared.lag and (facts.phase.data_knobs.paths or observes(inside(facts.sampler))))

    def helpers(self) -> dict[str, list[str]]:
        """The functions that it needs."""
        if not self.by_hand:
            return {}
        text = Lines()
        with text.block("def shuffled(size, streams):"):
            text.add('"""Yield the numbers of the examples, in a fresh permutation every epoch."""')
            with text.block("for epoch in itertools.count():"):
                text.add('yield from streams.rng("epoch", epoch).permutation(size)')
        return {"shuffled": text.lines}

    def setup(self, text: Lines) -> None:
        """Before the first step."""
        own, facts = self.own, self.own.facts
        if self.by_hand:
            text.add("order = shuffled(len(train_data), streams)")
            return
        given = ["work", self._sampler(), "SEED", literal(facts.phase.name)]
        if facts.begin.step:
            given.append(f"step={facts.begin.step}")
        given += [f"{name}={name}" for name in ("cursor",) if own.takes_in("cursor")]
        if own.takes_in("sampler"):
            given.append("state=learned")
        text.add(f"batches = rg.Batches({', '.join(given)})")
        if self._waits():
            text.add(*self._clocks_at_begin())
            text.add(f"waiting = collections.deque({self._drawn()} for _ in range({facts.declared.lag}))")

    def _clocks_at_begin(self) -> list[str]:
        """What is done before the first step, where what is drawn ahead reads it."""
        drawn, begin = self._drawn(), self.own.facts.begin
        shown = {"done": begin.fraction, "run_done": begin.run_fraction}
        return [f"{name} = {value!r}" for name, value in shown.items() if f"({name})" in drawn]

    def _sampler(self) -> str:
        """The sampler, with the values of now where they vary: every draw is given its own."""
        facts = self.own.facts
        return call(getattr(facts.live_at_begin, facts.declared.data_slot))

    def _drawn(self) -> str:
        facts, lead = self.own.facts, f"{self.own.facts.declared.data_slot}."
        paths = [path for path in facts.phase.data_knobs.paths if path.startswith(lead)]
        values = ", ".join(f"{literal(path.removeprefix(lead))}: {self.own.knob(path)}" for path in paths)
        return f"batches.draw({self.batch_size()}{f', {{{values}}}' if values else ''})"

    def batch_size(self) -> str:
        """How many examples the step that is drawn has."""
        return self.own.knob("batch_size")

    def draw(self, text: Lines) -> None:
        """At the beginning of a step."""
        if self.by_hand:
            text.add(f"rows = np.array(list(itertools.islice(order, {self.batch_size()})))")
        elif self._waits():
            text.add(f"waiting.append({self._drawn()})", "drawn = waiting.popleft()")
        else:
            text.add(f"drawn = {self._drawn()}")

    def read(self, text: Lines, target: str, part: str | None) -> None:
        """The batch of the step, or of the part [start, start + `part`) of it, which is called `part` from there on."""
        if self.by_hand:
            cut = "rows" if part is None else f"rows[start : start + {part}]"
            text.add(f"{target} = train_data.fetch({cut}, {{}})")
        elif part is None:
            text.add(f"{target} = batches.read(drawn)")
        else:
            text.add(f"part = drawn.part(start, start + {part})", f"{target} = batches.read(part, number)")
