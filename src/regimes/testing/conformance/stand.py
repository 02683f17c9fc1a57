"""The stand on which one component is tried: its examples, and small runs with one of them in its slot."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from regimes.core import paths
from regimes.core.component import Component
from regimes.core.errors import RegimesError
from regimes.core.kinds import Sampler
from regimes.core.notation import parse
from regimes.core.regime import Phase, Regime
from regimes.engine import trials
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.testing.conformance import tiny
from regimes.testing.conformance.examples import NoExample, candidates, importable

#: Kinds that stand in a run, and where.
PLACES = {
    "augment": "augment.0",
    "averager": "average",
    "controller": "optimizer.lr.right",
    "grad_transform": "grad_transforms.0",
    "loss": "loss",
    "model_transform": "on_entry.0",
    "optimizer": "optimizer",
    "sampler": "sampler",
    "schedule": "optimizer.lr",
    "selector": "selector",
}
#: Kinds that have a state in a run.
STATEFUL = ("augment", "averager", "controller", "grad_transform", "loss", "optimizer", "sampler", "selector")
#: For a rule that takes matrices only: it gets those, and another rule the rest.
_SHARE = "optimizer.groups.0.rule"
_GROUPS = "Groups([Group('0.weight|3.weight|4.weight', SGD()), Group('*', SGD(lr=0.05))])"


class Setup(NamedTuple):
    """An example with the tiny workload that it trains on, and its path in a phase."""

    example: Any
    task: str
    place: str


def applied(run: Run) -> Any:
    """Make steps until one that is of no trial, then the trials that come before the next such; return its record."""
    record = run.step()
    while "trial" in record.signals:
        record = run.step()
    while not run.finished and (run.frame.trial is not None or trials.proposed(run)[1] is not None):
        run.step()
    return record


class Stand:
    """One component under test.

    Parameters
    ----------
    cls : type
        The component's class.
    kind : str
        Its plug-in kind.
    instance : Component, optional
        Tried instead of examples of the class.
    steps : int
        Length of the resume chains.
    """

    def __init__(self, cls: type[Component], kind: str, instance: Component | None = None, steps: int = 8) -> None:
        self.cls, self.kind, self.steps = cls, kind, steps
        self.refusals: list[str] = []
        found = [instance] if instance is not None else self._candidates()
        setups = [self._setup(example) for example in found]
        self.setups = [setup for setup in setups if setup is not None]

    def _candidates(self) -> list[Component]:
        try:
            return list(candidates(self.cls))
        except (RegimesError, TypeError) as why:
            self.refusals.append(f"{type(why).__name__}: {why}")
            return []

    def _setup(self, example: Any) -> Setup | None:
        """The first tiny workload and place with which a step can be made; blank where nothing is to be run."""
        if not self.runs:
            return Setup(example, "", "")
        for tasks in (tiny.TASKS, tiny.SPECIAL):  # a model of a form of its own is the last resort
            for place, task in itertools.product(self._places(example), tasks):
                setup = Setup(example, task, place)
                try:
                    run = self.make(setup)()
                    while run.frame.phase + 1 < len(run.phases):
                        run.step()
                    if "skipped" not in run.step().signals:
                        return setup
                except Exception as why:
                    self.refusals.append(f"{example!r} as {place}: {type(why).__name__}: {why}")
        return None

    def _places(self, example: Any) -> list[str]:
        if isinstance(example, Sampler) and example.open_field is not None:
            return ["mixture"]
        return [PLACES[self.kind], _SHARE] if self.kind == "optimizer" else [PLACES[self.kind]]

    @property
    def runs(self) -> bool:
        """Whether the kind stands in a run."""
        return self.kind in PLACES

    @property
    def setup(self) -> Setup:
        """The setup that most checks are made with."""
        return self.setups[0]

    @property
    def example(self) -> Any:
        """The instance that most checks are made with; None if there is none."""
        return self.setups[0].example if self.setups else None

    def require(self) -> None:
        """Raise NoExample, with what was tried, where no instance could be made and run."""
        if self.example is None:
            tried = "; ".join(list(dict.fromkeys(self.refusals))[:3]) or "no instance could be built at all"
            if "<locals>" in self.cls.__qualname__:
                tried = "it is defined inside a function, where the notation cannot find it again"
            raise NoExample(
                f"no example of {self.cls.__name__} could be made and trained one step with ({tried}); give the class a "
                "classmethod `example()` that returns one that fits a small network of linear layers and a norm"
            )

    # -- regimes and runs ----------------------------------------------------------------------------------

    def regime(self, setup: Setup | None = None, **fields: Any) -> Regime:
        """A short regime with the component in its place, and these fields of a phase."""
        example, _, place = setup or self.setup
        base: dict[str, Any] = {"optimizer": "SGD(lr=0.05, momentum=0.9)", "batch_size": tiny.BATCH}
        base |= {"budget": "24 steps"} | _wishes(example) | fields
        if place == _SHARE:
            base["optimizer"] = _GROUPS
        if place == "on_entry.0":
            budget = base.pop("budget")
            phases = [Phase("first", budget="25%"), Phase("changed", budget="75%", on_entry=[example])]
            return Regime(phases=phases, budget=budget, **base)
        name, _, rest = place.partition(".")
        if rest in ("", "0"):
            return Regime(**base | {name: [example] if rest else example})
        return Regime(**base).but({place: example} if self.kind != "controller" else {"optimizer.lr": 0.02 * example})

    def workload(self, setup: Setup | None = None, double: bool = False) -> Workload:
        """The tiny workload of a setup, with the named sources that a mixture wants, or a rule that tells them apart."""
        example, task, place = setup or self.setup
        if getattr(example, "source_by_source", False):
            return tiny.workload(task, ("ann", "bob", "cid"), double)
        return tiny.workload(task, tuple(name for name, _ in example.sources) if place == "mixture" else (), double)

    def make(self, setup: Setup | None = None, **fields: Any) -> Callable[[], Run]:
        """Return what builds a run of a setup at step 0."""
        return self.build(self.regime(setup, **fields), setup)

    def build(self, regime: Regime, setup: Setup | None = None) -> Callable[[], Run]:
        """Return what builds a run from the printed form of a regime: nothing is shared between two."""
        work, text = self.workload(setup), repr(regime)

        def make() -> Run:
            with importable(self.cls):
                return Run(work, parse(text), seed=1, count_flops=False)

        return make

    def state(self, run: Run) -> Any:
        """The component's own state in a run."""
        if self.kind == "controller":
            return run.states["knobs"]["optimizer.lr"]["right"]
        return run.states["optimizer"]["0"] if self.setup.place == _SHARE else run.states[self.setup.place]

    def live(self, run: Run) -> Any:
        """The component with numbers in it, as the next step would see it; a schedule or controller as declared."""
        phase = run.phase
        if self.kind in ("controller", "schedule"):
            return paths.get(phase.declaration, self.setup.place)
        at, states = run.position, run.states["knobs"]
        knobs = phase.step_knobs.values(states, at) | phase.data_knobs.values(states, at)
        return paths.get(phase.substitute(knobs), self.setup.place)

    @functools.cached_property
    def own_knobs(self) -> dict[str, Any]:
        """path -> Spec of the example's own knobs that are numbers; those of its parts are theirs."""
        return {
            path: spec
            for path, value, spec in paths.knobs(self.example)
            if isinstance(value, int | float) and self.example.spec(path.split(".")[0]).role == "knob"
        }


def _wishes(example: Any) -> dict[str, Any]:
    """Fields of the phase without which the component's needs cannot be met."""
    needs = example.all_needs() if hasattr(example, "all_needs") else ()
    wishes: dict[str, Any] = {}
    if any(need.startswith("val:") for need in needs):
        wishes["evaluate"] = "10%"
    if "micro_batch_gradient_norms" in needs:
        wishes["micro_batch"] = 3
    return wishes
