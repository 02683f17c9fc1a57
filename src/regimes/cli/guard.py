"""``regimes guard``: a training regression test of two versions of the code."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from regimes.cli import common


@common.command("guard", "regimes guard guard.yaml --base main --markdown comment.md")
@click.argument("file")
@click.option("--base", help="A revision or folder to compare with, instead of the file's.")
@click.option("--head", help="A revision or folder to test, instead of the file's. [default: working tree]")
@click.option("--seeds", type=int, help="Instead of the file's number of pairs.")
@click.option("--out", metavar="DIR", help="Where runs are kept. [default: runs/NAME]")
@click.option("--markdown", metavar="FILE", help="Write the comment for a pull request, too.")
@common.progress
@common.as_json
@click.pass_context
def command(
    ctx: click.Context,
    file: str,
    base: str | None,
    head: str | None,
    seeds: int | None,
    out: str | None,
    markdown: str | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Test whether a change of code changed the training.

    Both versions train what FILE names: one seed is compared bit by bit, and the first step that differs is told; then
    paired seeds say whether it matters. Exit status: 0 same (or better, where the file allows it), 1 worse, better or
    failed, 3 undecided. Interrupted, the same command goes on.
    """
    from regimes.study.guard import guard

    options = {"--base": base, "--head": head, "--seeds": seeds, "--out": out, "--markdown": markdown}
    given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    again = shlex.join(["regimes", "guard", file, *given])
    with common.continued_by(again), common.given_as(base=base, head=head, seeds=seeds):
        found = guard(
            file, base=base, head=head, seeds=seeds, out=out, progress=progress,
            say=lambda text: click.echo(text, err=True),
        )  # fmt: skip
    if markdown is not None:
        Path(markdown).write_text(found.markdown(), encoding="utf-8")
    if as_json:
        common.print_json(found.to_dict())
    else:
        click.echo(str(found))
    ctx.exit(found.code)
