"""The page shows what the command prints."""

import re
from pathlib import Path

from click.testing import CliRunner

from regimes.cli import group

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "eject.md").read_text()


def test_the_script_of_the_page_is_the_one_that_is_written(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = CliRunner().invoke(group, ["eject", "examples/digits.yaml"])
    assert found.exit_code == 0, found.output
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found.output == shown


def test_the_check_of_the_page_says_what_it_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = CliRunner().invoke(group, ["eject", "examples/digits.yaml", "--check"])
    assert (found.exit_code, found.output) == (0, "200 steps agree bitwise\n")
    assert f"--check\n{found.output}" in PAGE
