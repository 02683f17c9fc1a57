"""``regimes eject``: the plain PyTorch loop of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("eject", "regimes eject base.yaml --out train.py")
@click.argument("file")
@click.option("--out", metavar="FILE", help="Write the script there instead of printing it.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the file's seed.")
@click.option("--check", is_flag=True, help="Run script and engine side by side for 200 steps, and compare bitwise.")
@common.edits
@common.as_json
def command(file: str, out: str | None, seed: int | None, check: bool, edits: tuple[str, ...], as_json: bool) -> None:
    """Write the plain PyTorch loop of a file: a script to read, keep and change.

    The script imports regimes only for what torch lacks, and trains to the same bits as `regimes run`. What cannot be
    written as a plain loop is refused, with its key. Exit status 1 where --check finds a difference.
    """
    from regimes import ejection
    from regimes.core.errors import DeclarationError
    from regimes.study import files

    found = files.read(file, edits)
    if isinstance(found, files.CompareFile):
        raise DeclarationError(f"{file} declares a comparison; give a file that declares one run")
    with found.located("regime"):
        text = ejection.eject(found, seed=seed)
        checked = ejection.check(found, seed=seed) if check else None
    if out is not None:
        Path(out).write_text(text, encoding="utf-8")
    if as_json:
        facts: dict[str, Any] = {"script": text, "out": out}
        common.print_json(facts | ({} if checked is None else {"check": checked._asdict()}))
    elif checked is None and out is None:
        click.echo(text, nl=False)
    elif checked is not None:
        click.echo(str(checked))
    if checked is not None and checked.differing:
        click.get_current_context().exit(common.FAILED)
