"""``regimes verdict``: is it better, or was it the seed, for runs that are finished."""

from __future__ import annotations

from typing import Any

import click

from regimes.cli import common


@common.command("verdict", "regimes verdict runs.csv --arm optimizer --seed seed --metric val/loss --margin 0.01")
@click.argument("path")
@click.option("--arm", required=True, help="The column that tells the arms apart.")
@click.option("--seed", help="The column of the seed; without it nothing is paired.")
@click.option("--metric", required=True, help="The column of the metric.")
@click.option("--margin", type=float, required=True, help="The smallest difference that matters.")
@click.option("--better", type=click.Choice(["lower", "higher"]), help="[default: lower for a loss]")
@click.option("--baseline", help="The arm that others are compared with. [default: the first]")
@click.option("--level", type=float, default=0.95, show_default=True, help="Simultaneous confidence.")
@click.option("--step", help="The column of the step, where a run has many rows.")
@click.option("--at", help="Where runs end at different steps: last, common, or a step.")
@click.option("--nan", type=click.Choice(["diverged", "missing"]), help="What a NaN means.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only these rows. Repeatable.")
@click.option("--noise", metavar="STUDY", help="Of one run each: a study whose noise they are held against.")
@click.option(
    "--assume", type=click.Choice(["normal"]), help="Allow fewer seeds than a test without assumptions needs."
)
@click.option("--pattern", metavar="REGEX", help=r"Columns out of runs' names: '(?P<opt>\w+)-s(?P<seed>\d+)'.")
@click.option("--unfinished", type=click.Choice(["used", "missing"]), help="What is done with runs that did not end.")
@click.option("--out", metavar="DIR", help="Write the study and its report into a folder.")
@common.as_json
def command(path: str, where: tuple[str, ...], at: str | None, as_json: bool, **asked: Any) -> None:
    """Judge runs that are finished, whoever made them.

    PATH is a .csv, .tsv, .json or .jsonl file with a row per run (or per run and step), or what a tracker keeps:
    TensorBoard's event files, an MLflow store, wandb's run folders or exported tables, Trackio's files, the
    trainer_state.json of transformers; a pattern in quotes takes all that it finds.
    """
    from regimes.core.errors import DeclarationError
    from regimes.study.foreign.rows import number_of
    from regimes.study.foreign.verdict import verdict

    chosen = {}
    for text in where:
        column, sign, value = text.partition("=")
        if not sign:
            raise DeclarationError(f"got '{text}'; allowed: COLUMN=VALUE", "--where")
        chosen[column] = value
    place = at if at in (None, "last", "common") else number_of(at)
    with common.given_as("frame", where=chosen, at=at, **asked):
        study = verdict(path, where=chosen, at=place, **asked)
    page = None if asked["out"] is None else study.report()
    if as_json:
        common.print_json(study.to_dict() | ({} if page is None else {"report": str(page)}))
        return
    click.echo(str(study))
    if page is not None:
        click.echo(f"Report: {page}")
