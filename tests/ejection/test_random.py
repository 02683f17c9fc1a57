"""Regimes drawn from the core shelf: each is ejected and agrees with the engine to the bit, or is refused with a sentence."""

import random
import warnings

import pytest
from watched_scripts import dead_lines, ruff

from regimes.core.errors import DeclarationError, RegimesError, UserCodeError
from regimes.ejection import check, eject
from regimes.engine.run import Run
from regimes.testing.conformance import tiny
from regimes.testing.random_regimes import BUDGETS, draw

LONG = ("200 steps", "200 steps", "1000 samples", "40 epochs", "14000 tokens")


def accepted(number, budgets):
    """A drawn regime that the engine takes, as (spec, regime, seed); None where it does not."""
    try:
        drawn = draw(random.Random(number), "core", budgets)
        names = ("a", "b") if any(phase.mixture is not None for phase in drawn.regime.phases) else ()
        Run(tiny.workload(drawn.task, names), drawn.regime, drawn.seed).step()
    except (DeclarationError, UserCodeError):
        return None
    spec = {"name": "regimes.testing.conformance.tiny:workload", "task": drawn.task, "sources": names}
    return spec, drawn.regime, drawn.seed


def verdict(number, file, budgets):
    """What becomes of one number: "", "same", "diverged", or the sentence with which it is refused."""
    with tiny.one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = accepted(number, budgets)
        if given is None:
            return ""
        try:
            text = eject(*given)
        except DeclarationError as why:
            return str(why)
        except UserCodeError:  # batch norm's own refusal of a micro-batch of one, met in a later phase
            return ""
        file.write_text(text)
        try:
            found = check(*given)
        except UserCodeError as why:
            return "" if "more than 1 value per channel" in str(why) else f"unexpected: {why}"
        except RegimesError as why:
            return "diverged" if "is not finite" in str(why) else f"unexpected: {why}"
        assert found.differing == [], (number, given[1])
        if found.finished:
            assert dead_lines(text, file) == [], (number, given[1])
        return "same"


def compared(folder, wanted, budgets):
    """Draw until so many agreed; return the sentences of those that were refused."""
    same, diverged, refused, number = 0, 0, [], 0
    while same < wanted:
        found = verdict(number, folder / f"regime_{number}.py", budgets)
        same, diverged, number = same + (found == "same"), diverged + (found == "diverged"), number + 1
        if found not in ("", "same", "diverged"):
            key, _, rest = found.partition(": ")
            assert key, found
            assert "allowed" in rest, found
            refused.append(found)
    print(f"{number} drawn: {same} agree bitwise, {diverged} diverged, {len(refused)} refused", *refused, sep="\n  ")
    assert ruff(*sorted(folder.glob("regime_*.py"))) == []
    return refused


def test_ten_random_regimes(tmp_path):
    assert len(compared(tmp_path, 10, BUDGETS)) <= 3


@pytest.mark.slow
def test_a_hundred_random_regimes(tmp_path):
    assert len(compared(tmp_path, 100, LONG)) < 0.2 * 100
