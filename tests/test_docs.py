"""Code in the documentation runs as it stands."""

import doctest
import re
from pathlib import Path

import pytest
from torch import nn

import regimes as rg

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


def test_pieces_of_the_readme_work_in_a_loop_of_ones_own():
    pytest.importorskip("pytorch_optimizer")
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    names = {"rg": rg, "model": model}
    stretch = (ROOT / "README.md").read_text().partition("One piece in your own loop: ")[2].partition("\n\n")[0]
    pieces = re.findall(r"`([^`]+)`", stretch)
    assert [re.split(r"[( ]", piece)[0] for piece in pieces] == [
        "optimizer", "rg.lr_scheduler", "rg.Torch", "rg.PytorchOptimizer"
    ]  # fmt: skip
    for piece in pieces:
        exec(piece, names)
    assert len(names["optimizer"].param_groups[0]["params"]) == 6


@pytest.mark.slow
def test_what_the_page_on_deciding_prints_is_what_is_printed():
    found = doctest.testfile(str(ROOT / "docs" / "deciding.md"), module_relative=False)
    assert (found.failed, found.attempted > 8) == (0, True)
