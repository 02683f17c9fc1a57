"""Looking on while a run makes its steps: evaluations, observations, and what they leave as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from regimes.engine import step as step_module
from regimes.engine import trees
from regimes.engine.evaluator import Evaluation, Evaluator
from regimes.engine.run import Run


class Seen:
    """What one step's evaluations were, which found weights or state already written, and the gradients they gave."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, bool]] = []
        self.early: list[str] = []
        self._given: list[tuple[Any, Any]] = []

    def give(self, gradients: Any) -> None:
        """Note the gradients of an evaluation as they are now."""
        self._given.append((list(gradients), trees.clone(list(gradients))))

    def overwritten(self) -> list[str]:
        """Places of gradients that are no longer as they were given: evaluation, then parameter."""
        now, before = ([pair[side] for pair in self._given] for side in (0, 1))
        return trees.differences({"gradients": before}, {"gradients": now})


class _WatchedEvaluator(Evaluator):
    """An evaluator that notes its calls and compares weights and the rule's state with those before the step."""

    def __init__(self, run: Run, *args: Any) -> None:
        super().__init__(run, *args)
        self._displaced = 0
        self._before = trees.clone(_written_by_rules(run))
        self.seen: Seen = run.seen  # type: ignore[attr-defined]

    def __call__(self, grad: bool = True, final: bool = True, *args: Any, **kwargs: Any) -> Evaluation:
        if not self._displaced:
            self.seen.early += trees.differences(self._before, trees.clone(_written_by_rules(self.run)))
        self.seen.calls.append((grad, final))
        found = super().__call__(grad, final, *args, **kwargs)
        if grad:
            self.seen.give(found.gradients)
        return found

    @contextlib.contextmanager
    def at(self, *args: Any) -> Iterator[None]:
        with super().at(*args), self._elsewhere():
            yield

    @contextlib.contextmanager
    def moved(self, *args: Any) -> Iterator[None]:
        with super().moved(*args), self._elsewhere():
            yield

    @contextlib.contextmanager
    def _elsewhere(self) -> Iterator[None]:
        self._displaced += 1
        try:
            yield
        finally:
            self._displaced -= 1


def _written_by_rules(run: Run) -> dict[str, Any]:
    return {"weights": dict(run.parameters), "state": run.states["optimizer"]}


def watched_step(run: Run) -> Seen:
    """Make one step and return what its evaluations were."""
    plain = step_module.Evaluator
    run.seen = Seen()  # type: ignore[attr-defined]
    step_module.Evaluator = _WatchedEvaluator  # type: ignore[assignment, misc]
    try:
        run.step()
    finally:
        step_module.Evaluator = plain  # type: ignore[misc]
    return run.seen  # type: ignore[attr-defined]


class Observations:
    """How often a method was called, and what of the model moved meanwhile."""

    def __init__(self) -> None:
        self.count = 0
        self.moved: list[str] = []


@contextlib.contextmanager
def _replaced(cls: type[Any], name: str, method: Any) -> Iterator[None]:
    """Inside, a class has another method."""
    inherited, plain = name not in vars(cls), getattr(cls, name)
    setattr(cls, name, method)
    try:
        yield
    finally:
        delattr(cls, name)
        if not inherited:
            setattr(cls, name, plain)


@contextlib.contextmanager
def counted(cls: type[Any], name: str) -> Iterator[Observations]:
    """Inside, count the calls of a method."""
    seen, plain = Observations(), getattr(cls, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.count += 1
        return plain(self, *args, **kwargs)

    with _replaced(cls, name, method):
        yield seen


@contextlib.contextmanager
def observations(cls: type[Any], run: Run, state: Any) -> Iterator[Observations]:
    """Inside, count the calls of ``cls.observe`` with the state that ``state(run)`` names."""
    seen, plain = Observations(), cls.observe

    def observe(self: Any, own: Any, signals: Any, at: Any) -> Any:
        if own is not state(run):
            return plain(self, own, signals, at)
        seen.count += 1
        before = trees.clone(dict(run.model.state_dict()))
        after = plain(self, own, signals, at)
        seen.moved += trees.differences(before, dict(run.model.state_dict()))
        return after

    with _replaced(cls, "observe", observe):
        yield seen


@contextlib.contextmanager
def poisoned(run: Run, forward: int = 1) -> Iterator[None]:
    """Inside, the given forward of the next step is not finite."""
    run.model.calls, run.model.poison_at = 0, forward  # type: ignore[assignment]
    try:
        yield
    finally:
        run.model.poison_at = 0  # type: ignore[assignment]
