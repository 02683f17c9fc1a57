"""``regimes audit``: which conclusions of past runs stand."""

from __future__ import annotations

import click

from regimes.cli import common


@common.command("audit", "regimes audit runs --margin 0.01")
@click.argument("root", default="runs")
@click.option("--metric", help="[default: that of the studies there, else the loss]")
@click.option("--margin", type=float, help="The smallest difference that matters. [default: that of the studies there]")
@click.option("--better", type=click.Choice(["lower", "higher"]), help="[default: lower for a loss]")
@click.option("--level", type=float, default=0.95, show_default=True, help="Simultaneous over all comparisons.")
@click.option("--differ", type=int, default=2, show_default=True, help="Paths in which two regimes may differ.")
@common.as_json
def command(
    root: str,
    metric: str | None,
    margin: float | None,
    better: str | None,
    level: float,
    differ: int,
    as_json: bool,
) -> None:
    """Tell which conclusions of past runs stand, and which re-runs would settle most.

    The runs below a folder are grouped into the comparisons that they implied: equal workload, data, budget and program,
    and regimes that differ in little. Each is judged on the seeds that both have. [default: runs]
    """
    from regimes.study.audit import audit

    with common.given_as(metric=metric, margin=margin, better=better, level=level, differ=differ):
        found = audit(root, metric=metric, margin=margin, better=better, level=level, differ=differ)
    if as_json:
        common.print_json(found.to_dict())
    else:
        click.echo(str(found))
