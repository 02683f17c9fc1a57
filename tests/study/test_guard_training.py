"""A guard on a real PyTorch training: it finds planted bugs, and is silent on fifty refactorings that change nothing."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the two helpers below, also under --import-mode=importlib

from guarded import Repository, planted
from refactorings import harmless

pytestmark = pytest.mark.slow
EXACT, ROUNDED = harmless()
BUGS = (
    "accumulation normaliser",
    "off-by-one in warm-up",
    "decay applied to norms",
    "shuffled data not shuffled",
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return Repository(tmp_path_factory.mktemp("guarded"))


@pytest.fixture
def changed(repository):
    """Puts files into the working tree for one test."""
    yield repository.write
    repository.restore()


def test_there_are_fifty():
    assert len(EXACT) + len(ROUNDED) == 50


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_and_placed(repository, changed, name):
    assert {*planted(repository)} == {*BUGS}
    files, part = planted(repository)[name]
    changed(files)
    found = repository.guarded()
    assert (found.verdict, found.code) == ("worse", 1), found
    facts = found.to_dict()
    assert facts["first_difference"]["step"] == 0
    assert facts["first_difference"]["part"] == part
    assert facts["notes"] == []


@pytest.mark.parametrize("name", EXACT)
def test_a_refactoring_is_the_same_to_the_bit(repository, changed, name):
    changed(EXACT[name])
    assert repository.git("status", "--porcelain")
    found = repository.guarded()
    assert (found.verdict, found.code) == ("same", 0), found
    assert found.to_dict()["bitwise"]
    assert found.to_dict()["traced"] == 24


@pytest.mark.parametrize("name", ROUNDED)
def test_a_refactoring_that_rounds_otherwise_is_the_same(repository, changed, name):
    changed(ROUNDED[name])
    found = repository.guarded()
    assert (found.verdict, found.code) == ("same", 0), found
    facts = found.to_dict()
    assert not facts["bitwise"]
    assert facts["first_difference"] is not None
    assert facts["comparison"]["pairs"] == 6
    assert abs(facts["comparison"]["difference"]) < 1e-4
