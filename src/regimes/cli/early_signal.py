"""``regimes early-signal``: what the beginning of finished runs told of their end."""

from __future__ import annotations

from typing import Any

import click

from regimes.cli import common


@common.command("early-signal", "regimes early-signal runs/study --metric gradient_norm --prefer lower")
@click.argument("root", default="runs")
@click.option("--metric", default="loss", show_default=True, help="What is read early, from the records.")
@click.option("--at", type=float, default=0.1, show_default=True, help="Share of the steps after which it is read.")
@click.option("--final", default="val/loss", show_default=True, help="What runs are ranked by at their end.")
@click.option(
    "--better", type=click.Choice(["lower", "higher"]), help="[default: lower for a loss, else as a study there says]"
)
@click.option(
    "--prefer", type=click.Choice(["lower", "higher"]), help="Promising. [default: what is better of --metric]"
)
@click.option("--within", metavar="PATH", help="Also among configurations that are equal there.")
@click.option("--keep", type=float, multiple=True, help="A share that is kept. Repeatable. [default: 0.75, 0.5, 0.25]")
@common.as_json
def command(
    root: str,
    metric: str,
    at: float,
    final: str,
    better: str | None,
    prefer: str | None,
    within: str | None,
    keep: tuple[float, ...],
    as_json: bool,
) -> None:
    """Tell how well the beginning of finished runs ranks them, before runs are stopped by it.

    The runs below a folder, tuning trials too, must be of one workload and program. [default: runs]
    """
    from regimes.study.early_signal import early_signal

    asked: dict[str, Any] = {"final": final, "better": better, "prefer": prefer, "within": within}
    asked |= {"keep": keep} if keep else {}
    with common.given_as("runs", metric=metric, at=at, **asked):
        found = early_signal(root, metric, at, **asked)
    if as_json:
        common.print_json(found.to_dict())
    else:
        click.echo(str(found))
