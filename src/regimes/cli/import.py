"""``regimes import``: transformers' TrainingArguments as a regime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("import", "regimes import out/checkpoint-500 --workload mine:work --out base.yaml")
@click.argument("path")
@click.option("--out", metavar="FILE", help="Write the run file there, which must be new, instead of printing it.")
@click.option("--workload", metavar="SPEC", help="What is trained: a built-in name, or package.module:function.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="How many trained together.")
@click.option("--examples", type=click.IntRange(min=1), help="Size of the training data: makes epochs into steps.")
@click.option("--ignore", multiple=True, metavar="KEY", help="Pass over a key of a subclass. Repeatable.")
@click.option("--check/--no-check", default=None, help="Compare 50 steps. [default: where transformers is installed]")
@common.as_json
def command(
    path: str,
    out: str | None,
    workload: str | None,
    devices: int,
    examples: int | None,
    ignore: tuple[str, ...],
    check: bool | None,
    as_json: bool,
) -> None:
    """Make a regime of transformers' TrainingArguments, and prove it.

    PATH is the JSON that to_json_string() writes, a training_args.bin (nothing in it is executed), or a folder with
    one of them. Every key that is not carried is listed with the reason. Where transformers is installed its Trainer and
    the engine train a tiny random model side by side; exit status 1 where their losses differ.
    """
    from regimes.core.errors import DeclarationError
    from regimes.study.importing import import_training_args
    from regimes.study.importing.proof import installed

    if out is not None and Path(out).exists():
        raise DeclarationError(f"'{out}' exists; allowed: a file that is new", "--out")
    found = import_training_args(path, devices=devices, examples=examples, ignore=ignore)
    text = found.yaml(workload)
    if out is not None:
        Path(out).write_text(text, encoding="utf-8")
    checked = found.check() if check or (check is None and installed()) else None
    if as_json:
        common.print_json(_facts(found, text, out, checked))
    else:
        _say(found, text, out, checked, asked=check is not False)
    if checked is not None and not checked.same:
        click.get_current_context().exit(common.FAILED)


def _facts(found: Any, text: str, out: str | None, checked: Any) -> dict[str, Any]:
    return {
        "regime": repr(found.regime),
        "seed": found.seed,
        "options": found.options,
        "carried": [key.facts() for key in found.keys if key.path],
        "not_carried": [key.facts() for key in found.left],
        "file": text,
        "out": out,
        "check": None if checked is None else checked._asdict() | {"same": checked.same},
    }


def _say(found: Any, text: str, out: str | None, checked: Any, *, asked: bool) -> None:
    """The file on stdout, where it can be kept; what is said of it on stderr, where it is not in the way."""
    from regimes.study.importing.text import lists

    if out is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"{found.regime!r}\nwritten to {out}")
        for line in lists(found):
            click.echo(line)
    if checked is not None:
        click.echo(str(checked), err=out is None)
    elif asked:
        said = "not compared with transformers' Trainer, which is not installed: pip install 'regimes[transformers]'"
        click.echo(said, err=out is None)
