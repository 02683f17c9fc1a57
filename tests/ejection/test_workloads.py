"""Scripts of other workloads: batches of other forms, files of the user's own, text, several sources."""

import pytest
from watched_scripts import dead_lines, ruff

import regimes as rg
from regimes.core.permutation import WHOLE
from regimes.ejection import check, eject
from regimes.study import files
from regimes.testing.conformance.tiny import one_thread

MODULE = """
import torch
from torch import nn
import regimes as rg


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, features):
        return self.layer(features)


def spread(output, target):
    return output.std()


def work(examples=24):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    data = {"features": x, "label": y}
    return rg.Workload(
        model=Named, train=data, val=data, loss=nn.CrossEntropyLoss(), metrics={"acc": rg.Accuracy(), "spread": spread}
    )


def many(examples):
    x = torch.arange(examples) % 7
    return rg.Workload(model=lambda: nn.Linear(1, 7), train=(x[:, None] / 7, x), loss=nn.CrossEntropyLoss())


workload = work
regime = rg.Regime(optimizer=rg.AdamW(lr=0.01, weight_decay=0.1), batch_size=6, budget="5 epochs")
seed = 4
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_study.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with one_thread():
        yield tmp_path


def holds(text, folder, *given):
    file = folder / "train.py"
    file.write_text(text)
    assert check(*given).differing == []
    assert ruff(file) == []
    assert dead_lines(text, file) == []


def test_a_python_file_with_batches_by_name_and_a_parameter_that_nothing_reaches(folder):
    found = files.read(folder / "own_study.py")
    text = eject(found)
    assert "from own_study import workload" in text
    assert "work = workload()" in text
    assert "SEED = 4" in text
    assert 'F.cross_entropy(model(features=batch["features"]), batch["label"], reduction="none")' in text
    assert "p.grad = torch.zeros_like(p) if p.grad is None else p.grad" in text
    holds(text, folder, found)


def test_a_function_with_arguments(folder):
    spec = {"name": "own_study:work", "examples": 16}
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="10 steps")
    text = eject(spec, regime)
    assert "from own_study import work as own_work\n" in text
    assert "work = own_work(examples=16)" in text
    holds(text, folder, spec, regime)


def test_text_from_two_sources(folder):
    regime = rg.Regime(
        optimizer=rg.groups.muon(rg.Muon(lr=0.02), rest=rg.groups.no_decay(rg.AdamW(lr=3e-3, weight_decay=0.1))),
        batch_size=4,
        mixture=rg.Mixture(code=0.8, prose=0.2),
        budget="4 steps",
    )
    spec = {"name": "char_lm", "width": 32}
    text = eject(spec, regime)
    assert 'work = rg.workloads.load("char_lm", width=32)' in text
    assert 'for data in work.sources["val"].values():' in text
    holds(text, folder, spec, regime)


def test_digits_with_a_convolution_and_batch_norm(folder):
    regime = rg.Regime(
        optimizer=rg.SAM(rg.SGD(lr=rg.OneCycle(0.2), momentum=0.9, nesterov=True)), batch_size=32, budget="6 steps"
    )
    spec = {"name": "digits_cnn", "batch_norm": True}
    holds(eject(spec, regime), folder, spec, regime)


def test_more_examples_than_are_permuted_as_a_whole(folder):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="10 steps")
    for examples, drawn in (
        (WHOLE, ".permutation(size)"),
        (WHOLE + 1, 'rg.Batches(work, rg.Reshuffle(), SEED, "main")'),
    ):
        spec = {"name": "own_study:many", "examples": examples}
        text = eject(spec, regime)
        assert drawn in text
        holds(text, folder, spec, regime)
