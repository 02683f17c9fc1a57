"""``regimes report``: write the HTML report of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("report", "regimes report runs/study --out report.html")
@click.argument("study")
@click.option("--out", metavar="FILE", help="Where to. [default: report.html beside study.json]")
@common.as_json
def command(study: str, out: str | None, as_json: bool) -> None:
    """Write the HTML report of a study.

    STUDY is a study's folder or its study.json.
    """
    page = load(study).report(out)
    if as_json:
        common.print_json({"report": str(page)})
        return
    click.echo(str(page))


def load(path: str) -> Any:
    """Return the Study at a folder or file.

    Raises
    ------
    ResumeError
        If there is none, or it is not whole.
    """
    from regimes.core.errors import ResumeError
    from regimes.core.files import read_json
    from regimes.study import places
    from regimes.study.study import Study

    file = Path(path) / "study.json" if Path(path).is_dir() else Path(path)
    if not file.is_file() or file.suffix != ".json":
        why = f"there is no {file}" if Path(path).is_dir() else "a study is a folder that regimes compare has written"
        raise ResumeError(places.refused(f"{path} is no study: {why}", path))
    facts = read_json(file)
    if "arms" not in facts or "sentence" not in facts:
        raise ResumeError(f"{file} is no study: it holds no arms")
    return Study(facts, file.parent)
