"""``regimes run``: train what a file declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("run", "regimes run base.yaml --seed 1 --set optimizer.lr.peak=3e-4 --out runs/base")
@click.argument("file")
@click.option("--out", metavar="DIR", help="The run's folder. [default: runs/FILE-seedN]")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the file's seed.")
@common.edits
@click.option("--validate", metavar="DURATION", help="Cadence of validation for curves, for example 5%.")
@click.option("--probe", "probes", multiple=True, metavar="NAME", help="Observe, for example GradientNorm. Repeatable.")
@click.option(
    "--reduce",
    type=click.Choice(["tree", "all_reduce"]),
    help="How processes started by torchrun add gradients: to the bit as one does, or faster. [default: tree]",
)
@common.track
@common.progress
@common.as_json
def command(
    file: str,
    out: str | None,
    seed: int | None,
    edits: tuple[str, ...],
    validate: str | None,
    probes: tuple[str, ...],
    reduce: str | None,
    track: tuple[str, ...],
    progress: bool | None,
    as_json: bool,
) -> None:
    """Train what a file declares, in a folder.

    Stopped or killed at any moment, `regimes resume DIR` (or the same command again) continues it and ends in the
    same bits. A finished run is not trained again. Several processes train it together, in the same bits as one, by
    `torchrun --nproc-per-node 4 -m regimes run FILE`.
    """
    from regimes.core.errors import DeclarationError
    from regimes.engine import api
    from regimes.study import files

    found = files.read(file, edits)
    if isinstance(found, files.CompareFile):
        raise DeclarationError(f"{file} declares a comparison; run it with: regimes compare {file}")
    seed = found.seed if seed is None else seed
    options = dict(found.options)
    if validate is not None:
        options["validate"] = validate
    if reduce is not None:
        options["reduce"] = reduce
    if probes:
        options["probes"] = [_probe(text) for text in probes]
    folder = Path(out) if out is not None else Path("runs") / f"{found.path.stem}-seed{seed}"
    before = (folder / "result.json").exists()
    with (
        common.shown_by(folder),
        common.given_as(validate=validate, out=folder, track=track or None),
        found.located("regime"),
    ):
        result = api.run(
            found.workload, found.regime, seed, out=folder, progress=progress,
            workload_spec=found.workload_spec, track=track, **options,
        )  # fmt: skip
    report(result, finished_before=before, as_json=as_json)


def _probe(text: str) -> Any:
    from regimes.core.errors import DeclarationError
    from regimes.core.kinds import Probe
    from regimes.core.notation import parse

    try:
        made = parse(text, ("probe",))
    except DeclarationError as why:
        raise why.within("--probe") from None
    if not isinstance(made, Probe):
        raise DeclarationError(f"got '{text}'; allowed: a probe, for example GradientNorm", "--probe")
    return made


def report(result: Any, *, finished_before: bool, as_json: bool) -> None:
    """Print what came of a run; one of several processes speaks for all."""
    from regimes.engine import distributed

    if not distributed.join().first:
        return
    if as_json:
        common.print_json(
            {
                "folder": str(result.folder),
                "workload": result.workload.name,
                "seed": result.seed,
                "steps": result.steps,
                "seconds": result.seconds,
                "metrics": result.metrics,
                "weights": result.weights,
                "work": result.work.state(),
                "notes": result.notes,
                "finished_before": finished_before,
            }
        )
        return
    how = "finished before, not trained again" if finished_before else f"{result.seconds:.1f} s"
    click.echo(f"{result.workload.name}, seed {result.seed}: {result.steps} steps, {how}")
    click.echo(f"  {common.numbers(result.metrics)}  ({result.weights} weights)")
    for note in result.notes:
        click.echo(f"  note: {note}")
    for text in common.advice(result.metrics):
        click.echo(f"  advice: {text}")
    click.echo(f"  {result.folder}")
