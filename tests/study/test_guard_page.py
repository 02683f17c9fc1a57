"""The page shows what the command prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from regimes.cli import group

PAGE = (Path(__file__).parent.parent.parent / "docs" / "guard.md").read_text()


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def masked(text):
    """Output without what depends on the machine: times, and the commit's name."""
    text = re.sub(r"; step time [^;\n]*", "", text)
    return re.sub(r"\d+(\.\d+)? (s|min|h)\)|HEAD \(\w+\)", "", text)


@pytest.mark.slow
def test_the_outputs_of_the_page_are_those_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((script,), (file,)) = blocks("python"), blocks("yaml")
    Path("train.py").write_text(script)
    Path("guard.yaml").write_text(file.replace("python train.py", f"{sys.executable} train.py"))
    Path(".gitignore").write_text("runs/\n")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "right"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words], check=True)
    changes, outputs = blocks("diff"), blocks("text")
    assert len(changes) == len(outputs) == 2
    for change, output in zip(changes, outputs):
        old, new = (line[1:] for line in change.splitlines())
        assert old in script
        Path("train.py").write_text(script.replace(old, new))
        found = CliRunner().invoke(group, ["guard", "guard.yaml", "--no-progress"])
        shown = output.removeprefix("$ regimes guard guard.yaml\n")
        assert masked(found.stdout) == masked(shown), found.stdout + found.stderr
        assert found.exit_code == (1 if shown.startswith("worse") else 0)
