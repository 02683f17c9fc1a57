"""A guard of workloads of ours: what each version's own code declares, and where the first step differs."""

import sys
from pathlib import Path

import pytest

import regimes as rg

sys.path.insert(0, str(Path(__file__).parent))  # for the helper below, also under --import-mode=importlib

from guarded import Repository

pytestmark = pytest.mark.slow
WORK = '''
"""A workload of one's own, and a rate."""
import torch
from torch import nn

import regimes as rg
from regimes.core.card import Card
from regimes.core.component import knob
from regimes.core.kinds import Knob, Sampler
from regimes.core.kinds import Draw
from regimes.core.registry import register


@register
class EveryOther(Sampler):
    """Every other example."""

    first: int = knob(0, low=0)
    card = Card(title="Every other example", axes=("order",), source="a test")

    def start(self, view, key):
        return {"next": self.first}

    def draw(self, state, cursor, n, ctx):
        import numpy as np

        indices = (cursor["next"] + 2 * np.arange(n)) % ctx.view.size
        return Draw(indices.astype(np.int64), {"next": int(cursor["next"] + 2 * n)})


def make():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    return rg.Workload(model=lambda: nn.Linear(4, 2), train=(x, y), val=(x[:32], y[:32]), loss=nn.CrossEntropyLoss(),
                       name="own")
'''
GUARD = """
workload: work:make
modules: [work]
regime:
  optimizer: SGD(lr=Linear(0.1))
  sampler: EveryOther
  batch_size: 8
  budget: 12 steps
guard:
  margin: 0.05
  seeds: 6
"""
CHANGES = {
    "the initial weights": ("nn.Linear(4, 2)", "nn.Linear(4, 2).double().float().requires_grad_().apply(halved)"),
    "the data": ('{"next": self.first}', '{"next": self.first + 1}'),
    "the loss (forward)": ("nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(label_smoothing=0.01)"),
}
HALVED = "\n\ndef halved(module):\n    with torch.no_grad():\n        module.weight.mul_(0.5)\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    made = Repository(tmp_path_factory.mktemp("own"))
    made.write({"work.py": WORK + HALVED, "own.yaml": GUARD})
    made.commit("own")
    return made


@pytest.fixture
def guarded(repository):
    def guarded(old, new):
        assert old in WORK
        repository.write({"work.py": WORK.replace(old, new) + HALVED})
        return rg.guard(repository.folder / "own.yaml", base="HEAD", out=repository.runs, progress=False)

    yield guarded
    repository.restore()


@pytest.mark.parametrize("part", CHANGES)
def test_the_first_difference_is_placed(guarded, part):
    facts = guarded(*CHANGES[part]).to_dict()
    assert (facts["first_difference"]["step"], facts["first_difference"]["part"]) == (0, part)
    assert (facts["traced"], facts["notes"], facts["comparison"]["pairs"]) == (12, [], 6)


def test_a_refactoring_is_the_same_to_the_bit(guarded):
    found = guarded("(x[:, 0] > 0).long()", "torch.where(x[:, 0] > 0, 1, 0)")
    assert (found.code, found.to_dict()["bitwise"], found.to_dict()["traced"]) == (0, True, 12)


def test_what_a_version_cannot_read_is_its_failure(guarded):
    found = guarded("class EveryOther", "class EveryThird")
    assert (found.verdict, found.code) == ("failed", 1)
    assert "EveryOther" in str(found)
