"""What ``regimes new`` writes stands on its own: its tests pass, and fail when the formula is broken."""

import json
import re
import subprocess
import sys

import pytest

from regimes.cli.new import KINDS, write


def run_tests(folder, *options):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *options, "."],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        write(kind, f"My{kind.title().replace('_', '')}", folder)
    return folder


def test_one_class_with_card_docstring_claim_and_test_for_every_kind(written):
    assert {file.name for file in written.iterdir()} == {
        name for kind in KINDS for name in (f"my_{kind}.py", f"test_my_{kind}.py")
    }
    for kind in KINDS:
        text = (written / f"my_{kind}.py").read_text()
        assert "{{" not in text
        assert re.search(r"^@register\nclass My\w+\(\w+\):$", text, re.MULTILINE)
        assert ">>> " in text
        assert kind == "probe" or "Claim(" in text  # a probe claims nothing


def test_formulas_docstrings_and_claims_pass(written):
    done = run_tests(written, "-k", "not contracts")
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 3 * len(KINDS)


@pytest.mark.slow
def test_contracts_of_their_kinds_pass(written):
    done = run_tests(written, "-k", "contracts")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_broken_formula_fails(tmp_path):
    source, _ = write("schedule", "Broken", tmp_path)
    source.write_text(source.read_text().replace("* (1.0 - x) ** self.power", "* (1.0 - x)"))
    done = run_tests(tmp_path, "-k", "not contracts")
    assert "2 failed" in done.stdout, done.stdout


def test_a_written_component_trains_from_a_file(cli):
    said = cli("new", "sampler", "EarlyOften").stdout
    assert "modules: [early_often]" in said
    cli.write(
        "mine.yaml",
        """
        workload: cli_test_module:work
        modules: [early_often]
        regime: {optimizer: SGD, batch_size: 8, budget: 10 steps, sampler: EarlyOften(power=2)}
        """,
    )
    assert json.loads(cli("run", "mine.yaml", "--out", "mine", "--json").stdout)["steps"] == 10
    assert "sampler=EarlyOften(power=2.0)" in json.loads((cli.folder / "mine/run.json").read_text())["regime"]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("sampler", "early", "NAME: got 'early'; allowed: a class name such as EasyFirst"),
        ("sampler", "AdamW", "NAME: got 'AdamW', which is regimes.optimizers.tensorwise.adamw"),
        ("sampler", "Random", "would hide Python's own module 'random'"),
        ("smplr", "Mine", "'smplr' is not one of"),
    ],
)
def test_names_that_cannot_be(cli, kind, name, said):
    assert said in cli("new", kind, name, code=2).stderr


def test_nothing_is_overwritten(cli):
    cli("new", "loss", "Mine", "--out", "a")
    before = (cli.folder / "a/mine.py").read_text()
    assert "a/mine.py exists" in cli("new", "optimizer", "Mine", "--out", "a", code=2).stderr
    assert (cli.folder / "a/mine.py").read_text() == before
