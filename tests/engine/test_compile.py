"""compile=True: forward and backward through torch.compile, alone and stacked; the same to rounding, resumed to the bit."""

import shutil

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.ejection.api import eject
from regimes.engine.replicas import Stack
from regimes.engine.run import Run
from regimes.engine.stackable import Unstackable
from regimes.testing.conformance.stacking import differences
from regimes.testing.conformance.tiny import one_thread

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")


@pytest.fixture(autouse=True)
def _one_thread():
    """On tensors this small several threads only wait for each other."""
    with one_thread():
        yield


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(96, 6, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 2)).double()


WORK = rg.Workload(model=net, train=data(0), val=data(1), loss=rg.CrossEntropy())
PLAIN = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-2, warmup="5%")), batch_size=16, budget="20 steps")
COMPILED = PLAIN.but(compile=True)


def stepped(run):
    while not run.finished:
        run.step()
    return run.tree()


def test_a_compiled_run_is_the_run_to_rounding_and_resumes_to_the_bit(tmp_path):
    expected, whole = stepped(Run(WORK, PLAIN)), stepped(Run(WORK, COMPILED))
    assert differences(whole, expected) == ["regime"]
    run = Run(WORK, COMPILED)
    for _ in range(7):
        run.step()
    again = Run(WORK, COMPILED)
    again.load(run.tree())
    found = stepped(again)["model"]
    assert found
    assert all(map(torch.equal, found.values(), whole["model"].values()))


def test_compiled_stacks_are_the_runs_alone_to_rounding():
    regimes = [COMPILED, COMPILED.but({"optimizer.lr.peak": 3e-3})]
    stack = Stack([Run(WORK, regime, seed) for seed, regime in enumerate(regimes)])
    assert set(stack.graphs.by_size) == {16}
    while not stack.runs[0].finished:
        stack.step()
    for seed, (run, regime) in enumerate(zip(stack.runs, regimes)):
        assert differences(run.tree(), stepped(Run(WORK, regime.but(compile=False), seed))) == ["regime"]


def dropping():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2)).double()


def test_masks_of_dropout_are_the_same_compiled_or_not_stacked_or_alone():
    work = rg.Workload(model=dropping, train=data(0), val=data(1), loss=rg.CrossEntropy())
    expected = [stepped(Run(work, PLAIN, seed)) for seed in range(2)]
    assert differences(stepped(Run(work, COMPILED)), expected[0]) == ["regime"]
    stack = Stack([Run(work, COMPILED, seed) for seed in range(2)])
    while not stack.runs[0].finished:
        stack.step()
    assert [differences(run.tree(), tree) for run, tree in zip(stack.runs, expected)] == [["regime"], ["regime"]]


def test_compiled_and_not_are_two_regimes_and_never_one_stack():
    assert COMPILED != PLAIN
    assert "compile=True" in repr(COMPILED)
    with pytest.raises(Unstackable, match="differ"):
        Stack([Run(WORK, PLAIN), Run(WORK, COMPILED)])


def test_a_script_says_that_it_is_not_compiled():
    with pytest.raises(DeclarationError, match=r"torch.compile\(model\)"):
        eject("digits_mlp", COMPILED)
