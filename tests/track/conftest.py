import json
import os
from pathlib import Path

import pytest

import regimes as rg
from regimes.track import courier, tracking

HERE = Path(__file__).parent


@pytest.fixture
def copying(monkeypatch):
    """A tracker called tensorboard, whoever has it installed, that writes lines into a file."""
    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", "copying:Copying")
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(courier, "PATIENCE", 120.0)


@pytest.fixture
def told():
    def read(file):
        return [json.loads(line) for line in Path(file).read_text().splitlines()]

    return read


@pytest.fixture
def regime():
    return rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1, warmup="20%"), momentum=0.9), batch_size=4, budget="40 steps")


@pytest.fixture
def work():
    return rg.workloads.load("quadratic")
