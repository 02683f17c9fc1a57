"""``regimes runs``: list the runs below a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("runs", "regimes runs runs --all")
@click.argument("root", default="runs")
@click.option("--all", "everything", is_flag=True, help="The runs of studies, too, one line each.")
@common.as_json
def command(root: str, everything: bool, as_json: bool) -> None:
    """List the runs below a folder.

    What stands on disk is told, index or not. Runs of studies are counted, a line per study; --all lists them, and --json
    always does. [default: runs]
    """
    from regimes.core.errors import ResumeError
    from regimes.study import folders, places

    if not Path(root).is_dir():
        raise ResumeError(places.refused(f"there is no folder {root}", root))
    rows = folders.rows(Path(root))
    if as_json:
        common.print_json(rows)
        return
    if not rows:
        click.echo(f"no runs of regimes below {root}{folders.of_commands(Path(root))}")
        return
    # A study that was asked for by name shows its runs.
    inside = {} if everything else _by_study([row for row in rows if row["study"] not in (None, str(Path(root)))])
    shown = [row for row in rows if row["study"] not in inside]
    if shown:
        cells = [
            [
                _relative(row["path"], root),
                str(row["workload"]),
                str(row["seed"]),
                str(row["status"]),
                str(row["step"]),
                common.numbers(row["metrics"]),
            ]
            for row in shown
        ]
        click.echo(common.table(cells, ["run", "workload", "seed", "status", "step", "metrics"]))
    for study, members in inside.items():
        click.echo(f"study {_relative(study, root)}: {_counted(members)}")
    hidden = sum(map(len, inside.values()))
    if hidden:
        one = next(iter(inside))
        click.echo(f"{hidden} runs of studies are not listed; regimes runs {root} --all, or regimes show {one}")


def _by_study(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["study"], []).append(row)
    return found


def _counted(rows: list[dict[str, Any]]) -> str:
    states = [row["status"] for row in rows]
    return f"{len(rows)} runs, " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _relative(path: str, root: str) -> str:
    lead = os.path.join(Path(root), "")
    return path.removeprefix(lead)
