"""The smallest component of a kind, and parts that count: what the suite puts into or around a component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from regimes.core.component import Stateful, fixed
from regimes.core.kinds import Controller, State, Weights
from regimes.core.progress import Progress


class Held(Controller):
    """Holds `first` until a step has been applied, then `second`.

    Examples
    --------
    >>> toy = Held(0.5, 0.25); state = toy.init()
    >>> toy.value(state, Progress()), toy.value(toy.observe(state, {}, Progress()), Progress())
    (0.5, 0.25)
    """

    first: float = fixed()
    second: float | None = fixed(None)

    def init(self) -> State:
        """Nothing applied yet."""
        return {"applied": 0}

    def value(self, state: State, at: Progress) -> float:
        """One number or the other."""
        return self.first if self.second is None or not state["applied"] else self.second

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Count the applied steps."""
        state["applied"] += 1
        return state


class Given(Weights):
    """The weights of the tiny task of classes at another seed, without a run.

    Examples
    --------
    >>> sorted(Given().load())[:2]
    ['0.bias', '0.weight']
    """

    def load(self) -> Mapping[str, Tensor]:
        """Build the model anew."""
        from regimes.testing.conformance import tiny

        return tiny.workload("classes").build(7).state_dict()

    def digest(self) -> str:
        """They are always the same."""
        return "tiny"


def tally(part: Stateful) -> Any:
    """A copy of a part that counts, in its state under ``tally``, how often it observes."""
    base: Any = type(part)

    def init(self: Any, *args: Any) -> State:
        return {**base.init(self, *args), "tally": 0}

    def observe(self: Any, state: State, signals: Any, at: Progress) -> State:
        count = state["tally"] + 1
        return {**base.observe(self, state, signals, at), "tally": count}

    made = type(f"Tallying{base.__name__}", (base,), {"init": init, "observe": observe, "__module__": __name__})
    return made(**vars(part))


def tallies(tree: Any) -> list[int]:
    """Every count in a state tree."""
    if isinstance(tree, dict):
        own = [tree["tally"]] if "tally" in tree else []
        return own + [count for value in tree.values() for count in tallies(value)]
    return [count for value in tree for count in tallies(value)] if isinstance(tree, list | tuple) else []
