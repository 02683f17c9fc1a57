"""Claims that compare no regimes: a function of the seed measures, each seed once, and the same interval judges."""

import json

import pytest

from regimes.core.card import Claim
from regimes.study import verify as verifying
from regimes.study.statistics import simultaneous_paired_intervals
from regimes.study.verify import claimants, measured

TOY = """
from pathlib import Path

def pair(seed):
    with open({log!r}, "a") as file:
        file.write(f"{{seed}}\\n")
    return 1.0 + 0.1 * (seed % 3), 0.5
"""


@pytest.fixture
def claim(tmp_path, monkeypatch):
    (tmp_path / "measured_toy.py").write_text(TOY.format(log=str(tmp_path / "log")))
    monkeypatch.syspath_prepend(tmp_path)
    return Claim("It is larger.", {"seeds": 5, "margin": 0.2, "scale": "a toy"}, measure="measured_toy:pair")


def test_every_seed_is_measured_once_and_kept(claim, tmp_path):
    found = measured(claim, tmp_path, 1, False, "code")
    assert found == {seed: (1.0 + 0.1 * (seed % 3), 0.5) for seed in range(5)}
    file = tmp_path / "measured.json"
    kept = json.loads(file.read_text())
    del kept["seeds"]["3"]
    file.write_text(json.dumps(kept))  # as a kill before the fourth seed leaves it, but for the fifth
    assert measured(claim, tmp_path, 2, False, "code") == found
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3", "4", "3"]
    measured(claim, tmp_path, 1, False, "changed code")
    assert len((tmp_path / "log").read_text().split()) == 11


def test_the_verdict_is_that_of_the_paired_interval(claim):
    found = {seed: (1.0 + 0.1 * (seed % 3), 0.5) for seed in range(5)}
    judged = verifying._of_values(claim, found)
    interval = simultaneous_paired_intervals({"it": [a - b for a, b in found.values()]})["it"]
    assert (judged["effect"], judged["low"], judged["high"]) == (interval.mean, interval.low, interval.high)
    assert (judged["verdict"], judged["n"], judged["scale"]) == ("shown", 5, "a toy, 5 seeds")
    never = dict.fromkeys(range(5), (0.0, 0.0))
    assert verifying._of_values(claim, never)["verdict"] == "contradicted"
    alike = dict.fromkeys(range(5), (1.0, 0.0))  # one observation, five times
    assert verifying._of_values(claim, alike)["verdict"] == "inconclusive"


def test_functions_that_claim_something_are_among_those_to_verify():
    assert {"order_memorization_test", "Soup", "RankMe", "MeZO"} <= set(claimants())
