"""``regimes demo``: a real comparison on a small GPT."""

from __future__ import annotations

import click

from regimes.cli import common


@common.command("demo", "regimes demo --workers 2")
@click.option("--out", metavar="DIR", default="runs/demo", show_default=True, help="The study's folder.")
@click.option("--workers", type=click.IntRange(min=1), help="Runs side by side. [default: the number of cores]")
@click.option("--seeds", type=int, default=8, show_default=True, help="Paired seeds.")
@common.progress
@common.as_json
def command(out: str, workers: int | None, seeds: int, progress: bool | None, as_json: bool) -> None:
    """Compare four ways to train a small GPT, and report.

    Real text, equal budgets, equal tuning, paired seeds; a few minutes on two cores. Run again, it computes only what
    is missing.
    """
    from regimes.study import spawning

    spawning.prepare(workers)
    from regimes.recipes import demo

    before = common.facts_before(out)
    with common.continued_by("regimes demo"), common.given_as(seeds=seeds, out=out):
        study = demo.main(out, seeds=seeds, workers=workers, progress=progress)
    page = common.page_of(study, before)
    if as_json:
        common.print_json(study.to_dict() | {"report": str(page)})
        return
    click.echo(str(study))
    click.echo(f"Report: {page}")
