"""``regimes atlas``: rows of the field's catalogue that the package covers, with their evidence."""

from __future__ import annotations

from typing import Any

import click

from regimes import atlas
from regimes.cli import common

_SIGNS = {"shown": "▲", "contradicted": "▼", "inconclusive": "?", None: "-"}


@common.command("atlas", "regimes atlas --axis order")
@click.option("--axis", help="Only rows of this axis of the catalogue.")
@common.as_json
def command(axis: str | None, as_json: bool) -> None:
    """List what the literature proposes and the package covers, with evidence.

    Exact: tests of the mathematics. Property: checks of the conformance suite. Claims: small studies, re-tested by
    `regimes verify --record`; each verdict with the scale at which it was found.
    """
    found = [row for row in atlas.rows() if axis is None or row["axis"] == axis]
    if axis is not None and not found:
        from regimes.core.errors import DeclarationError, nearest

        axes = sorted({row["axis"] for row in atlas.rows()})
        raise DeclarationError(f"got '{axis}'; {nearest(axis, axes)}", "--axis")
    if as_json:
        common.print_json(found)
        return
    for row in found:
        _print(row)
    claims = [claim for row in found for claim in row["evidence"]["claims"]]
    click.echo(f"{len(found)} rows, {len(claims)} claims; one's card: regimes show NAME", err=True)


def _print(row: dict[str, Any]) -> None:
    evidence = row["evidence"]
    click.echo(f"{row['id']}  ({row['axis']})  {row['title']}")
    counts = f"{evidence['exact']} exact, {evidence['property']} property"
    click.echo(f"    {', '.join(row['components'])}; {counts}")
    for claim in evidence["claims"]:
        said = claim["verdict"] or "not yet re-tested"
        if claim["verdict"]:
            low, high = (f"{value:+.3g}" if value is not None else "unknown" for value in (claim["low"], claim["high"]))
            said += f" [{low}, {high}] at {claim['scale']}" + (
                f"; the paper: {claim['paper_scale']}" * bool(claim["paper_scale"])
            )
        stale = " (stale: the code has changed since)" if claim["stale"] else ""
        click.echo(f"    {_SIGNS[claim['verdict']]} {claim['text']} {said}{stale}")
