"""``regimes fork``: go on from a step of a run under edits, in a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("fork", "regimes fork runs/base --at 40000 --set optimizer.lr.peak=1e-4")
@click.argument("run")
@click.option(
    "--at", type=click.IntRange(min=0), required=True, metavar="STEP", help="Steps that the child has behind it."
)
@common.edits
@click.option("--seed", type=click.IntRange(min=0), help="Of data order, dropout and noise from there on.")
@click.option("--out", metavar="DIR", help="The child's folder. [default: beside the parent's]")
@common.progress
@common.as_json
def command(
    run: str,
    at: int,
    edits: tuple[str, ...],
    seed: int | None,
    out: str | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Go on from a step of a run under edits, in a folder of its own.

    The child begins with the state of RUN after STEP steps: to the bit where nothing is edited. What changes there is
    printed before it is trained. Without a checkpoint of that step, RUN is trained again from the nearest earlier one;
    its folder is only read.
    """
    from regimes.study import branches
    from regimes.study.edits import regime_with

    place = Place(run, out)
    stored = place.stored()
    with common.given_as(at=at, out=out):
        branch = branches.branch_at(stored, at, regime_with(stored.regime, edits), place.out, seed)
    place.train(branch, progress, as_json)


class Place:
    """Where a run lies, and what is made of it: found before this process goes to the directory it was started in."""

    def __init__(self, run: str, out: str | None) -> None:
        from regimes.cli.resume import declared_in, go_to

        home = Path.cwd()
        self.run, self.out = Path(run), None if out is None else Path(out)
        directory = declared_in(self.run, run)["directory"]
        if not os.path.isdir(directory) or not os.path.samefile(directory, home):
            self.run, self.out = home / self.run, None if self.out is None else home / self.out
            go_to(directory)

    def stored(self) -> Any:
        """Open the run."""
        from regimes.study.stored import opened

        return opened(self.run)

    def train(self, branch: Any, progress: bool | None, as_json: bool) -> None:
        """Say what changes, train the child, and report."""
        from regimes.cli.run import report
        from regimes.engine import distributed

        if not as_json and distributed.join().first:
            seed = None if branch.seed == branch.stored.seed else branch.seed
            for line in told(branch.changes, str(branch.stored.path), str(branch.folder), seed):
                click.echo(line)
        before = (branch.folder / "result.json").exists()
        with common.shown_by(str(branch.folder)):
            result = branch.train(progress=progress)
        report(result, finished_before=before, as_json=as_json)


def told(changes: dict[str, Any], parent: str, child: str, seed: int | None = None) -> list[str]:
    """Return the lines that say what a fork changes; `seed` is the child's own, where it has another one."""
    begun, at = changes["trained_again"]
    how = "from its checkpoint there" if begun == at else f"trained again from step {begun}"
    lines = [f"fork of {parent} at step {at}, {how}, in {child}"]
    lines += [f"  {row['path']}: {_value(row['old'])} -> {_value(row['new'])}" for row in changes["edits"]]
    if not changes["edits"]:
        lines.append("  nothing is edited" + (": it goes on as its parent does" if seed is None else ""))
    if seed is not None:
        lines.append(f"  seed {seed}: order, masks and draws are others from here on")
    if changes["knobs"]:
        rows = [f"{row['path']} {_value(row['before'])} -> {_value(row['after'])}" for row in changes["knobs"]]
        lines.append(f"  at step {at}: {', '.join(rows)}")
    horizon = changes["horizon"]
    if horizon["before"] != horizon["after"]:
        lines.append(f"  horizon: {horizon['before']} -> {horizon['after']}")
    lines.append(f"  carried: {', '.join(changes['carried'])}")
    lines += [f"  {word}: {', '.join(changes[key])}" for key, word in _LOST.items() if changes[key]]
    return lines


_LOST = {"reset": "begins anew", "dropped": "dropped"}


def _value(value: Any) -> str:
    if value is None:
        return "(nothing)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
