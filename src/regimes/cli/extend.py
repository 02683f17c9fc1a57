"""``regimes extend``: train a run on, with a longer budget."""

from __future__ import annotations

import click

from regimes.cli import common


@common.command("extend", 'regimes extend runs/base --budget "+2B tokens" --schedule cooldown')
@click.argument("run")
@click.option("--budget", required=True, metavar="+DURATION", help='What is added to the last phase: "+2B tokens".')
@click.option(
    "--schedule",
    type=click.Choice(["rescale", "hold", "cooldown"]),
    help="What schedules do: are read over the longer run, keep the value of now, or rates go down to 0 from here.",
)
@click.option(
    "--at", type=click.IntRange(min=0), metavar="STEP", help="Where to go on. [default: the last step recorded]"
)
@click.option("--out", metavar="DIR", help="The child's folder. [default: beside the parent's]")
@common.progress
@common.as_json
def command(
    run: str,
    budget: str,
    schedule: str | None,
    at: int | None,
    out: str | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Train a run on: a fork with a longer budget.

    The child has a folder of its own and a declaration that says what its schedules do. Where that makes a difference
    and --schedule is not given, it is refused with what the rate would be under each.
    """
    from regimes.cli.fork import Place
    from regimes.study import branches

    place = Place(run, out)
    with common.given_as(budget=budget, schedule=schedule or "", at=at, out=out):
        branch = branches.branch_longer(place.stored(), budget, schedule, at, place.out)
    place.train(branch, progress, as_json)
