"""``regimes list``: components by kind, from the index, without importing them."""

from __future__ import annotations

from typing import Any

import click

from regimes import atlas
from regimes.cli import common

LISTED = (*atlas.KINDS, *atlas.BESIDE)


class Kind(click.ParamType):
    """A plug-in kind, singular or plural."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the kind, or fail with the nearest."""
        singular = {"losses": "loss", "classes": "class"}.get(
            value, value if value in LISTED else value.removesuffix("s")
        )
        if singular not in LISTED:
            from regimes.core.errors import nearest

            self.fail(f"there is no kind '{value}'; {nearest(value, LISTED)}", param, ctx)
        return singular


@common.command("list", "regimes list optimizer --axis rates")
@click.argument("kind", type=Kind(), required=False)
@click.option("--axis", type=click.Choice(atlas.AXES), help="Only what acts on this axis.")
@click.option("--all", "everything", is_flag=True, help="The atlas, too, and other packages' components.")
@common.as_json
def command(kind: str | None, axis: str | None, everything: bool, as_json: bool) -> None:
    """List components and workloads by kind.

    KIND is schedule, controller, optimizer, estimator, averager, grad_transform, sampler, augment, loss, selector,
    model_transform, weights, probe, function, class or workload.
    """
    kinds = LISTED if kind is None else (kind,)
    chosen = _chosen(kinds, axis, everything)
    others = _third_party() if everything and axis is None and kind is None else []
    if as_json:
        common.print_json(chosen + others)
        return
    width = max((len(entry["name"]) for entry in chosen), default=0)
    for name in kinds:
        rows = [entry for entry in chosen if entry["kind"] == name]
        if rows:
            click.echo(f"{name}:")
        for entry in rows:
            click.echo(f"  {entry['name']:{width}s}  {entry['title']}")
    if others:
        click.echo("from other packages:")
    for entry in others:
        click.echo(f"  {entry['name']}  {entry['module']}")
    if not chosen:
        click.echo("none", err=True)
    more = 0 if everything else len(_chosen(kinds, axis, everything=True)) - len(chosen)
    click.echo(f"{f'{more} more with --all; ' if more else ''}one's card: regimes show NAME", err=True)


def _chosen(kinds: Any, axis: str | None, everything: bool) -> list[dict[str, Any]]:
    return [
        entry
        for entry in atlas.entries()
        if entry["kind"] in kinds
        and (axis is None or axis in entry["axes"])
        and (everything or entry["shelf"] == "core")
    ]


def _third_party() -> list[dict[str, str]]:
    from importlib.metadata import entry_points

    return [{"name": point.name, "module": point.value} for point in entry_points(group="regimes.components")]
