"""``regimes shootout``: the same arms on several workloads."""

from __future__ import annotations

import click

from regimes.cli import common


@common.command("shootout", "regimes shootout examples/optimizer_shootout.yaml --workers 2")
@click.argument("file")
@click.option("--out", metavar="DIR", default="runs/shootout", show_default=True, help="Folder of the studies.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes. [default: the cores, where that saves more than it costs]",
)
@common.progress
@common.as_json
def command(file: str, out: str, workers: int | None, progress: bool | None, as_json: bool) -> None:
    """Compare the same arms on several workloads: steps to targets, final metrics, performance profiles.

    A study for each workload, equal tuning and paired seeds, then one table and one picture. What is there already is not
    computed again.
    """
    from regimes.study import spawning

    spawning.prepare(workers)
    from regimes.study.shootout import shootout

    found = shootout(file, out=out, workers=workers, progress=progress)
    if as_json:
        common.print_json(found.to_dict())
        return
    click.echo(str(found))
    click.echo(f"Table and picture: {out}/shootout.md; each workload's report: {out}/WORKLOAD/report.html")
