"""``regimes replay``: make a window of a run again, to the bit, with instruments on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from regimes.cli import common

#: Of a step, how many examples are told; the file of the instruments has all.
_SHOWN = 3


@common.command("replay", "regimes replay runs/base --steps 4120:4135 --probe sharpness,layer_norms,example_loss")
@click.argument("run")
@click.option("--steps", required=True, metavar="FIRST:END", help="The window; END is the step after its last.")
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="NAMES",
    help="Instruments, for example sharpness,layer_norms. Repeatable.",
)
@click.option(
    "--without", multiple=True, metavar="EXAMPLE", help="Make it once more without: 17, or source:17. Repeatable."
)
@click.option("--out", metavar="DIR", help="Where to. [default: beside the run's folder]")
@common.progress
@common.as_json
def command(
    run: str,
    steps: str,
    probes: tuple[str, ...],
    without: tuple[str, ...],
    out: str | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Make a window of a run again, to the bit, with instruments on.

    Gradient norms, the growth of every layer and the losses of all examples are always told, probes besides. Every
    record is held against the stored one. The folder of RUN is only read.
    """
    from regimes.cli.fork import Place
    from regimes.study.replays import replay

    place = Place(run, out)
    stored = place.stored()
    named = [name for text in probes for name in _names(text)]
    with common.given_as(steps=steps, probe=probes or None, without=without or None, out=out), _line(progress) as tick:
        found = replay(
            stored.path, steps, named, without=without, out=place.out, workload=stored.workload, progress=tick
        )
    if as_json:
        rows = [row | {"examples": row["examples"][: 10 * _SHOWN]} for row in found.rows]
        common.print_json(found.told() | {"rows": rows})
        return
    for line in _told(found):
        click.echo(line)


def _names(text: str) -> list[str]:
    """Names between commas, those inside brackets apart: ``sharpness,ExampleLoss(quantiles=[0.5, 0.9])``."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [name.strip() for name in found if name.strip()]


@contextlib.contextmanager
def _line(wanted: bool | None) -> Iterator[Callable[[int], None] | None]:
    """A line on stderr with the step that is being made."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield None
        return
    yield lambda step: click.echo(f"\rstep {step}", err=True, nl=False)
    click.echo("", err=True)


def _told(found: Any) -> Iterator[str]:
    start, stop = found.steps
    begun, _ = found.trained_again
    how = "a checkpoint" if begun == start else f"step {begun}, {start - begun} steps before"
    yield f"steps {start} to {stop - 1}, made again from {how}: every record is byte for byte the run's"
    scalars = list(dict.fromkeys(name for row in found.rows for name in row["probes"] if "/" not in name))
    head = ["step", "loss", "grad norm", "grew most", *scalars, "largest losses (example: loss)"]
    yield common.table([_cells(row, scalars) for row in found.rows], head)
    if found.without is not None:
        yield from _difference(found.without)
        yield f"go on without: regimes resume {found.folder / 'without'}"
    yield str(found.folder)


def _cells(row: dict[str, Any], scalars: list[str]) -> list[str]:
    grown = max(row["growth"].items(), key=lambda pair: abs(pair[1]), default=None)
    largest = ", ".join(f"{name}: {loss:.4g}" for name, loss in row["examples"][:_SHOWN])
    if "not_finite" in row:
        why = row["not_finite"]
        where = f" in layer '{why['layer']}'" if why["layer"] else ""
        largest = f"{why['what']} not finite{where}; examples: {', '.join(why['examples'][:6]) or 'unknown'}"
    return [
        str(row["step"]),
        "skipped" if row["loss"] is None else f"{row['loss']:.4g}",
        _number(row["gradient_norm"]),
        "-" if grown is None else f"{grown[0]} {grown[1]:+.2%}",
        *(_number(row["probes"].get(name)) for name in scalars),
        largest or "-",
    ]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-" if value is None else str(value)


def _difference(without: dict[str, Any]) -> Iterator[str]:
    yield f"without {', '.join(without['examples'])}:"
    rows = [
        [str(row["step"]), _number(row["loss"]), _number(row["without"]), _change(row)] for row in without["losses"]
    ]
    yield common.table(rows, ["step", "loss", "without", "difference"])
    distance = dict(without["distance"])
    yield f"weights afterwards: {distance.pop(''):.3g} away, relative to their norm"
    most = sorted(distance.items(), key=lambda pair: -pair[1])[:_SHOWN]
    yield "  most in " + ", ".join(f"{name} {value:.3g}" for name, value in most)


def _change(row: dict[str, Any]) -> str:
    known = all(isinstance(row[name], int | float) for name in ("loss", "without"))
    return f"{row['without'] - row['loss']:+.4g}" if known else "-"
