"""``regimes compare``: train all arms over paired seeds, and judge."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("compare", "regimes compare study.yaml --workers 2 --seeds 12")
@click.argument("file")
@click.option("--out", metavar="DIR", help="The study's folder. [default: runs/NAME]")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes. [default: the cores, where that saves more than it costs]",
)
@click.option("--seeds", type=int, help="Instead of the file's number of seeds.")
@click.option(
    "--until", type=click.Choice(["decided", "halved"]), help="Stop as soon as it is decided, or halve many arms."
)
@click.option(
    "--max-cost", metavar="TIME", help='With --until decided: begin no seeds beyond this time, such as "30 min".'
)
@click.option("--noise", metavar="STUDY", help="With --seeds 1: a study whose noise the runs are held against.")
@common.edits
@common.track
@common.progress
@common.as_json
def command(
    file: str,
    out: str | None,
    workers: int | None,
    seeds: int | None,
    until: str | None,
    max_cost: str | None,
    noise: str | None,
    edits: tuple[str, ...],
    track: tuple[str, ...],
    progress: bool | None,
    as_json: bool,
) -> None:
    """Train all arms of a file over paired seeds, and judge.

    Runs that are there already are not computed again: after an interruption, or with more seeds, the same command
    computes what is missing. `--set` reaches every arm that has the path; `ARM:PATH=VALUE` reaches one.
    """
    from regimes.study import spawning

    spawning.prepare(workers)
    from regimes.core.errors import DeclarationError
    from regimes.study import compare as study_compare
    from regimes.study import files, python_file, specs

    found = files.read(file, edits)
    if isinstance(found, files.RunFile):
        raise DeclarationError(f"{file} declares one run; run it with: regimes run {file}")
    settings = dict(found.settings)
    given = {"seeds": seeds, "until": until, "max_cost": max_cost, "noise": noise}
    settings |= {name: value for name, value in given.items() if value is not None}
    if found.path.suffix == ".py":
        make: tuple[Any, ...] = (python_file.workload_of, (str(found.path.resolve()),))
    else:
        folders = (str(found.path.resolve().parent), str(Path.cwd()))
        make = (specs.workload_in, (found.workload_spec, folders))
    before = common.facts_before(out if out is not None else Path("runs") / settings["name"])
    again = _command(file, out, workers, edits, track)
    with (
        common.continued_by(again),
        common.given_as(out=out, workers=workers, track=track or None, **given),
        found.located(""),
    ):
        study = study_compare.compare(
            found.workload,
            found.arms,
            out=out,
            workers=workers,
            progress=progress,
            workload_spec=found.workload_spec,
            command=again,
            make=make,
            track=track,
            **settings,
        )
    page = common.page_of(study, before)
    if as_json:
        common.print_json(study.to_dict() | {"report": str(page)})
    else:
        click.echo(str(study))
        for text in common.advice_of(study):
            click.echo(f"advice: {text}")
        click.echo(f"Report: {page}")
    if any(arm["failed"] for arm in study.to_dict()["arms"]):
        raise SystemExit(1)  # what failed is no result: a script that goes on would take it for one


def _command(file: str, out: str | None, workers: int | None, edits: tuple[str, ...], track: tuple[str, ...]) -> str:
    """Return the command without --seeds, to which a study adds the number that would decide."""
    words = ["regimes", "compare", file]
    words += ["--out", out] if out is not None else []
    words += ["--workers", str(workers)] if workers is not None else []
    for edit in edits:
        words += ["--set", edit]
    for name in track:
        words += ["--track", name]
    return shlex.join(words)
