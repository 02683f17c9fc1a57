"""``regimes verify``: re-test what a method's card claims."""

from __future__ import annotations

from typing import Any

import click

from regimes.cli import common


@common.command("verify", "regimes verify Muon --workers 2")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every component whose card claims something.")
@click.option("--out", metavar="DIR", default="runs/verify", show_default=True, help="Folder of the studies.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Runs side by side.")
@click.option("--record", is_flag=True, help="Write the verdict into the package's data file.")
@common.progress
@common.as_json
def command(
    names: tuple[str, ...],
    everything: bool,
    out: str,
    workers: int,
    record: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Re-test what a method's card claims.

    Each claim is a small study at equal budget and equal tuning: shown, contradicted or inconclusive, always at the
    scale at which it was tested.
    """
    from regimes.study import spawning

    spawning.prepare(workers)
    from regimes.study.verify import claimants, verify

    if everything == bool(names):
        raise click.UsageError("name one or more components, or say --all")
    found = []
    for name in claimants() if everything else names:
        rows = verify(name, out=out, workers=workers, progress=progress, record=record)
        found += rows
        if not as_json:
            _print(rows)
    if as_json:
        common.print_json(found)


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(f"{row['component']}, {row['verdict'].upper()}: {row['text']}")
        ends = [("-inf", "inf")[i] if v is None else f"{v:.4g}" for i, v in enumerate((row["low"], row["high"]))]
        effect = "none" if row["effect"] is None else f"{row['effect']:.4g}"
        click.echo(f"  improvement {effect} [{ends[0]}, {ends[1]}], margin {row['margin']:g}")
        click.echo(
            f"  at this scale: {row['scale']}" + (f"; the paper: {row['paper_scale']}" if row["paper_scale"] else "")
        )
