"""Whole regimes drawn from the registry: each prints itself back, runs and resumes bitwise, or is refused with a sentence."""

import contextlib
import random
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regimes.core.errors import DeclarationError
from regimes.testing.conformance.tiny import one_thread
from regimes.testing.random_regimes import check, components, draw


def verdict(number):
    rng = random.Random(number)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            drawn = draw(rng)
        except DeclarationError as why:
            return str(why)
        return check(drawn, rng)


def a_sentence(said):
    _, _, rest = said.partition(": ")
    return bool(rest) and len(rest.split()) > 3 and "Traceback" not in said


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**9))
def test_it_holds_or_is_refused_before_anything_is_spent(number):
    found = verdict(number)
    assert found in ("accepted", "diverged") or a_sentence(found), found


def test_many_are_accepted():
    """A generator whose draws are all refused would show nothing."""
    found = [verdict(number) for number in range(40)]
    assert found.count("accepted") >= 5


def test_a_lost_state_is_seen(monkeypatch):
    """The check itself: with the optimizers' states dropped on loading, some draw ends in other bits."""
    from regimes.engine.run import Run

    load = Run.load

    def forgetful(self, tree):
        load(self, tree)
        self.states["optimizer"] = self.phase.declaration.optimizer.init(self.parameters)

    monkeypatch.setattr(Run, "load", forgetful)
    with pytest.raises(AssertionError, match=r"from step \d+ to \d+ another state comes out at \["):
        list(map(verdict, range(40)))


#: Components that stand only on models, data or weights of their own.
PARTICULAR = (
    "SkillIt", "GrowWidth", "GrowDepth", "Upcycle", "StartFrom", "FromRun", "Soup", "LoadBalance", "PolicyGradient",
    "HybridPostTraining", "NoProp",
)  # fmt: skip


@pytest.mark.slow
def test_what_needs_a_model_or_data_of_its_own_is_drawn():
    drawn = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(3000):
            with contextlib.suppress(DeclarationError):
                drawn.append(draw(random.Random(number)).regime)
    assert components(drawn).keys() >= set(PARTICULAR)


@pytest.mark.slow
def test_ten_thousand(monkeypatch):
    accepted, whole = [], check

    def noted(drawn, rng):
        said = whole(drawn, rng)
        accepted.extend([drawn.regime] if said in ("accepted", "diverged") else [])
        return said

    monkeypatch.setitem(globals(), "check", noted)
    found = [verdict(number) for number in range(10_000)]
    refused = [said for said in found if said not in ("accepted", "diverged")]
    assert all(map(a_sentence, refused))
    print(f"accepted {found.count('accepted')}, diverged {found.count('diverged')}, refused {len(refused)}")
    print(components(accepted))
    assert components(accepted).keys() >= set(PARTICULAR)
