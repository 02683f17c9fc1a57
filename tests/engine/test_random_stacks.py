"""Random regimes, three seeds of each: side by side as alone, by graphs wherever there can be any."""

import random
import warnings

import pytest

from regimes.core.errors import DeclarationError, RunFailed, UserCodeError
from regimes.engine.replicas import Stack
from regimes.engine.run import Run
from regimes.engine.together import Together
from regimes.engine.traced import Worth
from regimes.testing.conformance import stacking, tiny
from regimes.testing.conformance.stacking import differences
from regimes.testing.random_regimes import draw


@pytest.fixture
def graphs(monkeypatch):
    """The graphs of all stacks, which want them from their first step; states may differ by 1e-6.

    Rules that divide by the size of a gradient make 1e-9 of the rounding that is the gradient of a bias before a norm.
    """
    monkeypatch.setattr(stacking, "NEAR", 1e-6)
    made, init = [], Stack.__init__

    def wanting(stack, runs):
        init(stack, runs)
        stack.graphs.worth = Worth(declared=True)
        stack.graphs.traceable = True  # all that the tiny models change is a count of their calls
        made.append(stack.graphs.by_size)

    monkeypatch.setattr(Stack, "__init__", wanting)
    return made


def rounding(phase):
    """Whether what a phase finds hangs on rounding: to bfloat16, or of gradients that a norm of two examples makes zero."""
    few = [size for size in (phase.micro_batch, phase.batch_size) if isinstance(size, int)]
    return phase.precision == "bfloat16" or min(few, default=4) < 4


def runs(number):
    """Three seeds of a drawn regime; none where it is refused, or where much is made of rounding."""
    try:
        drawn = draw(random.Random(number), "core")
        if any(map(rounding, drawn.regime.phases)):
            return []
        names = ("a", "b") if any(phase.mixture is not None for phase in drawn.regime.phases) else ()
        work = tiny.workload(drawn.task, names, double=True)
        return [Run(work, drawn.regime, drawn.seed + i) for i in range(3)]
    except (DeclarationError, UserCodeError):
        return []


def ended(run):
    """Why a run ends before its end; None where it does not."""
    try:
        while not run.finished:
            run.step()
    except (RunFailed, UserCodeError) as why:
        return why
    return None


def compared(number):
    """How many of three runs were stacked at first; every one is as alone, or ends as alone."""
    with tiny.one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        side, alone = runs(number), runs(number)
        together, failed = Together(side), {}
        stacked = sum(len(stack.runs) for stack in together.stacks)
        while together.running:
            for run, made in list(together.steps(most=4)):
                if isinstance(made, BaseException):
                    failed[id(run)] = made
                    together.drop(run)
        for run, other in zip(side, alone):
            assert type(ended(other)) is type(failed.get(id(run))), (number, run.regime)
            assert run.position == other.position, (number, run.regime)
            assert id(run) in failed or differences(run.tree(), other.tree()) == [], (number, run.regime)
        return stacked


def check(numbers, graphs, least):
    stacked = sum(compared(number) > 0 for number in numbers)
    traced = sum(any(by_size.values()) for by_size in graphs)
    assert stacked >= least
    assert traced >= least


def test_some_are_as_alone(graphs):
    check(range(100), graphs, 2)


@pytest.mark.slow
def test_many_are_as_alone(graphs):
    check(range(100, 1000), graphs, 30)
