"""``regimes index``: write the index of a folder of runs anew."""

from __future__ import annotations

from pathlib import Path

import click

from regimes.cli import common


@common.command("index", "regimes index runs")
@click.argument("root", default="runs")
@common.as_json
def command(root: str, as_json: bool) -> None:
    """Write the index of a folder of runs anew.

    The run folders are the truth; the index only makes listing quick, and what has changed since is noticed without this.
    [default: runs]
    """
    from regimes.core.errors import ResumeError
    from regimes.study import folders

    if not Path(root).is_dir():
        raise ResumeError(f"there is no folder {root}")
    count = folders.reindex(Path(root))
    if as_json:
        common.print_json({"root": root, "runs": count})
        return
    click.echo(f"{count} runs below {root} are indexed")
