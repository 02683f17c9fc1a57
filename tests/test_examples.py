"""Examples of parts in other people's loops run as they stand, and say in their last lines what they promised."""

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
LAST_LINES = {
    "own_loop": [
        "noisy examples in the first and the last batch: 50%, 9%; rates at the end [0.0, 0.0]",
        "averaged weights are right in more than 90%: True",
    ],
    "lightning_module": [
        "180 steps, rate at the end 0.0000; of the rare class 1 to 2 in a batch",
        "right in more than 95%: True",
    ],
    "transformers_trainer": [
        "150 steps, rate at the end 0.0000",
        "the next number is right in more than 95%: True",
    ],
}
LIBRARIES = {"lightning_module": "lightning", "transformers_trainer": "transformers"}


@pytest.mark.parametrize("name", LAST_LINES)
def test_example_says_what_it_promised(name, capsys, tmp_path, monkeypatch):
    library = LIBRARIES.get(name)
    if library is not None and find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-2:] == LAST_LINES[name]
    assert not list(tmp_path.iterdir())


REGIMES = sorted((FOLDER / "regimes").glob("*.yaml"))


@pytest.mark.parametrize("file", REGIMES, ids=lambda file: file.stem)
def test_an_example_regime_is_a_declaration_that_holds(file):
    from regimes.study import files

    found = files.read(str(file), ())
    assert found.regime is not None


SCRIPTS = {
    "model_soups": [
        "from one start: the mean of all loses less than 15 points: True; a greedy soup takes several: True",
        "begun apart: the mean of all loses less than 15 points: False; a greedy soup takes several: False",
    ],
    "order_memorization": [
        "its own order: p below 1e-6: True, below 0.01: True",
        "an order it never saw: p below 1e-6: False, below 0.01: False",
    ],
}


def test_every_script_of_regimes_is_listed():
    assert sorted(SCRIPTS) == sorted(file.stem for file in (FOLDER / "regimes").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_takes_several_runs_is_a_script_that_says_what_it_promised(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / "regimes" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == SCRIPTS[name]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("file", REGIMES, ids=lambda file: file.stem)
def test_an_example_regime_runs(file, tmp_path):
    command = [sys.executable, "-m", "regimes", "run", str(file), "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, timeout=300)
    assert (tmp_path / "run" / "result.json").is_file()
