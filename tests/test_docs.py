"""Code in the documentation runs as it stands."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["docs/extending.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, capsys):
    names: dict = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert "RunResult(digits_mlp" in capsys.readouterr().out


@pytest.mark.slow
def test_what_the_page_on_deciding_prints_is_what_is_printed():
    found = doctest.testfile(str(ROOT / "docs" / "deciding.md"), module_relative=False)
    assert (found.failed, found.attempted > 8) == (0, True)
