"""``regimes plan``: the dry run."""

from __future__ import annotations

from typing import Any

import click

from regimes.cli import common


@common.command("plan", "regimes plan base.yaml --no-time")
@click.argument("file")
@common.edits
@click.option("--time/--no-time", default=True, help="Time a few steps of a throwaway run. [default: time]")
@common.as_json
def command(file: str, edits: tuple[str, ...], time: bool, as_json: bool) -> None:
    """Tell what a file would do: steps, work, memory, time, schedules.

    Nothing is written, and nothing but a throwaway copy of the model takes a step.
    """
    from regimes.study import files
    from regimes.study.plan import plan, plan_comparison

    found = files.read(file, edits)
    made: Any
    if isinstance(found, files.CompareFile):
        with found.located(""):
            made = plan_comparison(found.workload, found.arms, found.settings, time=time)
    else:
        with found.located("regime"):
            made = plan(found.workload, found.regime, found.seed, time=time, validate=found.options["validate"])
    if as_json:
        common.print_json(made.to_dict())
        return
    from rich.console import Console

    Console(highlight=False, markup=False).print(made)
