"""``regimes tune-lr``: which learning rate, for the price of three runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("tune-lr", "regimes tune-lr examples/digits.yaml --workers 2 --transfer width=64->256")
@click.argument("file")
@click.option("--arm", metavar="NAME", help="Of a file with several. [default: the first]")
@click.option("--low", type=float, help="Least peak. [default: a hundredth of the declared one]")
@click.option("--high", type=float, help="Largest peak. [default: a hundred times the declared one]")
@click.option("--metric", default="val/loss", show_default=True, help="Of validation data, lower being better.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each rate.")
@click.option(
    "--transfer",
    "transfer_to",
    metavar="SIZES",
    help="Of a larger run: width=256->1024,depth=4->8,batch=64->512,budget=1->4.",
)
@click.option("--out", metavar="DIR", help="Folder of the trials. [default: runs/tune-lr-NAME]")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@common.edits
@common.progress
@common.as_json
def command(
    file: str,
    arm: str | None,
    low: float | None,
    high: float | None,
    metric: str,
    seeds: int,
    transfer_to: str | None,
    out: str | None,
    workers: int,
    edits: tuple[str, ...],
    progress: bool | None,
    as_json: bool,
) -> None:
    """Recommend a peak learning rate for what a file declares.

    Twelve short runs and two whole ones, together as long as three: the recommended rate with the interval in which
    the loss is about as good, the edge of divergence, a picture, and what it cost. Several rates keep their
    proportions.
    """
    from regimes.study import spawning

    spawning.prepare(workers)
    from regimes.study import files, python_file, specs
    from regimes.study.tune_lr import tune_lr

    found = files.read(file, edits)
    label, regime, name = _chosen(found, arm)
    if found.path.suffix == ".py":
        make: tuple[Any, ...] = (python_file.workload_of, (str(found.path.resolve()),))
    else:
        make = (specs.workload_in, (found.workload_spec, (str(found.path.resolve().parent), str(Path.cwd()))))
    asked: dict[str, Any] = {"low": low, "high": high, "metric": metric, "seeds": seeds, "transfer_to": transfer_to}
    given = {"low": low, "high": high, "metric": metric, "seeds": seeds, "transfer": transfer_to}
    with common.given_as(**given), found.located(""):
        tuned = tune_lr(
            found.workload,
            regime,
            out=Path("runs") / f"tune-lr-{label}" if out is None else out,
            workers=workers,
            progress=progress,
            workload_spec=found.workload_spec,
            make=make,
            **asked,
        )
    if as_json:
        common.print_json(tuned.to_dict())
        return
    click.echo(str(tuned))
    click.echo(f"to train with it: {_command(file, name, [*edits, *tuned.edits], len(edits))}")
    click.echo(f"Picture: {tuned.folder / 'rates.svg'}")


def _command(file: str, arm: str | None, edits: list[str], given: int) -> str:
    """The command that trains with the rate: what was edited before stays so, for all arms; the rate is of one."""
    own = edits[given:] if arm is None else [f"{arm}:{edit}" for edit in edits[given:]]
    sets = " ".join(f"--set {shlex.quote(edit)}" for edit in [*edits[:given], *own])
    return f"regimes {'run' if arm is None else 'compare'} {shlex.quote(file)} {sets}"


def _chosen(found: Any, arm: str | None) -> tuple[str, Any, str | None]:
    """Label, regime and arm of what is tuned: of several arms the one that is asked for, else the first."""
    from regimes.core.errors import DeclarationError, nearest
    from regimes.study.files import RunFile

    if isinstance(found, RunFile):
        if arm is not None:
            raise DeclarationError(f"got '{arm}', but the file declares one run", "arm")
        return found.path.stem, found.regime, None
    name = next(iter(found.arms)) if arm is None else arm
    if name not in found.arms:
        raise DeclarationError(f"got '{arm}'; {nearest(str(arm), found.arms)}", "arm")
    return f"{found.path.stem}-{name}", found.arms[name], name
